import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from openflan.errors import RunError
from openflan.reports.table import render_table


def printed(folder: Path, width: int = 160) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render_table(json.loads((folder / "result.json").read_text(encoding="utf-8"))))
    return console.export_text()


def test_a_run_is_printed_by_task_with_the_pages_numbers(run_folder: Path) -> None:
    text = printed(run_folder)
    result = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    for arm in result["arms"].values():
        for table in (*arm["tasks"].values(), *arm["clusters"].values()):
            assert f"{100 * table['mean']:.1f}" in text
            assert f"{100 * table['low']:.1f} to {100 * table['high']:.1f}" in text
    assert "+11.3" in text
    assert "1,200" in text


def test_without_differences_there_is_no_table_of_them(run_folder: Path) -> None:
    file = run_folder / "result.json"
    assert "difference, points" in printed(run_folder)
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"differences": []}), encoding="utf-8")
    assert "difference, points" not in printed(run_folder)


def test_a_study_is_printed_by_split_with_its_readings(study_folder: Path) -> None:
    text = printed(study_folder)
    for part in ("natural language inference", "sentiment", "coreference", "higher", "no difference shown", "lower"):
        assert part in text


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_loses_no_finding(run_folder: Path, width: int) -> None:
    assert "Instruction tuning raised natural language inference" in " ".join(printed(run_folder, width).split())


def test_a_later_format_is_refused() -> None:
    with pytest.raises(RunError):
        render_table({"format": 2})
