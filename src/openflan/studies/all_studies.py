"""The studies by name, in the order of the paper's figures."""

from openflan.studies import breadth, clusters, holdout, instructions, prompt_tuning, scale, shots
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
    )
}
