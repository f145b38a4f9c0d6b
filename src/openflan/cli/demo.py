"""`openflan demo`"""

import time
from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, out, shown_progress


def demo(
    out_: Annotated[Path, typer.Option("--out", help="Folder of the demo's runs.")] = Path("runs/demo"),
    model: Annotated[
        str,
        typer.Option(
            help="Base model: world:base, its other pretraining seeds world:base-1 and world:base-2, or another size."
        ),
    ] = "world:base",
    seed: Annotated[int | None, typer.Option(help="Seed of rows and tuning.", show_default="the report seed")] = None,
    hold_out: options.HoldOut = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes.", show_default="the cores, at most 4; 1 beside a GPU")
    ] = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """The micro-world, end to end, offline: tune on the other clusters, measure on the held-out ones.

    Example: openflan demo --out runs/demo
    """
    from openflan.reports.report import write_report
    from openflan.reports.table import render_table
    from openflan.studies import demo as study

    began = time.monotonic()
    with shown_progress(quiet=quiet) as progress:
        results = study.demo(
            out_,
            model=model,
            seed=study.REPORT_SEED if seed is None else seed,
            splits={name: study.SPLITS.get(name, (name,)) for name in options.listed(hold_out) or study.SPLITS},
            workers=workers or options.models_at_once(),
            progress=progress,
        )
    page = write_report(out_)
    if json_:
        emit_json(results)
    else:
        out.print(render_table(results))
    if not quiet:
        err.print(f"{page}  ({time.monotonic() - began:.0f} s)", markup=False)
