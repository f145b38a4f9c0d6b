"""`openflan compare` on two runs of the smallest model."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openflan.cli.app import app
from tests.evaluation.conftest import write_run
from tests.evaluation.test_compare import SAMPLES, TASKS


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_two_arms_of_a_run_as_table_json_and_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", SAMPLES, TASKS)
    common = ("compare", run, "--arm", "tuned", "--against", "untuned", "--resamples", 200)
    assert "A is above B on natural language inference" in " ".join(invoke(*common).stdout.split())
    found = json.loads(invoke(*common, "--json").stdout)
    assert (found["format"], found["a"]["arm"], found["b"]["arm"]) == (1, "tuned", "untuned")
    assert found["changed"] is None
    assert [task["task"] for task in found["tasks"]] == ["t", "u", "v"]
    listed = json.loads(invoke(*common, "--json", "--items").stdout)
    assert listed["changed"] and {**listed, "changed": None} == found
    invoke(*common, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8")) == listed
    assert "natural language inference" in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_evaluations_of_the_smallest_models(tmp_path: Path) -> None:
    for name, limit, tasks in (("one", 6, "world_denial,world_mood"), ("two", 4, "world_denial")):
        common = ("--model", "world:small-early", "--catalog", "world", "--tasks", tasks, "--limit", limit, "-q")
        assert invoke("evaluate", *common, "--out", tmp_path / name).exit_code == 0
    found = json.loads(invoke("compare", tmp_path / "one", tmp_path / "two", "--json").stdout)
    (task,) = found["tasks"]
    assert (task["task"], task["n"], task["mean"], task["reading"]) == ("world_denial", 4, 0, "not shown")
    assert found["unhashed"] == 0
    assert {(one["side"], one["reason"], one["task"]) for one in found["outside"]} == {
        ("a", "task", "world_mood"),
        ("a", "item", "world_denial"),
    }
