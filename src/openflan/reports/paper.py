"""What Wei et al. 2022 printed, by study: facts to stand beside ours, never to be compared with by a test."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class PaperPoint:
    """A value of the paper, in 0..1."""

    place: str | float
    value: float
    attested: bool
    """Printed in the paper, or in a public source that cites it; else recollected, and no more than a hint."""


@dataclass(frozen=True, slots=True)
class PaperSeries:
    name: str
    """That of our series with the same meaning, where there is one."""
    title: str
    points: Sequence[PaperPoint]


@dataclass(frozen=True, slots=True)
class PaperFigure:
    series: Sequence[PaperSeries]
    note: str


@cache
def paper_figure(study: str) -> PaperFigure:
    """The paper's figure of the same name; empty for a study that the paper has none of."""
    table = json.loads(files("openflan.reports").joinpath("paper.json").read_text(encoding="utf-8"))["studies"]
    found = table.get(study, {"series": [], "note": ""})
    return PaperFigure(
        tuple(
            PaperSeries(
                one["name"],
                one["title"],
                tuple(PaperPoint(p["place"], p["value"] / 100, p["attested"]) for p in one["points"]),
            )
            for one in found["series"]
        ),
        found["note"],
    )
