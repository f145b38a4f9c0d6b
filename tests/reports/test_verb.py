"""`openflan report`."""

import json
import shutil
from pathlib import Path

from typer.testing import CliRunner

from openflan.cli.app import app


def told(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_folder_of_runs_has_a_page_and_a_table(run_folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(run_folder, tmp_path / "runs" / name)
    assert "natural language inference" in " ".join(told("report", tmp_path / "runs", "-q").split())
    assert (tmp_path / "runs" / "report.html").exists()
    drawn = {path.name.partition("-")[0] for path in (tmp_path / "runs" / "figures").glob("*-*.png")}
    assert {"one", "two"} <= drawn
    found = json.loads(told("report", tmp_path / "runs", "--json", "-q"))
    assert [run["name"] for run in found["runs"]] == ["one", "two"]
    assert found["runs"][0]["result"] == json.loads((run_folder / "result.json").read_text())
