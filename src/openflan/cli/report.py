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
    from openflan.reports.reading import RESULT, read_report
    from openflan.reports.report import write_report
    from openflan.reports.table import report_table

    page = write_report(folder)
    report = read_report(folder)
    if not json_:
        out.print(report_table(report))
    elif (folder / RESULT).exists():
        emit_json(read_json(folder / RESULT))
    else:
        emit_json({"runs": [{"name": run.name, "result": run.raw} for run in report.runs]})
    if not quiet:
        err.print(str(page), markup=False)
