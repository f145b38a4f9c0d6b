"""Figure 10: a soft prompt learned on the task, in front of the untuned model and in front of FLAN."""

from openflan.studies.settings import StudySettings
from openflan.studies.study import Compared, Plan, Reading, Study, System, baselines, readings_by_cluster

ARMS = {"untuned_soft_prompt": "untuned", "soft_prompt": "instruction-tuned"}
"""What a soft prompt stands in front of, in words."""


def plan(settings: StudySettings) -> Plan:
    """Both bases, with each number of rows to learn on. The tuned base never saw the task's cluster."""
    series: dict[str, str] = {}
    readings: list[Reading] = []
    for rows in settings.prompt_rows:
        for arm, words in ARMS.items():
            learned = "all rows" if rows is None else f"{rows} rows"
            series[_series(arm, rows)] = f"soft prompt on the {words} model, {learned}"
            for split in settings.splits:
                for replicate in settings.replicates:
                    recipe = settings.recipe_of(replicate, arm, split, soft_prompt={"rows": rows})
                    readings += readings_by_cluster(_series(arm, rows), replicate, System(recipe))
    others, beside = baselines(settings, settings.splits)
    compared = [
        Compared(_series("soft_prompt", rows), _series("untuned_soft_prompt", rows)) for rows in settings.prompt_rows
    ]
    without = {arm: f"{words}, no soft prompt" for arm, words in others.items()}
    return Plan(series | without, [*readings, *beside], compared)


def _series(arm: str, rows: int | None) -> str:
    return f"{arm}, {'all' if rows is None else rows}"


STUDY = Study(
    name="prompt_tuning",
    figure=10,
    title="Prompt tuning",
    question="Is a model tuned on instructions a better start for a soft prompt on a task it has not seen?",
    axis="cluster held out",
    kind="clusters",
    grids=("splits", "prompt_rows"),
    plan=plan,
)
