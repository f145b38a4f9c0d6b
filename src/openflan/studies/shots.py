"""Figure 9: exemplars in front of the instruction, for the untuned model, FLAN, and FLAN tuned on mixed prompts too."""

from openflan.studies.settings import StudySettings
from openflan.studies.study import ALL, Compared, Plan, Reading, Study, System

MIXED = "mixed"
TITLES = {"untuned": "untuned", "tuned": "instruction-tuned", MIXED: "tuned with exemplars in a part of its prompts"}


def plan(settings: StudySettings) -> Plan:
    """Each system without exemplars and with each number of them."""
    numbers = (0, *settings.shots)
    readings: list[Reading] = []
    for split in settings.splits:
        for replicate in settings.replicates:
            for name in TITLES:
                for shots in numbers:
                    arm = "untuned" if name == "untuned" else "tuned"
                    changes = {"mixture": {"shots": mixed(settings)}} if name == MIXED else {}
                    recipe = settings.recipe_of(replicate, arm, split, evaluation={"shots": [shots]}, **changes)
                    system = System(recipe, arm)
                    for cluster in split:
                        places = (cluster, ALL)
                        readings += [Reading(series(name, shots), p, replicate, cluster, system) for p in places]
    most = max(numbers)
    compared = tuple(Compared(series(name, most), series(name, 0)) for name in TITLES)
    return Plan(tuple(readings), compared)


def series(name: str, shots: int) -> str:
    """A system's series with so many exemplars."""
    return f"{name}@{shots}"


def mixed(settings: StudySettings) -> dict[str, float]:
    """Half of the tuning prompts without exemplars, the rest spread evenly over the numbers that are asked."""
    return {"0": 0.5} | {str(shots): 0.5 / len(settings.shots) for shots in settings.shots}


def titles(settings: StudySettings) -> dict[str, str]:
    """The series' words, by name."""
    return {
        series(name, shots): f"{words}, {shots or 'no'} exemplar{'' if shots == 1 else 's'}"
        for name, words in TITLES.items()
        for shots in (0, *settings.shots)
    }


STUDY = Study(
    name="shots",
    figure=9,
    title="Exemplars in front",
    question="Do exemplars help beside instructions?",
    axis="cluster held out",
    kind="clusters",
    plan=plan,
    series=titles,
)
