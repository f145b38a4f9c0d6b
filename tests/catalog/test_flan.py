"""What the built-in catalog promises, counted from its files."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openflan.catalog.load import load_catalog
from openflan.catalog.task import Task
from openflan.cli.app import app
from openflan.rendering.check import check_catalog
from openflan.rendering.diversity import diversity
from openflan.sources.read import SourceSettings
from openflan.sources.specimens import specimen_file

CATALOG = load_catalog("flan")
EVALUATED = [task for task in CATALOG.tasks.values() if task.clusters[0] not in ("summarization", "misc")]
"""The paper evaluates the datasets of ten clusters."""
BRANCHES = {"main", "refs/convert/parquet"}
LATE = ("snli", "piqa", "sentiment140", "squad_v2", "e2e_nlg", "wmt16_translate_fien")


def test_every_name_of_the_papers_figure_has_a_task() -> None:
    rows = json.loads(CliRunner().invoke(app, ["catalog", "list", "--json"]).stdout)
    assert len(rows) >= 62
    assert len({cluster for row in rows for cluster in row["clusters"]}) == 12
    names = {row["paper"]["dataset"] for row in rows if row["paper"] and row["paper"]["dataset"]}
    assert len(names) == 63  # the figure counts eight translation datasets and names nine
    assert all(task.paper is not None for task in CATALOG.tasks.values())


@pytest.mark.parametrize("task", CATALOG.tasks.values(), ids=lambda task: task.name)
def test_a_task_has_ten_templates_in_different_words(task: Task) -> None:
    asked = [t for t in task.templates if t.kind != "completion"]
    assert len({" ".join(t.inputs.split()) for t in asked}) == len(asked) >= 10
    assert len(task.of_kind("inverted")) <= 3
    assert diversity(task).mean > 0.85 and diversity(task).closest_similarity < 0.5
    assert task.licence and task.cite
    if task in EVALUATED:
        assert 1 <= len(task.of_kind("completion")) <= 3


def test_sources_are_pinned_or_say_how_to_get_the_files() -> None:
    for task in CATALOG.tasks.values():
        source = task.source
        assert source.hub is None or re.fullmatch(r"[0-9a-f]{40}", source.revision) or source.revision in BRANCHES
        assert source.hub is not None or "DATA_ROOT" in source.obtain or "data root" in source.obtain, task.name
    pinned = [task for task in CATALOG.tasks.values() if len(task.source.revision) == 40]
    assert len(pinned) > 50


def test_mixing_sizes_of_the_paper_fit_its_caps() -> None:
    for task in CATALOG.tasks.values():
        assert task.paper is None or task.paper.train is None or task.paper.train <= 30_000


def write_data_root(root: Path, names: tuple[str, ...]) -> Path:
    """A data root in hub columns made of the tasks' specimens."""
    for name in names:
        lines = specimen_file(CATALOG.files[name]).read_text(encoding="utf-8").splitlines()
        (root / name).mkdir(parents=True)
        for split, start in zip(("train", "validation", "test"), (0, 1, 2), strict=True):
            text = "\n".join((lines[start:] + lines[:start]) * 3)
            (root / name / f"{split}.jsonl").write_text(text + "\n", encoding="utf-8")
    return root


def test_rows_that_come_later_need_no_change(tmp_path: Path) -> None:
    root = write_data_root(tmp_path, LATE)
    checks = {check.task: check for check in check_catalog(CATALOG, SourceSettings(data_root=root), limit=20)}
    for name in LATE:
        assert checks[name].problems == () and checks[name].read_from == "rows" and checks[name].rows > 0


@pytest.mark.slow
def test_rows_that_come_later_are_evaluated(tmp_path: Path, stories: str) -> None:
    root = write_data_root(tmp_path / "data", LATE)
    command = ["evaluate", "--model", stories, "--tasks", ",".join(LATE), "--data-root", str(root), "--json", "--quiet"]
    result = CliRunner().invoke(app, [*command, "--limit", "2", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    tasks = json.loads(result.stdout)["arms"]["model"]["tasks"]
    assert set(tasks) == set(LATE) and all(task["n"] >= 1 for task in tasks.values())


def test_the_tasks_stand_in_name_order() -> None:
    assert all(first < second for first, second in pairwise(CATALOG.tasks))
