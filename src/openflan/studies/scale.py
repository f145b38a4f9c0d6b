"""Figure 7: what instruction tuning did at each size of the base model."""

from openflan.errors import ConfigError
from openflan.evaluation.points import Replicate
from openflan.studies.settings import StudySettings
from openflan.studies.study import BASELINES, Compared, Plan, Reading, Study, baselines


def plan(settings: StudySettings) -> Plan:
    """Every rung of the ladder, its models being pretraining seeds of one size.

    Raises ConfigError without a ladder, and where two rungs have the same number of parameters.
    """
    from openflan.models.shape import model_shape

    if not settings.ladder:
        raise ConfigError("the study `scale` needs a ladder of models: `ladder` in a settings file, and no --model")
    readings: list[Reading] = []
    rungs = {model_shape(rung[0]).parameters: rung for rung in settings.ladder}
    if len(rungs) < len(settings.ladder):
        raise ConfigError("ladder: two rungs have as many parameters: models of one size belong into one list")
    for parameters, rung in rungs.items():
        replicates = [Replicate(model, seed) for model in rung for seed in settings.seeds]
        readings += baselines(settings, [settings.together], replicates=replicates, places=[parameters])[1]
    return Plan(BASELINES, readings, [Compared("tuned", "untuned")])


STUDY = Study(
    name="scale",
    figure=7,
    title="Size of the model",
    question="From what size on does instruction tuning help on clusters never seen?",
    axis="parameters",
    kind="numbers",
    grids=("together", "ladder"),
    plan=plan,
)
