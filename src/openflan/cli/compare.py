"""`openflan compare`"""

from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, out
from openflan.evaluation.statistics import RESAMPLES


def compare(
    run_a: Annotated[str, typer.Argument(help="Run folder, or RUN:ARM, or RUN:ARM@EXEMPLARS.", metavar="RUN_A")],
    run_b: Annotated[
        str | None, typer.Argument(help="The other; left out to compare two arms of one run.", metavar="[RUN_B]")
    ] = None,
    arm: Annotated[str, typer.Option("--arm", help="Arm of A.", show_default="tuned, or the only one")] = "",
    against: Annotated[
        str, typer.Option("--against", help="Arm of B.", show_default="as for A; untuned of a single run")
    ] = "",
    own_prompts: Annotated[
        bool,
        typer.Option(
            "--own-prompts", help="Pair by item alone, each side asked through its own templates and prompts."
        ),
    ] = False,
    items: Annotated[bool, typer.Option("--items", help="List the items whose outcome changed.")] = False,
    resamples: Annotated[int, typer.Option(min=100, help="Resamples of each interval and test.")] = RESAMPLES,
    seed: options.Seed = 0,
    out_: Annotated[Path | None, typer.Option("--out", help="Folder for compare.json and compare.html.")] = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare two runs, or two arms of one, on the same items: paired differences, intervals, tests.

    Example: openflan compare runs/nli-a runs/nli-b --items
    """
    from openflan.evaluation.compare import compare as compare_sides
    from openflan.reports.comparison import render_comparison, write_comparison
    from openflan.reports.sides import read_sides

    a, b = read_sides(run_a, run_b, arm=arm, against=against)
    found = compare_sides(
        a, b, own_prompts=own_prompts, changed=items or out_ is not None, seed=seed, resamples=resamples
    )
    page = None if out_ is None else write_comparison(found, out_)
    if json_:
        shown = found.to_json()
        emit_json(shown if items else shown | {"changed": None})
    else:
        out.print(render_comparison(found, show_items=items))
    if page is not None and not quiet:
        err.print(str(page), markup=False)
