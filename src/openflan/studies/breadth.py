"""Figure 11: how many datasets of each cluster, and how many templates of each dataset, are tuned on."""

from openflan.studies.settings import StudySettings
from openflan.studies.study import Compared, Plan, Reading, Study, System, baselines, readings_at


def plan(settings: StudySettings) -> Plan:
    """Every number of datasets with every number of templates."""
    series: dict[str, str] = {}
    readings: list[Reading] = []
    for templates in settings.templates_per_task:
        series[_series(templates)] = f"{templates} template{'' if templates == 1 else 's'} a dataset"
        for datasets in settings.tasks_per_cluster:
            mixture = {"tasks_per_cluster": datasets, "templates_per_task": templates}
            for replicate in settings.replicates:
                system = System(settings.recipe_of(replicate, "tuned", settings.together, mixture=mixture))
                readings += readings_at(_series(templates), datasets, replicate, system)
    few, many = _series(min(settings.templates_per_task)), _series(max(settings.templates_per_task))
    others, beside = baselines(settings, [settings.together], besides=("tuned",), places=settings.tasks_per_cluster)
    compared = [Compared(many, few), Compared(many, many, against=min(settings.tasks_per_cluster))]
    return Plan(series | others, [*readings, *beside], compared)


def _series(templates: int) -> str:
    return f"{templates} templates"


STUDY = Study(
    name="breadth",
    figure=11,
    title="Datasets and templates",
    question="Do more datasets in a cluster, or more templates for a dataset, help?",
    axis="datasets of each cluster",
    kind="numbers",
    grids=("together", "tasks_per_cluster", "templates_per_task"),
    plan=plan,
)
