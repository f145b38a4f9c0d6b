"""Beyond the paper: does a model tuned on a task know the task, or the templates it was tuned with?

On held-out clusters every template is unseen. So the question is put to the supervised models, tuned on some templates
of the task itself and asked the same rows through those and through the others.
"""

from openflan.errors import ConfigError, Problem
from openflan.studies.rows import split_of
from openflan.studies.settings import StudySettings
from openflan.studies.study import Compared, Plan, Reading, Study, System, Templates

SERIES: dict[Templates, str] = {
    "seen": "asked through templates it was tuned with",
    "unseen": "asked through templates it never saw",
}
UNTUNED = {"untuned_seen": "untuned, through the first", "untuned_unseen": "untuned, through the second"}
"""The same templates asked of the untuned model: how far one half is easier than the other."""


def plan(settings: StudySettings) -> Plan:
    """One model for each task of the clusters held out together, tuned with each number of templates."""
    readings: list[Reading] = []
    for number in numbers(settings):
        for replicate in settings.replicates:
            # The seed draws the templates, so it is the untuned model's too.
            changes = {"mixture": {"templates_per_task": number}, "seed": replicate.seed}
            for arm, prefix in (("supervised", ""), ("untuned", "untuned_")):
                system = System(settings.recipe_of(replicate, arm, settings.together, **changes))
                for templates in SERIES:
                    for cluster in settings.together:
                        readings.append(Reading(prefix + templates, number, replicate, cluster, system, templates))
    return Plan(
        {**SERIES, **UNTUNED}, readings, [Compared("unseen", "seen"), Compared("untuned_unseen", "untuned_seen")]
    )


def numbers(settings: StudySettings) -> list[int]:
    """Numbers of templates that leave every task some it never saw. Raises ConfigError where none does."""
    evaluated = split_of(settings.recipe.changed(hold_out=list(settings.together))).evaluated
    most = min(len(task.of_kind("direct")) for task in evaluated) - 1
    found = [number for number in settings.templates_per_task if number <= most]
    if not found:
        where, what = "templates_per_task", f"every number is above {most}, which leaves a task no unseen template"
        raise ConfigError(Problem(where, what, "name a smaller one"))
    return found


STUDY = Study(
    name="templates",
    figure=None,
    title="Seen and unseen templates",
    question="Does a model tuned on a task know the task, or the templates it was tuned with?",
    axis="templates tuned with",
    kind="numbers",
    grids=("together", "templates_per_task"),
    plan=plan,
)
