"""Made-up tasks and samples."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from openflan.artifacts import write_json, write_text
from openflan.catalog.task import Task
from openflan.evaluation.evaluate import evaluate
from openflan.evaluation.metrics import metric, ranked
from openflan.evaluation.samples import SAMPLE_SCHEMA, write_samples

YES_NO = ("yes", "no")


def made_task(
    name: str,
    *,
    cluster: str = "nli",
    metrics: Sequence[str] = ("accuracy",),
    templates: Sequence[str] = ("a", "b", "c"),
) -> Task:
    generated = not any(metric(one).needs_options for one in metrics)
    return Task.model_validate(
        {
            "name": name,
            "title": name,
            "clusters": (cluster,),
            "licence": "none",
            "cite": "none",
            "form": "generation" if generated else "classification",
            "metrics": tuple(metrics),
            "source": {"hub": "none"},
            "columns": {"x": "x"},
            "answer": {"text": "x"} if generated else {"options": YES_NO, "gold": "x"},
            "template": [{"id": template, "inputs": "x"} for template in templates],
        }
    )


def sample(**fields: Any) -> dict[str, Any]:
    """A sample row; a ranked one is right or wrong by `value`, unless its log-probabilities say otherwise."""
    row: dict[str, Any] = {
        "arm": "tuned", "task": "t", "cluster": "nli", "split": "test", "row_id": "0", "template": "a", "shots": 0,
        "options": list(YES_NO), "gold": [0], "tokens": [1, 1], "reason": "", "prompt_sha": "", "value": 1.0,
    }  # fmt: skip
    row |= fields
    row.setdefault("group", row["row_id"])
    if row["options"]:
        right = row["value"] == 1.0
        row.setdefault("predicted", next(i for i in range(len(row["options"])) if (i in row["gold"]) == right))
        row.setdefault("logprobs", [-1.0 if i == row["predicted"] else -2.0 for i in range(len(row["options"]))])
        row.setdefault("references", list(ranked(row["options"], row["gold"], 0).references))
        if "prediction" not in row:
            row["prediction"] = row["options"][row["predicted"]]
    return row


def frame(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SAMPLE_SCHEMA)


def grid(
    value: Callable[[str, str, int, str], float],
    *,
    arms: Sequence[str] = ("untuned", "tuned"),
    tasks: Sequence[Task],
    items: int = 60,
    dev: int = 20,
    templates: Sequence[str] = ("a", "b", "c"),
) -> pl.DataFrame:
    """Every arm on every item through every template; `value(arm, task, item, template)` is 0 or 1."""
    return frame([
        sample(
            arm=arm, task=task.name, cluster=task.clusters[0], split=split, row_id=f"{split}/{item}", template=template,
            gold=[item % 2], value=float(value(arm, task.name, item, template)),
        )
        for arm in arms for task in tasks for split, number in (("dev", dev), ("test", items))
        for item in range(number) for template in templates
    ])  # fmt: skip


def write_run(folder: Path, samples: pl.DataFrame, tasks: Mapping[str, Task], *, model: str = "made-up") -> Path:
    """The part of a run folder that a comparison reads."""
    write_samples(samples, folder / "samples.parquet")
    result = evaluate(samples, tasks=tasks, held_out=["nli"], seed=0, resamples=100)
    result.write(folder / "result.json")
    write_text(folder / "recipe.toml", f'model = "{model}"\nseed = 0\nhold_out = ["nli"]\ndata_root = "elsewhere"\n')
    write_json(folder / "env.json", {"packages": {"torch": "2.13.0"}})
    return folder
