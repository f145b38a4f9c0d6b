"""Figure 5: what tuning on the other clusters did on clusters never seen, beside baselines and a ceiling."""

from openflan.studies.settings import StudySettings
from openflan.studies.study import BASELINES, Compared, Plan, Reading, Study, baselines


def plan(settings: StudySettings) -> Plan:
    """One model for each split, replicated; the mean over all clusters is one more place."""
    readings: list[Reading] = []
    for split in settings.splits:
        for replicate in settings.replicates:
            readings += baselines(settings, replicate, split)
    return Plan(BASELINES, readings, [Compared("tuned", "untuned"), Compared("tuned", "untuned_completion")])


STUDY = Study(
    name="holdout",
    figure=5,
    title="Zero-shot on clusters never seen",
    question="Does instruction tuning on other clusters help on a cluster the model has never seen?",
    axis="cluster held out",
    kind="clusters",
    plan=plan,
)
