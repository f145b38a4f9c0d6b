"""Figure 5: what tuning on the other clusters did on clusters never seen, beside baselines and a ceiling."""

from openflan.studies.settings import StudySettings
from openflan.studies.study import ALL, Compared, Plan, Reading, Study, System

ARMS = ("untuned", "untuned_completion", "tuned", "supervised")


def plan(settings: StudySettings) -> Plan:
    """One model for each split, replicated; the mean over all clusters is one more place."""
    readings: list[Reading] = []
    for split in settings.splits:
        for replicate in settings.replicates:
            for arm in ARMS:
                system = System(settings.recipe_of(replicate, arm, split), arm)
                for cluster in split:
                    readings += [Reading(arm, place, replicate, cluster, system) for place in (cluster, ALL)]
    return Plan(tuple(readings), (Compared("tuned", "untuned"), Compared("tuned", "untuned_completion")))


TITLES = {
    "untuned": "untuned",
    "untuned_completion": "untuned, asked in its own style",
    "tuned": "instruction-tuned",
    "supervised": "tuned on the task itself",
}


def titles(settings: StudySettings) -> dict[str, str]:
    """The series' words, by name."""
    del settings
    return TITLES


STUDY = Study(
    name="holdout",
    figure=5,
    title="Zero-shot on clusters never seen",
    question="Does instruction tuning on other clusters help on a cluster the model has never seen?",
    axis="cluster held out",
    kind="clusters",
    plan=plan,
    series=titles,
)
