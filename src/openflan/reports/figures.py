"""Figures: arms by task with intervals, spread over templates, tuning curve, differences.

Takes typed records, gives matplotlib figures; `svg` turns one into inline markup whose colours follow the page,
`png` into bytes for slides. Equal records give equal bytes. Read next: `page.py`.
"""

# matplotlib's own annotations are partial; what comes out of it is annotated where it enters our code.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import hashlib
import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from openflan.reports.arms import ACCENT, ARMS, ArmStyle, cluster_words, style
from openflan.reports.finding import verdict
from openflan.reports.numbers import count, percent, points
from openflan.reports.reading import Difference, Measured

Width = Literal["wide", "narrow"]
"""`narrow` is drawn for a phone: labels above their rows, so that the text keeps its size."""

INCHES: Mapping[Width, float] = {"wide": 7.5, "narrow": 3.6}
INK, MUTED, RULE, PAPER, BAND = "#1d1b19", "#726c65", "#e3ded7", "#fffefc", "#f1ede7"

VARIABLES: Mapping[str, str] = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    BAND: "--band",
    ACCENT: "--accent",
    **{face.colour: f"--arm-{name.replace('_', '-')}" for name, face in ARMS.items() if face.colour != ACCENT},
}
"""Drawn colour to the page's variable of the same meaning."""

SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "svg.fonttype": "none",
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "axes.unicode_minus": True,
    "text.usetex": False,
    "text.parse_math": False,
}
_ARM_STEP, _GROUP_GAP, _LABEL_LINE, _LEGEND_LINE = 0.2, 0.2, 0.22, 0.19
_FOOT = 0.48


@dataclass(frozen=True, slots=True)
class Share:
    """A dataset's clean share, 0..1: ours under the rule shown and under the other one, and the paper's."""

    task: str
    shown: float
    other: float
    paper: float | None = None


@dataclass(frozen=True, slots=True)
class CleanPoint:
    """A dataset's score on its clean rows minus its score on all, beside its clean share; 0..1 each."""

    task: str
    share_clean: float
    mean: float
    low: float | None = None
    high: float | None = None
    ours: bool = True
    """Else the paper's, which is recollected and drawn hollow."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a dot figure that belong together: one task or cluster, and its arms."""

    label: str
    arms: Mapping[str, Measured]
    bold: bool = False

    @property
    def note(self) -> str:
        numbers = [measured.n for measured in self.arms.values() if measured.n is not None]
        return f"n = {count(max(numbers))}" if numbers else ""

    def level(self, kind: Literal["chance", "majority"]) -> float | None:
        """The chance or majority rate its arms agree on (each arm reports its own; they answer the same items)."""
        values: list[float | None] = [getattr(measured, kind) for measured in self.arms.values()]
        return next((value for value in values if value is not None), None)


def arms_figure(groups: Sequence[Group], arms: Sequence[str], width: Width = "wide") -> Figure:
    """Every arm's mean with its 95 % interval, by task or cluster, with chance and majority lines (after Figure 5)."""
    values = [v for g in groups for m in g.arms.values() for v in (m.mean, m.low, m.high, m.chance, m.majority)]
    canvas = _Canvas(groups, arms, width, _limits(values), "Score, %; bars are 95 % intervals", levels=True)
    for _, arm, measured, y in canvas.rows():
        _draw_interval(canvas.axes, style(arm), y, measured)
        canvas.tag(y, style(arm).shots)
        end = measured.high if measured.high is not None else measured.mean
        if end is not None:
            canvas.label(100 * end, y, percent(measured.mean), bold=arm == "tuned")
    return canvas.figure


def templates_figure(groups: Sequence[Group], arms: Sequence[str], width: Width = "wide") -> Figure:
    """One dot a template, a bar at their mean, a ring around the template that was best on dev."""
    values = [v for g in groups for m in g.arms.values() for v in (m.mean, m.chance, *m.by_template.values())]
    canvas = _Canvas(groups, arms, width, _limits(values), "Score of each template, %", levels=False)
    for _, arm, measured, y in canvas.rows():
        _draw_templates(canvas.axes, style(arm), y, measured)
        canvas.tag(y, style(arm).shots)
    return canvas.figure


def differences_figure(differences: Sequence[Difference], width: Width = "wide") -> Figure:
    """Paired differences with intervals around a zero line; the pale band is what each sample could not resolve."""
    rows = [d for d in differences if d.low is not None]
    step, head = (0.34, 0.12) if width == "wide" else (0.5, 0.12)
    height = head + step * max(len(rows), 1) + _FOOT
    figure, axes = _axes(width, height, head, left=2.75 if width == "wide" else 0.06, right=0.12)
    span = [
        100 * v
        for d in rows
        for v in (d.low, d.high, d.smallest_detectable, _negative(d.smallest_detectable))
        if v is not None
    ]
    low, high = min([*span, -5.0]), max([*span, 5.0])
    pad = 0.16 * (high - low)
    axes.set_xlim(low - pad, high + pad)
    axes.set_ylim(head + step * max(len(rows), 1), head)
    axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
    for index, difference in enumerate(rows):
        _draw_difference(axes, difference, head + step * (index + 0.5), step, width)
    axes.set_xlabel("Difference in percentage points; bars are 95 % intervals", loc="left")
    return figure


def curve_figure(
    steps: Sequence[Mapping[str, Any]], dev: Sequence[Mapping[str, Any]] = (), width: Width = "wide"
) -> Figure:
    """Loss against tuning steps: every step pale, a running median over them, and points on dev rows."""
    figure, axes = _axes(width, 2.5 if width == "wide" else 2.2, 0.15, left=0.5, right=0.15, ygrid=True)
    xs, ys = curve_points(steps)
    axes.plot(xs, ys, color=ACCENT, linewidth=0.7, alpha=0.3, zorder=1)
    smooth = _running_median(ys, max(1, len(ys) // 25))
    axes.plot(xs, smooth, color=ACCENT, linewidth=1.6, zorder=2)
    dev_xs, dev_ys = curve_points(dev)
    if dev_xs:
        axes.plot(dev_xs, dev_ys, color=INK, linewidth=1.0, marker="o", markersize=3, zorder=3, label="dev rows")
        axes.legend(loc="upper right", frameon=False, fontsize=8)
    if ys:
        axes.set_ylim(0, 1.08 * sorted([*ys, *dev_ys])[max(0, math.ceil(0.995 * (len(ys) + len(dev_ys))) - 1)])
        axes.set_xlim(0, max(xs) * 1.02 if max(xs) else 1)
        axes.annotate(
            f"{smooth[-1]:.2f}", (xs[-1], smooth[-1]), xytext=(0, 7), textcoords="offset points",
            ha="right", color=ACCENT, fontweight="bold", fontsize=8,
        )  # fmt: skip
    axes.set_xlabel("Tuning step")
    axes.set_ylabel("Loss, nats a target token")
    return figure


def shares_figure(shares: Sequence[Share], rules: tuple[str, str], width: Width = "wide") -> Figure:
    """Clean rows of each dataset in percent: under the rule shown, under the other (hollow), and the paper's."""
    step, line = 0.21, 0.19
    entries: list[tuple[str, dict[str, Any]]] = [
        (f"rule “{rules[0]}”", _point_mark(ACCENT, "o")),
        (f"rule “{rules[1]}”", _point_mark(ACCENT, "o", hollow=True)),
    ]
    if any(share.paper is not None for share in shares):
        entries.append(("the paper’s corpus (attested)", _point_mark(INK, "D")))
    head = 0.12 + line * (len(entries) if width == "narrow" else 1)
    figure, axes = _axes(
        width, head + step * len(shares) + _FOOT, head, left=1.95 if width == "wide" else 1.5, right=0.2
    )
    axes.set_xlim(-2, 102)
    axes.set_ylim(head + step * len(shares), head)
    for index, share in enumerate(shares):
        y = head + step * (index + 0.5)
        axes.plot([100 * share.other, 100 * share.shown], [y, y], color=ACCENT, linewidth=0.8, alpha=0.5, zorder=1)
        if share.paper is not None:
            axes.plot([100 * share.paper], [y], zorder=2, **entries[-1][1])
        axes.plot([100 * share.other], [y], zorder=3, **entries[1][1])
        axes.plot([100 * share.shown], [y], zorder=4, **entries[0][1])
        axes.annotate(
            share.task, (0, y), xycoords=axes.get_yaxis_transform(), xytext=(-8, 0), textcoords="offset points",
            ha="right", va="center_baseline", fontsize=7.5 if width == "wide" else 6.5, color=INK,
        )  # fmt: skip
    _legend(figure, entries, 1 if width == "narrow" else len(entries))
    axes.set_xlabel("Clean rows, %", loc="left")
    return figure


def clean_figure(points_: Sequence[CleanPoint], width: Width = "wide") -> Figure:
    """Clean minus all, in points, against the clean share of each dataset (after the paper's appendix)."""
    entries: list[tuple[str, dict[str, Any]]] = [("this run, with 95 % interval", _point_mark(ACCENT, "o"))]
    if any(not point.ours for point in points_):
        entries.append(("FLAN 137B (recollected scores)", _point_mark(INK, "D", hollow=True)))
    head = 0.12 + 0.19 * (len(entries) if width == "narrow" else 1)
    figure, axes = _axes(width, 3.6, head, left=0.55, right=0.2, ygrid=True)
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    axes.set_xlim(-3, 103)
    values = [100 * v for p in points_ for v in (p.mean, p.low, p.high) if v is not None]
    low, high = min([*values, -3.0]), max([*values, 3.0])
    axes.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
    placed: list[tuple[float, float]] = []
    # Ours in front, and named first; a name that would cover another is left to the table.
    for point in sorted(points_, key=lambda p: (not p.ours, -abs(p.mean), p.task)):
        x, y = 100 * point.share_clean, 100 * point.mean
        if point.low is not None and point.high is not None:
            axes.plot([x, x], [100 * point.low, 100 * point.high], color=ACCENT, linewidth=1.2, alpha=0.6, zorder=2)
        axes.plot([x], [y], zorder=4 if point.ours else 3, **entries[0 if point.ours else 1][1])
        apart = (7, 0.05) if width == "wide" else (14, 0.06)
        crowded = any(abs(x - a) < 2 * apart[0] and abs(y - b) < apart[1] * (high - low) for a, b in placed)
        if not crowded:
            placed.append((x, y))
            left = x > 80
            axes.annotate(
                point.task, (x, y), xytext=(-5 if left else 5, 3), textcoords="offset points",
                ha="right" if left else "left", fontsize=6.5, color=INK if point.ours else MUTED,
            )  # fmt: skip
    _legend(figure, entries, 1 if width == "narrow" else len(entries))
    axes.set_xlabel("Clean rows, %")
    axes.set_ylabel("Clean minus all, points")
    return figure


def curve_points(steps: Iterable[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """(steps, losses in nats) of the lines of steps.jsonl or dev.jsonl; a resumed step counts once, as redone."""
    found = {
        float(line["step"]): float(line["loss"])
        for line in steps
        if isinstance(line.get("step"), int | float) and isinstance(line.get("loss"), int | float)
    }
    order = sorted(step for step, loss in found.items() if math.isfinite(loss))
    return order, [found[step] for step in order]


def svg(figure: Figure, name: str, alt: str, width: Width = "wide") -> str:
    """Inline SVG: text as text, colours as page variables, no ids but the ones it refers to, `alt` for all readers."""
    buffer = io.StringIO()
    with rc_context({**SETTINGS, "svg.hashsalt": f"{name}/{width}"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub(
        r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", lambda m: "" if m[1] else f"font: {m[2]}inherit", text
    )
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable}, {colour})")
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    head = f'<svg class="chart {width}" viewBox="{box[1]}" role="img" aria-label="{escape(alt)}">'
    return re.sub(r"\n\s*", "\n", head + text[text.index(">") + 1 :])


def png(figure: Figure) -> bytes:
    """The figure on white at 200 dots an inch, without date or program name."""
    buffer = io.BytesIO()
    with rc_context(SETTINGS):
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def digest(markup: str) -> str:
    """A short name for a figure's content, for file names and tests."""
    return hashlib.sha256(markup.encode()).hexdigest()[:8]


class _Canvas:
    """Axes of a dot figure whose y unit is the inch from the top, with group labels, legend and grid drawn."""

    def __init__(
        self,
        groups: Sequence[Group],
        arms: Sequence[str],
        width: Width,
        limits: tuple[float, float],
        xlabel: str,
        *,
        levels: bool,
    ) -> None:
        self._groups, self._arms, self._width = groups, arms, width
        kinds = [k for k in ("chance", "majority") if any(g.level(k) is not None for g in groups)] if levels else []
        marks = kinds if levels else ["mean", "best_dev"]
        legend = self._legend_rows(len(arms) + len(marks))
        self._head = 0.08 + _LEGEND_LINE * legend + 0.08
        self._tops = self._group_tops()
        height = (self._tops[-1] if self._tops else self._head) + _FOOT
        left = 1.95 if width == "wide" else 0.06
        self.figure, self.axes = _axes(width, height, self._head, left=left, right=0.5 if levels else 0.15)
        self.axes.set_xlim(*limits)
        self.axes.set_ylim(self._tops[-1] if self._tops else self._head + 0.1, self._head)
        self.axes.set_xlabel(xlabel, loc="left")
        self._draw_legend(marks)
        for group, top in zip(groups, self._tops, strict=False):
            self._draw_group(group, top, kinds)

    def rows(self) -> Iterable[tuple[Group, str, Measured, float]]:
        """(group, arm, what it measured, y) for everything there is to draw."""
        for group, top in zip(self._groups, self._tops, strict=False):
            for index, arm in enumerate(self._shown(group)):
                yield group, arm, group.arms[arm], top + self._above() + _ARM_STEP * (index + 0.5)

    def label(self, x: float, y: float, text: str, *, bold: bool) -> None:
        """A number right of a mark."""
        self.axes.annotate(
            text, (x, y), xytext=(5, 0), textcoords="offset points", va="center_baseline", fontsize=7.5,
            color=ACCENT if bold else MUTED, fontweight="bold" if bold else "normal", annotation_clip=False,
        )  # fmt: skip

    def tag(self, y: float, shots: int) -> None:
        """The number of exemplars, where a row has some, at its beginning."""
        if shots:
            self.axes.annotate(
                f"{shots}-shot", (0, y), xycoords=self.axes.get_yaxis_transform(), xytext=(2, 0),
                textcoords="offset points", va="center_baseline", fontsize=6.5, color=MUTED, zorder=4,
            )  # fmt: skip

    def _shown(self, group: Group) -> list[str]:
        return [arm for arm in self._arms if arm in group.arms and group.arms[arm].mean is not None]

    def _above(self) -> float:
        return 0.0 if self._width == "wide" else _LABEL_LINE

    def _group_tops(self) -> list[float]:
        tops = [self._head + _GROUP_GAP / 2]
        for group in self._groups:
            rows = max(len(self._shown(group)), 2 if self._width == "wide" else 1)
            tops.append(tops[-1] + self._above() + _ARM_STEP * rows + _GROUP_GAP)
        return tops

    def _columns(self) -> int:
        return 3 if self._width == "wide" else 1

    def _legend_rows(self, entries: int) -> int:
        return math.ceil(entries / self._columns())

    def _draw_legend(self, marks: Sequence[str]) -> None:
        width, height = self.figure.get_size_inches()
        entries = [(style(arm).title, _arm_mark(arm)) for arm in self._arms] + [_MARKS[mark] for mark in marks]
        for index, (title, mark) in enumerate(entries):
            row, column = divmod(index, self._columns())
            x = 0.06 + column * 2.3
            y = 0.08 + _LEGEND_LINE * (row + 0.5)
            upright = mark["linestyle"] != "none"
            ys = [y - 0.065, y + 0.065] if upright else [y]
            line = Line2D([(x + 0.07) / width] * len(ys), [1 - value / height for value in ys], **mark)
            self.figure.add_artist(line)
            self.figure.text((x + 0.2) / width, 1 - y / height, title, va="center_baseline", fontsize=8, color=INK)

    def _draw_group(self, group: Group, top: float, kinds: Sequence[str]) -> None:
        rows = max(len(self._shown(group)), 1)
        start, end = top + self._above(), top + self._above() + _ARM_STEP * rows
        weight = "bold" if group.bold else "normal"
        across = self.axes.get_yaxis_transform()
        if self._width == "wide":
            lines = [(text, INK, 8.5) for text in textwrap.wrap(group.label, 22)[:3]]
            lines += [(group.note, MUTED, 7.5)] if group.note else []
            for index, (text, colour, size) in enumerate(lines):
                y = (start + end) / 2 + 0.15 * (index - (len(lines) - 1) / 2)
                self.axes.annotate(
                    text, (0, y), xycoords=across, xytext=(-10, 0), textcoords="offset points", ha="right",
                    va="center_baseline", color=colour, fontsize=size, fontweight=weight if colour == INK else "normal",
                )  # fmt: skip
        else:
            self.axes.text(
                0,
                top + 0.1,
                group.label,
                transform=across,
                va="center_baseline",
                fontsize=8.5,
                fontweight=weight,
                color=INK,
            )
            self.axes.text(
                1, top + 0.1, group.note, transform=across, va="center_baseline", ha="right", color=MUTED, fontsize=7.5
            )
        for kind in kinds:
            if (level := group.level("chance" if kind == "chance" else "majority")) is not None:
                self.axes.plot(
                    [100 * level] * 2, [start - 0.02, end + 0.02], color=INK, zorder=1.5, **_LEVEL_LINES[kind]
                )


_LEVEL_LINES: Mapping[str, dict[str, Any]] = {
    "chance": {"linestyle": (0, (3, 2)), "linewidth": 0.9},
    "majority": {"linestyle": (0, (1, 1.6)), "linewidth": 1.1},
}

_RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 7,
    "markerfacecolor": "none",
    "markeredgewidth": 1.1,
    "linestyle": "none",
}
_MARKS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "chance": ("Chance", {"color": INK, **_LEVEL_LINES["chance"]}),
    "majority": ("Most frequent answer", {"color": INK, **_LEVEL_LINES["majority"]}),
    "mean": ("Mean over templates", {"color": MUTED, "linewidth": 2, "linestyle": "solid"}),
    "best_dev": ("Best template on dev", {"markeredgecolor": MUTED, **_RING}),
}


def _point_mark(colour: str, marker: str, *, hollow: bool = False) -> dict[str, Any]:
    face = {"markerfacecolor": PAPER if hollow else colour, "markeredgecolor": colour if hollow else PAPER}
    size = 5.5 if marker == "o" else 4.2
    edge = 1.1 if hollow else 0.7
    return {"color": colour, "marker": marker, "markersize": size, "markeredgewidth": edge, "linestyle": "none", **face}


def _legend(figure: Figure, entries: Sequence[tuple[str, dict[str, Any]]], columns: int) -> None:
    """Marks and their meaning along the top."""
    width, height = figure.get_size_inches()
    for index, (title, mark) in enumerate(entries):
        row, column = divmod(index, columns)
        x, y = 0.08 + column * (width - 0.1) / columns, 0.1 + _LEGEND_LINE * row
        figure.add_artist(Line2D([(x + 0.07) / width], [1 - y / height], **mark))
        figure.text((x + 0.2) / width, 1 - y / height, title, va="center_baseline", fontsize=8, color=INK)


def _arm_mark(arm: str) -> dict[str, Any]:
    face = style(arm)
    hollow = {"markerfacecolor": PAPER, "markeredgewidth": 1.2} if face.shots else {}
    return {"color": face.colour, "marker": face.marker, "markersize": 5, "linestyle": "none", **hollow}


def _axes(
    width: Width, height: float, head: float, *, left: float, right: float, ygrid: bool = False
) -> tuple[Figure, Axes]:
    inches = INCHES[width]
    with rc_context(SETTINGS):
        figure = Figure(figsize=(inches, height))
        box = (left / inches, _FOOT / height, 1 - (left + right) / inches, 1 - (_FOOT + head) / height)
        axes = figure.add_axes(box)
    frame(axes, ygrid=ygrid)
    if not ygrid:
        axes.set_yticks([])
        axes.xaxis.set_label_coords(0, -0.27 / (height - _FOOT - head))
    axes.xaxis.label.set_fontsize(7.5)
    axes.yaxis.label.set_fontsize(7.5)
    return figure, axes


def frame(axes: Axes, *, ygrid: bool) -> None:
    """The look of all axes: no box, a pale grid in the direction values are read."""
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_facecolor("none")
    axes.tick_params(length=0, labelsize=7.5, pad=4)
    axes.grid(axis="y" if ygrid else "x", color=RULE, linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)


def _draw_interval(axes: Axes, face: ArmStyle, y: float, measured: Measured) -> None:
    if measured.mean is None:
        return
    if measured.low is not None and measured.high is not None:
        axes.plot(
            [100 * measured.low, 100 * measured.high],
            [y, y],
            color=face.colour,
            linewidth=1.5,
            solid_capstyle="round",
            alpha=0.75,
            zorder=2,
        )
    axes.plot(
        [100 * measured.mean],
        [y],
        marker=face.marker,
        color=face.colour,
        markersize=5.5,
        markerfacecolor=PAPER if face.shots else face.colour,
        markeredgecolor=face.colour if face.shots else PAPER,
        markeredgewidth=1.2 if face.shots else 0.8,
        zorder=3,
    )


def _draw_templates(axes: Axes, face: ArmStyle, y: float, measured: Measured) -> None:
    colour = face.colour
    scores = sorted(measured.by_template.values())
    if scores:
        axes.plot([100 * scores[0], 100 * scores[-1]], [y, y], color=colour, linewidth=0.7, alpha=0.5, zorder=1.5)
        axes.plot(
            [100 * s for s in scores],
            [y] * len(scores),
            linestyle="none",
            marker="o",
            markersize=4,
            color=colour,
            alpha=0.55,
            markerfacecolor="none" if face.shots else colour,
            markeredgewidth=0.9 if face.shots else 0,
            zorder=2,
        )
    if measured.mean is not None:
        axes.plot([100 * measured.mean] * 2, [y - 0.075, y + 0.075], color=colour, linewidth=2, zorder=3)
    best = measured.by_template.get(measured.best_dev_template, measured.best_dev)
    if best is not None:
        axes.plot([100 * best], [y], markeredgecolor=colour, zorder=4, **_RING)


def _draw_difference(axes: Axes, difference: Difference, y: float, step: float, width: Width) -> None:
    assert difference.low is not None and difference.high is not None
    colour = {"higher": ACCENT, "lower": INK}.get(verdict(difference), MUTED)
    across = axes.get_yaxis_transform()
    name = difference.label or f"{style(difference.arm).title} {_MINUS} {style(difference.against).title.lower()}"
    where = difference.task or cluster_words(difference.cluster)
    bar = y if width == "wide" else y + 0.12
    if width == "wide":
        axes.annotate(
            name,
            (0, y),
            xycoords=across,
            xytext=(-10, 4),
            textcoords="offset points",
            ha="right",
            va="center_baseline",
            fontsize=7.5,
            color=INK,
        )
        axes.annotate(
            where,
            (0, y),
            xycoords=across,
            xytext=(-10, -6),
            textcoords="offset points",
            ha="right",
            va="center_baseline",
            color=MUTED,
            fontsize=7.5,
        )
    else:
        axes.text(0, y - 0.13, f"{where}: {name}", transform=across, va="center_baseline", fontsize=7, color=INK)
    if difference.smallest_detectable is not None:
        reach = 100 * difference.smallest_detectable
        axes.fill_betweenx([bar - 0.085, bar + 0.085], -reach, reach, color=BAND, linewidth=0, zorder=0.5)
    axes.plot(
        [100 * difference.low, 100 * difference.high],
        [bar, bar],
        color=colour,
        linewidth=1.5,
        solid_capstyle="round",
        zorder=2,
    )
    axes.plot(
        [100 * difference.mean],
        [bar],
        marker="o",
        color=colour,
        markersize=5.5,
        markeredgecolor=PAPER,
        markeredgewidth=0.8,
        zorder=3,
    )
    # Outwards from zero, where no line is.
    end, shift = (difference.low, -5) if difference.mean < 0 else (difference.high, 5)
    axes.annotate(
        points(difference.mean), (100 * end, bar), xytext=(shift, 0), textcoords="offset points",
        ha="right" if shift < 0 else "left", va="center_baseline", fontsize=7.5, color=colour,
        fontweight="bold" if colour == ACCENT else "normal",
    )  # fmt: skip


_MINUS = "\N{MINUS SIGN}"


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _limits(rates: Iterable[float | None]) -> tuple[float, float]:
    """Limits in percent around the values: tens, at least thirty points apart, so that small steps look small."""
    values = [100 * rate for rate in rates if rate is not None] or [0.0, 100.0]
    low, high = 10 * math.floor((min(values) - 1) / 10), 10 * math.ceil((max(values) + 1) / 10)
    while high - low < 30:
        low, high = low - 10, high + 10
    low, high = max(low, min(0, 10 * math.floor(min(values) / 10))), min(high, 100)
    # Half a point of air, so that a mark on the limit is drawn whole.
    return low - 0.5, high + 0.5


def _running_median(values: Sequence[float], reach: int) -> list[float]:
    medians: list[float] = []
    for index in range(len(values)):
        window = sorted(values[max(0, index - reach) : index + reach + 1])
        medians.append(window[len(window) // 2])
    return medians
