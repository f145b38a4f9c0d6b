"""One lm-eval task file for one (task, template) pair whose rows are already rendered.

Takes names and the prompt format, gives YAML. Each value is written as JSON, which YAML reads as it stands.
"""

import json
from typing import Any

from openflan.encoding.prompt_format import Lengths, PromptFormat

PREFIX = "openflan"


def task_yaml(
    name: str, task: str, cluster: str, prompt_format: PromptFormat, *, ranked: bool, several_gold: bool
) -> str:
    """The task file beside `<name>.jsonl`: options ranked by summed log-probability, or greedy text matched exactly.

    Rows are read from the working directory, so the harness is started in the folder of these files.
    """
    common: dict[str, Any] = {
        "task": f"{PREFIX}_{name}",
        "tag": [PREFIX, f"{PREFIX}_{cluster}", f"{PREFIX}_{task}"],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "doc_to_text": "inputs",
        "target_delimiter": prompt_format.separator,
        "fewshot_delimiter": prompt_format.exemplar_separator,
    }
    return _yaml(
        {**common, **(_ranked(several_gold) if ranked else _written(prompt_format)), "metadata": {"version": 1.0}}
    )


def _ranked(several_gold: bool) -> dict[str, Any]:
    return {
        "output_type": "multiple_choice",
        "doc_to_choice": "options",
        "doc_to_target": "gold" if several_gold else "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def _written(prompt_format: PromptFormat) -> dict[str, Any]:
    most = Lengths().targets
    return {
        "output_type": "generate_until",
        # The delimiter before a target is added to options only.
        "doc_to_text": f"{{{{ inputs ~ {json.dumps(prompt_format.separator, ensure_ascii=False)} }}}}",
        "doc_to_target": "references",
        "generation_kwargs": {"until": [prompt_format.exemplar_separator], "do_sample": False, "max_gen_toks": most},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }


def _yaml(values: dict[str, Any]) -> str:
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
