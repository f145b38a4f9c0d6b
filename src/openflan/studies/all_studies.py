"""The studies by name, in the order of the paper's figures; last what the paper did not ask."""

from openflan.studies import breadth, clusters, holdout, instructions, prompt_tuning, scale, shots, templates
from openflan.studies.settings import StudySettings
from openflan.studies.study import Study

STUDIES: dict[str, Study] = {
    one.name: one
    for one in (
        holdout.STUDY,
        clusters.STUDY,
        scale.STUDY,
        instructions.STUDY,
        shots.STUDY,
        prompt_tuning.STUDY,
        breadth.STUDY,
        templates.STUDY,
    )
}


def possible(settings: StudySettings) -> list[Study]:
    """The studies that the settings have models for."""
    return [study for study in STUDIES.values() if study is not scale.STUDY or settings.ladder]
