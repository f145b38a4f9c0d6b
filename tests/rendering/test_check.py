from pathlib import Path

import pytest

from openflan.catalog.load import load_catalog
from openflan.catalog.task import SPLITS, Task
from openflan.ledger import Ledger
from openflan.rendering.check import check_rows, check_task
from openflan.sources.read import Row, SourceSettings, read_rows
from tests.catalog.toys import write_catalog

ROW = Row("train/0", {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0})

PLANTED = {
    "unknown name": ("{{ premize }}", "unknown name premize (did you mean premise?)"),
    "syntax": ("{{ premise", "template syntax"),
    "answer shown": ("{{ premise }} {{ answer }}", "shows the answer"),
    "literal escape": ("{{ premise }}\\nDoes it?", "literal escape"),
    "doubled mark": ("{{ premise }}. Does it?", "punctuation is doubled"),
    "glued": ("{{ premise }}Does it follow?", "glued together"),
    "edge space": (" {{ premise }}", "begins or ends with white space"),
    "random": ("{{ premise }} {{ [1, 2, 3, 4, 5, 6, 7, 8, 9] | random }}", "renders differently"),
    "empty": ("{% if false %}{{ premise }}{% endif %}", "inputs is empty"),
}


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load_catalog(write_catalog(tmp_path, ("toy", "nli"))).task("toy")


def with_inputs(task: Task, inputs: str) -> Task:
    return task.model_copy(update={"templates": (task.templates[0].model_copy(update={"inputs": inputs}),)})


def test_a_good_task_has_no_problem(task: Task) -> None:
    assert list(check_task(task, "toy.toml")) == []
    assert check_rows(task, [ROW], "toy.toml") == []


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_faults_are_found(task: Task, fault: str) -> None:
    inputs, told = PLANTED[fault]
    bad = with_inputs(task, inputs)
    problems = list(check_task(bad, "toy.toml")) or check_rows(bad, [ROW, ROW, ROW], "toy.toml")
    assert any(told in str(problem) for problem in problems), problems


def test_repeated_templates_and_options_and_unknown_steps_are_found(task: Task) -> None:
    twice = task.model_copy(
        update={"templates": (task.templates[0], task.templates[0].model_copy(update={"id": "again"}))}
    )
    assert any("says the same as follows" in str(p) for p in check_task(twice, "toy.toml"))
    same = task.model_copy(update={"answer": task.answer.model_copy(update={"options": ("yes", "yes")})})
    assert any("two options read the same" in str(p) for p in check_rows(same, [ROW], "toy.toml"))
    step = task.model_copy(update={"source": task.source.model_copy(update={"prepare": ("keep_four_choises",)})})
    assert any("did you mean keep_four_choices" in str(p) for p in check_task(step, "toy.toml"))


def test_the_flan_catalog_is_clean_on_real_rows(real_rows: Path) -> None:
    problems: list[str] = []
    for task in load_catalog("flan").tasks.values():
        problems += map(str, check_task(task, task.name))
        if not (real_rows / task.name).is_dir():
            continue
        settings = SourceSettings(data_root=real_rows)
        rows = [row for split in SPLITS for row in read_rows(task, split, settings, Ledger(), limit=30)]
        problems += map(str, check_rows(task, rows, task.name))
    assert problems == []


def test_the_world_catalog_is_clean() -> None:
    problems: list[str] = []
    for task in load_catalog("world").tasks.values():
        problems += map(str, check_task(task, task.name))
        rows = [row for split in SPLITS for row in read_rows(task, split, SourceSettings(), Ledger(), limit=20)]
        problems += map(str, check_rows(task, rows, task.name))
    assert problems == []
