"""`openflan doctor`"""

import contextlib
import logging
import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Annotated

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, out, shown_progress
from openflan.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from openflan.studies.doctor.examine import Report

COLOURS = {"pass": "green", "falls back": "yellow", "fail": "bold red", "not applicable": "dim"}


def doctor(
    model: Annotated[str | None, typer.Option(help=options.ANY_MODEL, show_default=False)] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Checks to make; comma-separated or repeated.", metavar="CHECK")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Name all checks and what each compares.")] = False,
    dtype: Annotated[str, typer.Option(help="Precision to check in: float32, bfloat16, float16 or auto.")] = "float32",
    device: Annotated[
        str, typer.Option(help='Where: cpu, cuda, cuda:1, …; "auto" takes a GPU where there is one.')
    ] = "auto",
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove on the model itself that the fast ways of tuning and scoring it are exact, before time is spent on it.

    Exit 0 where every check passes or falls back to a slower exact way, 1 where one fails.

    Example: openflan doctor --model HuggingFaceTB/SmolLM2-135M
    """
    from openflan.studies.doctor.examine import EXAMINED, described, examine

    if list_:
        compared = {name: described(name) for name in EXAMINED}
        if json_:
            emit_json(compared)
        else:
            out.print(_rows(("check", "compares"), list(compared.items())))
        return
    if model is None:
        raise ConfigError("give a model with --model; --list names the checks")
    with _libraries_silenced(), shown_progress(quiet=quiet) as progress:
        report = examine(model, only=options.listed(only), dtype=dtype, device=device, progress=progress)
    if json_:
        emit_json(report.to_json())
    else:
        out.print(_table(report))
        out.print(str(report), markup=False, highlight=False, soft_wrap=True)
    if report.outcome == "fail":
        raise typer.Exit(1)


def _table(report: "Report") -> "Table":
    from rich.markup import escape

    rows: list[tuple[str, ...]] = []
    for check in report.checks:
        finding, worst = check.finding, check.finding.worst
        colour = COLOURS[finding.outcome]
        numbers = "" if worst is None else f"{_number(worst.difference)} of {_number(worst.tolerance)}"
        rows.append((check.name, f"[{colour}]{finding.outcome}[/]", numbers, escape(finding.said)))
    return _rows(("check", "outcome", "off by, allowed", "found"), rows)


def _number(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _rows(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


@contextlib.contextmanager
def _libraries_silenced() -> Generator[None, None, None]:
    """No warnings of what the table says anyway, unless --verbose asks for them."""
    from transformers.utils import logging as transformers_logging

    ours = logging.getLogger("openflan")
    before, theirs = ours.level, transformers_logging.get_verbosity()
    try:
        with warnings.catch_warnings():
            if logging.getLogger().getEffectiveLevel() > logging.INFO:
                ours.setLevel(logging.ERROR)
                transformers_logging.set_verbosity_error()
                warnings.simplefilter("ignore")
            yield
    finally:
        ours.setLevel(before)
        transformers_logging.set_verbosity(theirs)
