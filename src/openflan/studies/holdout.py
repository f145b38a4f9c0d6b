"""Figure 5: what tuning on the other clusters did on clusters never seen, beside baselines and a ceiling."""

from openflan.studies.settings import StudySettings
from openflan.studies.study import Compared, Plan, Study, baselines


def plan(settings: StudySettings) -> Plan:
    """One model for each split, replicated; the mean over all clusters is one more place."""
    series, readings = baselines(settings, settings.splits)
    return Plan(series, readings, [Compared("tuned", "untuned"), Compared("tuned", "untuned_completion")])


STUDY = Study(
    name="holdout",
    figure=5,
    title="Zero-shot on clusters never seen",
    question="Does instruction tuning on other clusters help on a cluster the model has never seen?",
    axis="cluster held out",
    kind="clusters",
    grids=("splits",),
    plan=plan,
)
