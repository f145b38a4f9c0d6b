"""`openflan report`"""

from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, out


def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, or a folder of runs.")],
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make the page and figures of a finished run (or of several) again, and print the table.

    Example: openflan report runs/demo
    """
    from openflan.artifacts import read_json
    from openflan.reports.report import write_report
    from openflan.reports.table import render_table

    page = write_report(folder)
    result = read_json(folder / "result.json")
    if json_:
        emit_json(result)
    else:
        out.print(render_table(result))
    if not quiet:
        err.print(str(page), markup=False)
