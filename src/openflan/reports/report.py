"""`write_report`: a folder with results in, the page and its figures out.

Read next: `page.py`.
"""

from pathlib import Path

from openflan.artifacts import atomic_path, write_text
from openflan.reports.drawings import drawings, overview_drawings
from openflan.reports.page import render_page
from openflan.reports.reading import read_report

PAGE = "report.html"


def write_report(folder: Path) -> Path:
    """Write report.html and figures/*.png into a run folder or a folder of runs; returns the page's path.

    Equal contents give equal bytes. Raises RunError where the folder holds no result.
    """
    report = read_report(folder)
    single = len(report.runs) == 1 and report.runs[0].folder == folder
    for name, drawing in ({} if single else overview_drawings(report)).items():
        _write(folder / "figures" / f"{name}.png", drawing.png())
    for run in report.runs:
        for name, drawing in drawings(run).items():
            file = f"{name}.png" if single else f"{run.name}-{name}.png"
            _write(folder / "figures" / file.replace("/", "-"), drawing.png())
    write_text(folder / PAGE, render_page(report))
    return folder / PAGE


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as part:
        part.write_bytes(content)
