"""`openflan plan`"""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, out

if TYPE_CHECKING:
    from openflan.studies.plan import Plan


def plan(
    recipe: Annotated[str | None, typer.Argument(help="Recipe file, or the name of a shipped one.")] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus",
            help="Devices: 8xH200, H100, A100-80, A100-40, L4, 4090, cpu.",
            show_default="8xH100; H100 for weights in few bits",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model in place of the recipe's; only its configuration is read.")
    ] = None,
    params: Annotated[
        str | None, typer.Option(help="Parameters of a model that cannot be had, embeddings not counted: 137B, 350M.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="With --params: its layers.")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="With --params: its hidden size.")] = None,
    vocab: Annotated[int | None, typer.Option(min=1, help="With --params: its vocabulary.")] = None,
    hold_out: options.HoldOut = None,
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of tuning.")] = None,
    pue: Annotated[float, typer.Option(min=1.0, help="Power of the building over power of the boards.")] = 1.2,
    grid: Annotated[
        float | None, typer.Option(min=0.0, help="kg CO2 a kWh of your grid; without it no CO2 is given.")
    ] = None,
    json_: options.Json = False,
) -> None:
    """What a recipe takes on given hardware: memory, FLOPs, hours, energy, and all that was assumed. Nothing is run.

    Lengths of examples are measured where rows and tokenizer lie here (--data-root, the micro-world), else assumed.

    Example: openflan plan flan-paper --gpus 8xH200
    """
    from openflan.models.shape import shape_from_size
    from openflan.studies.hardware import parse_gpus
    from openflan.studies.plan import plan as planned
    from openflan.studies.recipe import resolve

    shape = None
    if params is not None:
        shape = shape_from_size(_count(params), layers=layers, hidden=hidden, vocabulary=vocab)
        model = model or shape.name
    elif (layers, hidden, vocab) != (None, None, None):
        raise typer.BadParameter("--layers, --hidden and --vocab go with --params")
    resolved = resolve(
        recipe,
        {"tuning": {"steps": steps}},
        model=model,
        hold_out=options.listed(hold_out),
        catalogs=options.listed(catalog),
        data_root=None if data_root is None else str(data_root),
    )
    number, hardware = parse_gpus(gpus or ("8xH100" if resolved.tuning.quantize is None else "H100"))
    made = planned(resolved, number, hardware, shape=shape, pue=pue, kg_co2_per_kwh=grid)
    if json_:
        emit_json(made.to_json())
        return
    _show(made, recipe or resolved.model)


def _count(text: str) -> float:
    """
    >>> _count("137B"), _count("350m")
    (137000000000.0, 350000000.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMBT]?)", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(f"{text!r}: expected a number such as 137B or 350M", param_hint="--params")
    return float(match[1]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[match[2].upper()]


def _show(made: "Plan", title: str) -> None:
    from openflan.reports.plan import plan_page

    out.print(plan_page(made, title))
    for warning in made.warnings:
        err.print(f"[bold yellow]note[/] {warning}")
