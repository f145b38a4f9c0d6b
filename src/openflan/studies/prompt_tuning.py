"""Figure 10: a soft prompt learned on the task, in front of the untuned model and in front of FLAN."""

from openflan.studies.settings import StudySettings
from openflan.studies.study import ALL, Compared, Plan, Reading, Study, System

ARMS = {"untuned_soft_prompt": "untuned", "soft_prompt": "instruction-tuned"}


def plan(settings: StudySettings) -> Plan:
    """Both bases, with each number of rows to learn on. The tuned base never saw the task's cluster."""
    readings: list[Reading] = []
    for split in settings.splits:
        for replicate in settings.replicates:
            for rows in settings.prompt_rows:
                for arm in ARMS:
                    recipe = settings.recipe_of(replicate, arm, split, soft_prompt={"rows": rows})
                    system = System(recipe, arm)
                    for cluster in split:
                        places = (cluster, ALL)
                        readings += [Reading(series(arm, rows), p, replicate, cluster, system) for p in places]
    compared = tuple(Compared(series("soft_prompt", n), series("untuned_soft_prompt", n)) for n in settings.prompt_rows)
    return Plan(tuple(readings), compared)


def series(arm: str, rows: int | None) -> str:
    """An arm's series with so many rows."""
    return f"{arm}, {'all' if rows is None else rows}"


def titles(settings: StudySettings) -> dict[str, str]:
    """The series' words, by name."""
    return {
        series(arm, n): f"soft prompt on the {words} model, {'all rows' if n is None else f'{n} rows'}"
        for n in settings.prompt_rows
        for arm, words in ARMS.items()
    }


STUDY = Study(
    name="prompt_tuning",
    figure=10,
    title="Prompt tuning",
    question="Is a model tuned on instructions a better start for a soft prompt on a task it has not seen?",
    axis="cluster held out",
    kind="clusters",
    plan=plan,
    series=titles,
)
