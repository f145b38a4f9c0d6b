"""Figure 8: what the instructions do, apart from what the list of options does.

The paper's ablations take away the wording and the list of options together. Here they are crossed: with and without
each, all asked through natural instructions with the list; and the dataset's name, asked both ways, as in the paper.
"""

from openflan.studies.settings import StudySettings
from openflan.studies.study import Compared, Plan, Reading, Study, System, baselines, readings_by_cluster

ASKED: dict[str, tuple[str, str]] = {
    "untuned": ("untuned", "instructions"),
    "no_template": ("no_template", "instructions"),
    "no_template_options": ("no_template_options", "instructions"),
    "dataset_name": ("dataset_name", "instructions"),
    "dataset_name_tag": ("dataset_name", "dataset_name"),
    "no_options": ("no_options", "instructions"),
    "tuned": ("tuned", "instructions"),
}
"""Arm and the wording it is asked in, by series."""
SERIES = {
    "untuned": "untuned",
    "no_template": "tuned without instructions or options",
    "no_template_options": "tuned without instructions, with options",
    "dataset_name": "tuned with the dataset's name",
    "dataset_name_tag": "tuned and asked with the dataset's name",
    "no_options": "tuned with instructions, without options",
    "tuned": "tuned with instructions and options",
}


def plan(settings: StudySettings) -> Plan:
    """Every wording, in each replicate, on the clusters held out together."""
    readings: list[Reading] = []
    for replicate in settings.replicates:
        for series, (arm, wording) in ASKED.items():
            recipe = settings.recipe_of(replicate, arm, settings.together, evaluation={"wording": wording})
            readings += readings_by_cluster(series, replicate, System(recipe))
    others, beside = baselines(settings, [settings.together], besides=ASKED)
    compared = [Compared("tuned", other) for other in SERIES if other != "tuned"]
    compared.append(Compared("no_template_options", "no_template"))
    return Plan(SERIES | others, [*readings, *beside], compared)


STUDY = Study(
    name="instructions",
    figure=8,
    title="The role of instructions",
    question="Is it the instructions, or only seeing many tasks?",
    axis="cluster held out",
    kind="clusters",
    grids=("together",),
    plan=plan,
)
