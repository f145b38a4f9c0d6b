"""The README.md of an export: a data card with front matter, what the files hold, and how they are read.

Takes counts, gives Markdown.
"""

import json
from collections.abc import Mapping

from openflan.encoding.prompt_format import PromptFormat

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)

USES: Mapping[str, str] = {
    "parquet": """\
One row for each example: `inputs` (exemplars in front, if there are any), `targets`, and where they come from. `gold`
holds the indices of the right `options`; tasks that are written rather than chosen have `references` instead.

```python
from datasets import load_dataset
data = load_dataset("parquet", data_files="data/*.parquet")
```""",
    "messages": """\
One chat for each example, as OpenAI fine-tuning, TRL, axolotl and LLaMA-Factory read it. Train on the assistant's turn
only. A server that refuses unknown keys wants the `flan` object out: `jq -c 'del(.flan)' train.jsonl`.""",
    "prompt-completion": """\
TRL's `prompt` and `completion`, joined as they are: the separator is part of the prompt, save for spaces that end it,
which are part of the completion. The trainer adds the end token. The loss is on the completion.""",
    "segments": """\
axolotl's template-free format: the loss is on segments with `label: true` only. The end token is not in the text, since
it is the tokenizer's own: set it in the trainer, or append it to the last segment.""",
    "lm-eval": """\
One task file for each (task, template) pair beside its rendered rows. The harness is started in this folder:

```
lm_eval --model hf --model_args pretrained=MODEL --include_path . --tasks openflan
```

Tags: `openflan` (all), `openflan_CLUSTER`, `openflan_TASK`. Options are ranked by `acc` (summed log-probability, the
paper's rule). Tasks that are written rather than chosen are scored by exact match here, whatever their metric is.""",
}


def data_card(
    format: str,
    tasks: Mapping[str, int],
    splits: Mapping[str, int],
    left_out: Mapping[str, int],
    cluster_of: Mapping[str, str],
    prompt_format: PromptFormat,
) -> str:
    """The card's Markdown; it depends on nothing but its arguments."""
    rows = "\n".join(f"| {task} | {cluster_of[task]} | {number:,} |" for task, number in sorted(tasks.items()))
    examples = sum(tasks.values())
    by_split = ", ".join(f"{number:,} {split}" for split, number in sorted(splits.items()))
    dropped = "".join(f"\nLeft out: {number:,} examples ({reason}).\n" for reason, number in sorted(left_out.items()))
    return f"""\
---
{_front_matter(format, splits, examples)}
---

# Instructions, rendered by openflan

{examples:,} examples of {len(tasks):,} tasks ({by_split}), phrased as natural-language instructions after FLAN
(Wei et al. 2022). The texts come from the tasks' own datasets, whose licences apply.

{USES[format]}

Separator between inputs and targets: `{json.dumps(prompt_format.separator)}`; after an exemplar:
`{json.dumps(prompt_format.exemplar_separator)}`.
{dropped}
| task | cluster | examples |
| --- | --- | ---: |
{rows}
"""


def _front_matter(format: str, splits: Mapping[str, int], examples: int) -> str:
    size = next((name for most, name in SIZES if examples < most), "n>10M")
    lines = ["license: other", "task_categories: [text-generation]", "tags: [openflan, flan, instruction-tuning]"]
    lines += [f"size_categories: [{json.dumps(size)}]"]
    if format != "lm-eval":
        path = "data/{}-*.parquet" if format == "parquet" else "{}.jsonl"
        files = [f"  - {{split: {split}, path: {json.dumps(path.format(split))}}}" for split in sorted(splits)]
        lines += ["configs:", "- config_name: default", "  data_files:", *files]
    return "\n".join(lines)
