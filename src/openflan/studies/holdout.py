"""Figure 5: what tuning on the other clusters did on clusters never seen, beside baselines and a ceiling."""

from openflan.studies.settings import StudySettings
from openflan.studies.study import Compared, Plan, Reading, Study, System, readings_by_cluster

SERIES = {
    "untuned": "untuned",
    "untuned_completion": "untuned, asked in its own style",
    "tuned": "instruction-tuned",
    "supervised": "tuned on the task itself",
}
"""Words by arm."""


def plan(settings: StudySettings) -> Plan:
    """One model for each split, replicated; the mean over all clusters is one more place.

    The ceiling has a model for each task and is no party to a comparison: one tuning seed has to do.
    """
    readings: list[Reading] = []
    for split in settings.splits:
        for replicate in settings.replicates:
            arms = [arm for arm in SERIES if arm != "supervised" or replicate.seed == settings.seeds[0]]
            for arm in arms:
                readings += readings_by_cluster(arm, replicate, System(settings.recipe_of(replicate, arm, split)))
    return Plan(SERIES, readings, [Compared("tuned", "untuned"), Compared("tuned", "untuned_completion")])


STUDY = Study(
    name="holdout",
    figure=5,
    title="Zero-shot on clusters never seen",
    question="Does instruction tuning on other clusters help on a cluster the model has never seen?",
    axis="cluster held out",
    kind="clusters",
    plan=plan,
)
