"""Figure 11: how many datasets of each cluster, and how many templates of each dataset, are tuned on."""

from openflan.studies.settings import StudySettings
from openflan.studies.study import Compared, Plan, Reading, Study, System


def plan(settings: StudySettings) -> Plan:
    """Every number of datasets with every number of templates."""
    readings: list[Reading] = []
    for replicate in settings.replicates:
        for templates in settings.templates_per_task:
            for datasets in settings.tasks_per_cluster:
                mixture = {"tasks_per_cluster": datasets, "templates_per_task": templates}
                system = System(settings.recipe_of(replicate, "tuned", settings.together, mixture=mixture), "tuned")
                readings += [
                    Reading(series(templates), datasets, replicate, cluster, system) for cluster in settings.together
                ]
    few, many = series(min(settings.templates_per_task)), series(max(settings.templates_per_task))
    fewest = min(settings.tasks_per_cluster)
    return Plan(tuple(readings), (Compared(many, few), Compared(many, many, against=fewest)))


def series(templates: int) -> str:
    """The series of so many templates."""
    return f"{templates} templates"


def titles(settings: StudySettings) -> dict[str, str]:
    """The series' words, by name."""
    return {series(n): f"{n} template{'' if n == 1 else 's'} a dataset" for n in settings.templates_per_task}


STUDY = Study(
    name="breadth",
    figure=11,
    title="Datasets and templates",
    question="Do more datasets in a cluster, or more templates for a dataset, help?",
    axis="datasets of each cluster",
    kind="numbers",
    plan=plan,
    series=titles,
)
