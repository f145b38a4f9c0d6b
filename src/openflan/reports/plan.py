"""A plan as one page: a table a question, and everything that was assumed below."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from openflan.studies.hardware import Range
    from openflan.studies.plan import Plan

GIB = 2**30


def plan_page(made: "Plan", title: str) -> Group:
    """What `openflan plan` prints."""
    head = f"{title} on {made.devices} x {made.hardware.title}"
    return Group(Text(head, style="bold"), *_page(made))


def _page(made: "Plan") -> Iterator[RenderableType]:
    yield from _group("Model", _model(made))
    yield from _group("An optimizer step", _step(made))
    yield from _group("Memory of the fullest device", _memory(made))
    yield from _group("Time and energy", _time(made))
    if made.instead:
        yield from _group("What would make it fit", _instead(made))
    yield from _group("Assumed", [(a.what, f"{a.value} [{a.source}]") for a in made.assumptions])


def _group(title: str, rows: list[tuple[str, str]]) -> Iterator[RenderableType]:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=26)
    table.add_column()
    for name, value in rows:
        table.add_row(Text(f"  {name}"), Text(value))
    yield Text(f"\n{title}", style="bold cyan")
    yield table


def _model(made: "Plan") -> list[tuple[str, str]]:
    shape = made.shape
    return [
        ("name", shape.name),
        ("parameters", f"{_count(shape.parameters)}: body {_count(shape.body)}, head {_count(shape.head)}"),
        ("layers", f"{shape.layers} of hidden size {shape.hidden:,}; vocabulary {shape.vocabulary:,}"),
    ]


def _step(made: "Plan") -> list[tuple[str, str]]:
    load, flops, settings = made.workload, made.flops, made.recipe.tuning
    parts = {
        "body": flops.body,
        "head, at targets only": flops.head,
        "attention": flops.attention,
        "adapters": flops.adapters,
        "computed once more": flops.recomputed,
    }
    shares = ", ".join(f"{name} {part / flops.total:.1%}" for name, part in parts.items() if part)
    tokens = f"{load.tokens_per_step:,.0f} tokens, {load.targets_per_step:,.0f} of them targets"
    return [
        ("reads", f"{tokens}; {load.rows_per_step:.1f} rows, {load.examples_per_step:,.0f} examples"),
        ("computes", f"{flops.total:.3g} FLOPs in {made.precision}: {shares}"),
        (f"all {settings.steps:,} steps", f"{flops.total * settings.steps:.3g} FLOPs, "
                                          f"{_count(load.tokens_per_step * settings.steps)} tokens"),
    ]  # fmt: skip


def _memory(made: "Plan") -> list[tuple[str, str]]:
    memory, settings = made.memory, made.recipe.tuning
    parts = [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        (f"{settings.optimizer}'s states", memory.optimizer),
        ("gathered or cast weights", memory.gathered),
        ("activations", memory.activations),
        ("logits at targets", memory.logits),
        ("temporaries of the update", memory.temporaries),
    ]
    verdict = "fits" if memory.fits else "does not fit"
    if not memory.fits:
        verdict += f": needs at least {made.fewest} of these" if made.fewest else " on any number of these"
    elif made.fewest is not None and made.fewest < made.devices:
        verdict += f", on {made.fewest} of these too"
    return [(name, _gib(part)) for name, part in parts if part] + [
        ("needed, of", f"{_gib(memory.needed)} of {_gib(memory.capacity)}: {verdict}")
    ]


def _time(made: "Plan") -> list[tuple[str, str]]:
    step = made.step
    rows = [("a step", f"{_range(step.seconds)} s, bound by {step.bound_by}")]
    if made.devices > 1:
        rows.append(("", f"computing {_range(step.compute)} s, communication {_range(step.communication)} s"))
    asked = made.evaluation
    rows += [
        (f"tuning, {len(made.tuned)} x", f"{_range(made.tuning.hours)} h each: {', '.join(made.tuned) or 'nothing'}"),
        ("evaluation, one device", f"{_range(made.evaluating.hours)} h: {asked.prompts:,} prompts of {asked.tasks} "
                                   f"tasks, {len(asked.arms)} arms, {made.evaluation_flops:.3g} FLOPs in float32"),
        ("together", f"{_range(made.total.hours)} h"),
    ]  # fmt: skip
    if made.total.kwh is not None:
        rows.append(("energy", f"{_range(made.total.kwh)} kWh"))
    if made.total.kg_co2 is not None:
        rows.append(("CO2", f"{_range(made.total.kg_co2)} kg"))
    return rows


def _instead(made: "Plan") -> list[tuple[str, str]]:
    def needs(devices: int | None) -> str:
        if devices is None:
            return "not on any number of these"
        return f"needs {devices}" + ("" if devices > made.devices else ": fits")

    return [(change, needs(devices)) for change, devices in made.instead.items()]


def _range(value: "Range") -> str:
    """ "20 to 45, 30 expected", two digits each."""
    low, expected, high = (_digits(part) for part in value)
    return expected if low == high else f"{low} to {high}, {expected} expected"


def _digits(value: float) -> str:
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _gib(value: float) -> str:
    return f"{value / GIB:,.1f} GiB" if value >= GIB / 10 else f"{value / 2**20:,.1f} MiB"


def _count(value: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.0f}"
