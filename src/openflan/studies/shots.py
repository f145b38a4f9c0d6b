"""Figure 9: exemplars in front of the instruction, for the untuned model, FLAN, and FLAN tuned on mixed prompts too."""

from openflan.evaluation.samples import SHOTS_MARK
from openflan.studies.settings import StudySettings
from openflan.studies.study import Compared, Plan, Reading, Study, System, baselines, readings_by_cluster

MIXED = "mixed"
TITLES = {"untuned": "untuned", "tuned": "instruction-tuned", MIXED: "tuned with exemplars in a part of its prompts"}


def plan(settings: StudySettings) -> Plan:
    """Each system without exemplars and with each number of them."""
    numbers = (0, *settings.shots)
    series: dict[str, str] = {}
    readings: list[Reading] = []
    for name, words in TITLES.items():
        arm = "untuned" if name == "untuned" else "tuned"
        changes = {"mixture": {"shots": mixed(settings)}} if name == MIXED else {}
        for shots in numbers:
            series[_series(name, shots)] = f"{words}, {shots or 'no'} exemplar{'' if shots == 1 else 's'}"
            for split in settings.splits:
                for replicate in settings.replicates:
                    recipe = settings.recipe_of(replicate, arm, split, evaluation={"shots": [shots]}, **changes)
                    readings += readings_by_cluster(_series(name, shots), replicate, System(recipe))
    others, beside = baselines(settings, settings.splits, besides=TITLES)
    most = max(numbers)
    compared = [Compared(_series(name, most), _series(name, 0)) for name in ("tuned", MIXED, "untuned")]
    # What the paper's figure shows: a model tuned for exemplars and asked with them, beside one that never met any.
    compared.append(Compared(_series(MIXED, most), _series("tuned", 0)))
    return Plan(series | others, [*readings, *beside], compared)


def mixed(settings: StudySettings) -> dict[str, float]:
    """Half of the tuning prompts without exemplars, the rest spread evenly over the numbers that are asked."""
    return {"0": 0.5} | {str(shots): 0.5 / len(settings.shots) for shots in settings.shots}


def _series(name: str, shots: int) -> str:
    return f"{name}{SHOTS_MARK}{shots}"


STUDY = Study(
    name="shots",
    figure=9,
    title="Exemplars in front",
    question="Do exemplars help beside instructions?",
    axis="cluster held out",
    kind="clusters",
    grids=("splits", "shots"),
    plan=plan,
)
