"""What the arms are called, what they mean, and how they look: the same in every figure, table and page."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from openflan.evaluation.samples import GENERATED, without_shots


@dataclass(frozen=True, slots=True)
class ArmStyle:
    """One arm's face. Colours differ in lightness and shapes differ too, so no reader needs colour vision."""

    title: str
    meaning: str
    colour: str
    marker: str
    seen: bool = False
    """Whether it was tuned on rows of the task it is asked, so that it is no zero-shot result; its title says so."""
    shots: int = 0
    """Exemplars it is asked with, where its name says so; such arms are drawn hollow."""


ACCENT = "#b4530a"
_MATCHED = "it wrote answers, which were matched to the options"

ARMS: dict[str, ArmStyle] = {
    "model": ArmStyle("Model", "the model as it was given, asked through instructions", "#8d867d", "o"),
    "model_completion": ArmStyle(
        "Model, own style",
        "the model as it was given, asked as if it only continued text",
        "#3d6a91",
        "D",
    ),
    "untuned": ArmStyle("Untuned", "the base model, given the same instructions", "#8d867d", "o"),
    "untuned_completion": ArmStyle(
        "Untuned, own style", "the base model, asked as one asks a model that only continues text", "#3d6a91", "D"
    ),
    "tuned": ArmStyle("Instruction-tuned", "tuned on instructions for the other clusters (FLAN)", ACCENT, "o"),
    "few_shot": ArmStyle("Instruction-tuned, few-shot", "the tuned model, shown exemplars from train", "#c98a00", "^"),
    "no_template": ArmStyle("Tuned, no template", "tuned on the same rows without instructions", "#00806a", "s"),
    "no_template_options": ArmStyle(
        "Tuned, options only", "tuned on the same rows with the list of options, without instructions", "#5aa393", "s"
    ),
    "no_options": ArmStyle("Tuned, no options", "tuned on instructions without the list of options", "#d98a4f", "o"),
    "dataset_name": ArmStyle(
        "Tuned, dataset name", "tuned with the name of the dataset in place of instructions", "#8f4a8b", "v"
    ),
    "soft_prompt": ArmStyle(
        "Soft prompt (seen)",
        "the tuned model behind a prompt learned on the evaluated task's own train rows: not zero-shot",
        "#2f9ac4",
        "P",
        seen=True,
    ),
    "untuned_soft_prompt": ArmStyle(
        "Untuned, soft prompt (seen)",
        "the base model behind a prompt learned on the evaluated task's own train rows: not zero-shot",
        "#6f7f2a",
        "<",
        seen=True,
    ),
    "supervised": ArmStyle(
        "Supervised (seen)", "tuned on the evaluated task's own train rows: not zero-shot", "#4b4640", "X", seen=True
    ),
}

_OTHERS = (("#2f9ac4", "P"), ("#4b4640", "X"), ("#00806a", "s"), ("#8f4a8b", "v"), ("#c98a00", "^"))


def style(arm: str) -> ArmStyle:
    """The face of an arm; arms of unknown name (a remote model, a user's own) get a stable one of the others."""
    if arm in ARMS:
        return ARMS[arm]
    base, shots = without_shots(arm)
    if shots:
        face, asked = style(base), f"{shots} exemplar{'' if shots == 1 else 's'}"
        meaning = f"{face.meaning}; shown {asked}, or as many as fit".removeprefix("; ")
        return replace(face, title=f"{face.title}, {asked}", meaning=meaning, shots=shots)
    if arm.endswith(GENERATED):
        face = style(arm.removesuffix(GENERATED))
        return replace(face, title=f"{face.title}, generated", meaning=f"{face.meaning}; not ranked: {_MATCHED}")
    colour, marker = _OTHERS[sum(arm.encode()) % len(_OTHERS)]
    if arm.startswith("remote:"):
        return ArmStyle(arm.removeprefix("remote:"), "a model behind a remote endpoint", colour, marker)
    return ArmStyle(arm.replace("_", " ").capitalize(), "", colour, marker)


def in_order(arms: Iterable[str]) -> list[str]:
    """Arms in reading order: baselines, tuned, variants, others by name; each with fewer exemplars first."""
    known = list(ARMS)

    def place(arm: str) -> tuple[int, str, int]:
        base, shots = without_shots(arm)
        return (known.index(base) if base in known else len(known), base, shots)

    return sorted(set(arms), key=place)


def exemplars_words(arm: str, shown: float | None) -> str:
    """How many exemplars an arm's prompts had: `3`, or `2.4 of 3` where on average no more fitted; `0` for most.

    >>> exemplars_words("tuned@3", 2.41), exemplars_words("tuned@3", 3.0), exemplars_words("tuned", None)
    ('2.4 of 3', '3', '0')
    """
    asked = style(arm).shots
    if asked and shown is not None and shown < asked:
        return f"{shown:.1f} of {asked}"
    return str(asked) if asked else f"{shown or 0:.3g}"


CLUSTERS: dict[str, str] = {
    "nli": "natural language inference",
    "commonsense": "commonsense",
    "closed_book_qa": "closed-book QA",
    "reading_comprehension": "reading comprehension",
    "reading_comprehension_commonsense": "reading comprehension with commonsense",
    "struct_to_text": "struct to text",
}


def cluster_words(cluster: str) -> str:
    """A cluster's name as a reader says it."""
    return CLUSTERS.get(cluster, cluster.replace("_", " "))
