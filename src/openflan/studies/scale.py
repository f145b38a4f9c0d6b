"""Figure 7: what instruction tuning did at each size of the base model."""

from openflan.errors import ConfigError
from openflan.evaluation.points import Replicate
from openflan.models.load import count_parameters
from openflan.studies.settings import StudySettings
from openflan.studies.study import Compared, Plan, Reading, Study, System

ARMS = ("untuned", "tuned")


def plan(settings: StudySettings) -> Plan:
    """Every rung of the ladder, its models being pretraining seeds of one size. Raises ConfigError without a ladder."""
    if not settings.ladder:
        raise ConfigError("the study `scale` needs a ladder of models: `ladder` in the settings, or --ladder")
    readings: list[Reading] = []
    for rung in settings.ladder:
        parameters = count_parameters(rung[0])
        for replicate in (Replicate(model, seed) for model in rung for seed in settings.seeds):
            for arm in ARMS:
                system = System(settings.recipe_of(replicate, arm, settings.together), arm)
                readings += [Reading(arm, parameters, replicate, cluster, system) for cluster in settings.together]
    return Plan(tuple(readings), (Compared("tuned", "untuned"),))


TITLES = {"untuned": "untuned", "tuned": "instruction-tuned"}


def titles(settings: StudySettings) -> dict[str, str]:
    """The series' words, by name."""
    del settings
    return TITLES


STUDY = Study(
    name="scale",
    figure=7,
    title="Size of the model",
    question="From what size on does instruction tuning help on clusters never seen?",
    axis="parameters",
    kind="numbers",
    plan=plan,
    series=titles,
)
