"""A study's figure in the paper's layout: our panel, and the paper's below it on the same scale.

Takes `Panel`s, gives a matplotlib figure at either width. Read next: `study_page.py`.
"""

# matplotlib's own annotations are partial; what comes out of it is annotated where it enters our code.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import IdentityTransform, ScaledTranslation, Transform

from openflan.reports.arms import ACCENT, cluster_words
from openflan.reports.figures import INCHES, INK, PAPER, SETTINGS, Width, frame
from openflan.reports.numbers import percent

Place = str | float
ALL = "all"
"""The place that is the mean over clusters."""
FACES = (
    ("#8d867d", "o"),
    ("#3d6a91", "D"),
    ("#00806a", "s"),
    ("#8f4a8b", "v"),
    ("#2f9ac4", "P"),
    ("#c98a00", "^"),
    ("#4b4640", "X"),
)
"""Colour and mark by a series' place in the legend; the series that the study is about gets the accent."""
_ROW, _GAP, _LEGEND, _TITLE, _FOOT, _PLOT = 0.19, 0.2, 0.19, 0.3, 0.5, 2.1


@dataclass(frozen=True, slots=True)
class Mark:
    """One point; values in 0..1."""

    place: Place
    mean: float
    low: float | None = None
    high: float | None = None
    attested: bool = True
    """False for a recollected value of the paper: drawn hollow."""


@dataclass(frozen=True, slots=True)
class Series:
    title: str
    marks: Sequence[Mark]
    face: int
    """Index into `FACES`; -1 is the accent."""

    @property
    def colour(self) -> str:
        return ACCENT if self.face < 0 else FACES[self.face % len(FACES)][0]

    @property
    def marker(self) -> str:
        # Once all colours are used they come again, each with another mark.
        return "o" if self.face < 0 else FACES[(self.face + self.face // len(FACES)) % len(FACES)][1]


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing: places in groups of dots, or numbers along a line."""

    title: str
    kind: Literal["dots", "lines"]
    series: Sequence[Series]
    axis: str
    """What the places are"""
    chance: Sequence[tuple[Place, float]] = ()

    @property
    def places(self) -> list[Place]:
        """In the order in which series name them, the mean over clusters last."""
        found = dict.fromkeys(mark.place for series in self.series for mark in series.marks)
        return sorted(found, key=lambda place: place == ALL)


def place_words(place: Place) -> str:
    """A place as a reader says it."""
    if place == ALL:
        return "mean of clusters"
    return cluster_words(place) if isinstance(place, str) else number_words(place)


def number_words(number: float) -> str:
    """A place on a line.

    >>> number_words(4), number_words(538464), number_words(1.37e11)
    ('4', '538K', '137B')
    """
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"


def study_figure(panels: Sequence[Panel], width: Width = "wide") -> Figure:
    """The panels one below the other, scores on one scale."""
    heights = [_height(panel, width) for panel in panels]
    inches, total = INCHES[width], sum(heights)
    with rc_context(SETTINGS):
        figure = Figure(figsize=(inches, total))
        limits = _limits(panels)
        top = 0.0
        for panel, height in zip(panels, heights, strict=True):
            head = _head(panel, width)
            left = (1.75 if width == "wide" else 0.06) if panel.kind == "dots" else 0.5
            bottom = total - top - height + _FOOT
            box = (left / inches, bottom / total, 1 - (left + 0.5) / inches, (height - head - _FOOT) / total)
            axes = figure.add_axes(box)
            frame(axes, ygrid=panel.kind == "lines")
            _draw_legend(figure, panel, width, top, total)
            (_draw_dots if panel.kind == "dots" else _draw_lines)(axes, panel, width, limits)
            top += height
    return figure


def _columns(width: Width) -> int:
    return 2 if width == "wide" else 1


def _head(panel: Panel, width: Width) -> float:
    entries = len(panel.series) + bool(panel.chance)
    return _TITLE + _LEGEND * math.ceil(entries / _columns(width)) + 0.12


def _height(panel: Panel, width: Width) -> float:
    if panel.kind == "lines":
        return _head(panel, width) + _PLOT + _FOOT
    return _head(panel, width) + sum(_group_height(panel, place, width) for place in panel.places) + _FOOT


def _group_height(panel: Panel, place: Place, width: Width) -> float:
    rows = sum(mark.place == place for series in panel.series for mark in series.marks)
    return _ROW * max(rows, 2 if width == "wide" else 1) + _GAP + (0.2 if width == "narrow" else 0)


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """In percent, over all panels, to whole tens."""
    values = [
        value
        for panel in panels
        for series in panel.series
        for mark in series.marks
        for value in (mark.mean, mark.low, mark.high)
        if value is not None
    ]
    values += [level for panel in panels for _, level in panel.chance]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return max(0.0, 10 * math.floor(10 * low - 0.2)), min(105.0, 10 * math.ceil(10 * high + 0.2))


def _draw_legend(figure: Figure, panel: Panel, width: Width, top: float, total: float) -> None:
    inches, columns = INCHES[width], _columns(width)
    figure.text(
        0.06 / inches, 1 - (top + 0.16) / total, panel.title, fontsize=9, fontweight="bold", va="center_baseline"
    )
    entries: list[tuple[str, dict[str, Any]]] = [
        (series.title, {"color": series.colour, "marker": series.marker, "markersize": 5, "linestyle": "none"})
        for series in panel.series
    ]
    if panel.chance:
        entries.append(("chance", {"color": INK, "linestyle": (0, (3, 2)), "linewidth": 0.9}))
    for index, (title, mark) in enumerate(entries):
        row, column = divmod(index, columns)
        x, y = 0.06 + column * (inches / columns), top + _TITLE + _LEGEND * (row + 0.5)
        xs = [x, x + 0.14] if mark["linestyle"] != "none" else [x + 0.07]
        figure.add_artist(Line2D([one / inches for one in xs], [1 - y / total] * len(xs), **mark))
        figure.text((x + 0.2) / inches, 1 - y / total, title, va="center_baseline", fontsize=7.5, color=INK)


def _draw_dots(axes: Axes, panel: Panel, width: Width, limits: tuple[float, float]) -> None:
    axes.set_yticks([])
    y = 0.0
    for place in panel.places:
        y += _GAP / 2
        start = y
        if width == "narrow":
            axes.text(0, y + 0.1, place_words(place), transform=axes.get_yaxis_transform(), va="center_baseline")
            y += 0.2
        above = y
        for series in panel.series:
            for mark in series.marks:
                if mark.place == place:
                    _draw_mark(axes, series, mark, (100 * mark.mean, y + _ROW / 2), along="x")
                    end = 100 * (mark.mean if mark.high is None else mark.high)
                    axes.annotate(
                        percent(mark.mean), (end, y + _ROW / 2), xytext=(5, 0), textcoords="offset points",
                        va="center_baseline", fontsize=7, color=series.colour, annotation_clip=False,
                    )  # fmt: skip
                    y += _ROW
        y = max(y, above + _ROW * (2 if width == "wide" else 1))
        if width == "wide":
            for index, line in enumerate(lines := textwrap.wrap(place_words(place), 22)):
                axes.annotate(
                    line, (0, (above + y) / 2 + 0.15 * (index - (len(lines) - 1) / 2)),
                    xycoords=axes.get_yaxis_transform(), xytext=(-10, 0), textcoords="offset points", ha="right",
                    va="center_baseline",
                )  # fmt: skip
        for where, level in panel.chance:
            if where == place:
                axes.plot([100 * level] * 2, [above, y], color=INK, linestyle=(0, (3, 2)), linewidth=0.9, zorder=1.5)
        y = max(y, start) + _GAP / 2
    axes.set_ylim(max(y, 0.1), 0)
    axes.set_xlim(*limits)
    axes.set_xlabel("Score, %", loc="left", fontsize=7.5)


def _draw_lines(axes: Axes, panel: Panel, width: Width, limits: tuple[float, float]) -> None:
    numbers = sorted(float(place) for place in panel.places)
    wide_range = bool(numbers) and numbers[0] > 0 and numbers[-1] > 50 * numbers[0]
    if wide_range:
        axes.set_xscale("log")
    for index, series in enumerate(panel.series):
        # Side by side, so that no interval hides another.
        aside = ScaledTranslation((index - (len(panel.series) - 1) / 2) * 4 / 72, 0, axes.figure.dpi_scale_trans)
        marks = sorted(series.marks, key=lambda mark: float(mark.place))
        xs, ys = [float(mark.place) for mark in marks], [100 * mark.mean for mark in marks]
        axes.plot(xs, ys, color=series.colour, linewidth=1.3, zorder=2, transform=axes.transData + aside)
        for mark, x, y in zip(marks, xs, ys, strict=True):
            _draw_mark(axes, series, mark, (x, y), along="y", aside=aside)
    if panel.chance:
        axes.axhline(100 * panel.chance[0][1], color=INK, linestyle=(0, (3, 2)), linewidth=0.9, zorder=1.5)
    axes.set_ylim(*limits)
    if numbers:
        pad = 1.3 if wide_range else 0.06 * max(numbers[-1] - numbers[0], 1)
        first, last = numbers[0], numbers[-1]
        axes.set_xlim((first / pad, last * pad) if wide_range else (first - pad, last + pad))
    axes.set_xticks(numbers, [number_words(number) for number in numbers])
    axes.minorticks_off()
    axes.set_xlabel(panel.axis, fontsize=7.5)
    axes.set_ylabel("Score, %", fontsize=7.5)
    del width


def _draw_mark(
    axes: Axes,
    series: Series,
    mark: Mark,
    at: tuple[float, float],
    *,
    along: Literal["x", "y"],
    aside: Transform | None = None,
) -> None:
    place = axes.transData + (aside or IdentityTransform())
    if mark.low is not None and mark.high is not None:
        span = [100 * mark.low, 100 * mark.high]
        xs, ys = (span, [at[1]] * 2) if along == "x" else ([at[0]] * 2, span)
        axes.plot(xs, ys, color=series.colour, linewidth=1.5, alpha=0.75, solid_capstyle="round", zorder=2,
                  transform=place)  # fmt: skip
    axes.plot(
        [at[0]], [at[1]], marker=series.marker, color=series.colour, linestyle="none", transform=place,
        markersize=6.5 if mark.attested else 5.5,
        markerfacecolor=series.colour if mark.attested else PAPER,
        markeredgecolor=PAPER if mark.attested else series.colour,
        markeredgewidth=0.8 if mark.attested else 1.2, zorder=3,
    )  # fmt: skip
