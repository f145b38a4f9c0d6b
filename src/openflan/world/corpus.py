"""Pretraining text of the micro-world as files: what a corpus check reads where no other corpus is named.

The text is made by the generator that pretraining uses, stage by stage in the shares of `world:base`, from seeds of its
own: which texts that very model saw is not recorded (it was resumed once), and any seed stands for the endless stream.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from openflan.artifacts import fingerprint, write_text
from openflan.seeding import derive
from openflan.world.text import Stage, documents
from openflan.world.tokenizer import tokens

MODEL_TOKENS = 17_000_000
"""What world:base was pretrained on."""
DEFAULT_TOKENS = 2_000_000
PIECE_TOKENS = 100_000
"""Tokens of one file, about."""
VERSION = 1

STAGE_TOKENS: dict[Stage, int] = {
    "first": 250_000,
    "early": 350_000,
    "full": 8_000_000,
    "focus": 400_000,
    "refresh": 600_000,
    "late": 7_400_000,
}
"""How `MODEL_TOKENS` divide, by the settings of world:base; stages that it may have prolonged are given as planned."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of text."""

    stage: Stage
    number: int
    tokens: int
    """The file ends with the first text that reaches this number."""

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.number:03d}.jsonl"


def pieces(num_tokens: int) -> list[Piece]:
    """The files that hold `num_tokens` tokens, or a few more."""
    made: list[Piece] = []
    for stage, planned in STAGE_TOKENS.items():
        left = round(num_tokens * planned / MODEL_TOKENS)
        for number, start in enumerate(range(0, left, PIECE_TOKENS)):
            made.append(Piece(stage, number, min(PIECE_TOKENS, left - start)))
    return made


def write_piece(piece: Piece, folder: Path) -> None:
    """Write one file, a text per line; equal pieces are equal bytes."""
    lines = [json.dumps({"text": text}) for text in _texts(piece)]
    write_text(folder / piece.name, "\n".join(lines) + "\n")


def _texts(piece: Piece) -> Iterator[str]:
    rng = random.Random(derive(0, "corpus", VERSION, piece.stage, piece.number))
    made = 0
    while made < piece.tokens:
        text = documents(rng, piece.stage).text
        made += len(tokens(text))
        yield text


@cache
def text_version() -> str:
    """Names the code that makes the text."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in ("carriers", "corpus", "language", "text")]
    return fingerprint([file.read_text(encoding="utf-8") for file in files])
