import dataclasses
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openflan.artifacts import write_text
from openflan.catalog.load import load_catalog
from openflan.cli.app import app
from openflan.rendering.check import check_catalog, check_rows, check_task, read_or_dropped
from openflan.rendering.diversity import diversity
from openflan.sources.read import Row, SourceSettings
from tests.catalog.toys import task_toml, write_catalog

ROW = Row("train/0", {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0})
ROWS = [Row(f"train/{i}", {"premise": f"It is {i}.", "hypothesis": "So it is.", "label": i % 2}) for i in range(6)]

INPUTS = "{{ premise }}\nDoes it follow that {{ hypothesis }}\n{{ options_ }}"
"""The inputs of the toy task's template `follows`, which the faults below take the place of."""

PLANTED = {
    "unfilled field": (INPUTS, "{{ premize }}\n{{ options_ }}", "unknown name premize (did you mean premise?)"),
    "template syntax": (INPUTS, "{{ premise\n{{ options_ }}", "template syntax"),
    "empty side": (INPUTS, "{% if hypothesis == '' %}{{ premise }}{% endif %}", "inputs is empty"),
    "gold outside the options": ('gold = "label"', 'gold = "label + 1"', "label 2 is outside 0..1"),
    "options of another number": ('options = ["yes", "no"]', 'options = ["yes"]', "has 2 options, the task has 1"),
    "metric of two options": (
        'metrics = ["accuracy"]',
        'metrics = ["accuracy", "f1"]',
        ": f1 need two options, it has 3",
    ),
    "answer shown": (INPUTS, "{{ premise }} {{ answer }}", "shows the answer"),
    "column that is the answer": (
        "[answer]",
        """gave_away = '["yes", "no"][label]'\n[answer]""",
        "shows column gave_away, which is the answer",
    ),
    "expression syntax": ('gold = "label"', 'gold = "label"\ngrade = "label +"', "answer.grade: expression 'label +'"),
    "literal escape": (INPUTS, "{{ premise }}\\nDoes it? {{ hypothesis }}", "a literal escape"),
    "doubled punctuation": (INPUTS, "{{ premise }}. Does it? {{ hypothesis }}", "punctuation is doubled"),
    "glued sentences": (INPUTS, "{{ premise }}Does it follow?", "is glued to its neighbour"),
    "edge space": (INPUTS, " {{ premise }} {{ hypothesis }}", "begins or ends with white space"),
    "same template twice": (
        'id = "plain"',
        f"id = \"again\"\ninputs = '''{INPUTS}'''\n[[template]]\nid = \"plain\"",
        "says the same as follows",
    ),
    "same option twice": ('options = ["yes", "no"]', 'options = ["yes", "yes"]', "two options read the same"),
    "random": (INPUTS, "{{ premise }} " + "{{ '0123456789' | random }}" * 9, "renders differently"),
    "self": (INPUTS, "{{ premise }} {{ self }}", "reads `self`, which is Jinja's own name"),
    "target too long": ("targets = '''", "targets = '''{{ 'word ' * 300 }}", "longer than 250 words"),
    "option without a token": ('options = ["yes", "no"]', 'options = ["yes", "\\u200b"]', "no token to score"),
    "unknown step": ("[columns]", 'prepare = ["keep_four_choises"]\n[columns]', "did you mean keep_four_choices"),
    "unknown cluster": ('clusters = ["nli"]', 'clusters = ["nly"]', "no cluster 'nly' (did you mean nli?)"),
    "unknown key": ('cite = "nobody"', 'site = "nobody"', "site: unknown key (did you mean cite"),
    "null column": ('premise = "premise"', 'premise = "missing"', "column premise"),
    "shows nothing of the row": (INPUTS, "Say yes or no.", "shows nothing of the row"),
}


def plant(fault: str, folder: Path) -> Path:
    """A catalog folder with the toy task, its one fault, and rows in a data root beside it."""
    old, new, _ = PLANTED[fault]
    text = task_toml("toy")
    assert old in text
    text = text.replace(old, new, 1)
    if fault == "metric of two options":
        text = text.replace('options = ["yes", "no"]', "options = '[premise, hypothesis, \"both\"]'")
        text = text.replace('options = ["True", "False"]\n', "")
    if fault == "column that is the answer":
        text = text.replace("{{ hypothesis }}\n{{ options_ }}", "{{ hypothesis }} {{ gave_away }}", 1)
    folder.mkdir()
    (folder / "toy.toml").write_text(text, encoding="utf-8")
    rows = folder.parent / "data" / "toy"
    rows.mkdir(parents=True)
    lines = "".join(json.dumps(row.fields) + "\n" for row in ROWS * 4)
    for split in ("train", "validation"):
        (rows / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_with_its_line(fault: str, tmp_path: Path) -> None:
    folder = plant(fault, tmp_path / "catalog")
    command = ["catalog", "check", "--catalog", str(folder), "--data-root", str(tmp_path / "data"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    problems = json.loads(result.stdout)["problems"]
    told = [f"{p['where']}: {p['what']}" + (f" ({p['hint']})" if p["hint"] else "") for p in problems]
    assert any(PLANTED[fault][2] in line for line in told), told
    assert all(re.match(rf"{folder}/toy\.toml:\d+", line) for line in told), told


def test_faults_of_all_files_are_told_in_one_go(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path / "catalog", ("good", "nli"), ("bad", "nli"), ("worse", "nli"))
    for name, old, new in (("bad", "{{ premise }}", "{{ premize }}"), ("worse", 'cite = "nobody"', "")):
        file = folder / f"{name}.toml"
        file.write_text(file.read_text().replace(old, new, 1))
    result = CliRunner().invoke(app, ["catalog", "check", "--catalog", str(folder), "--json"])
    report = json.loads(result.stdout)
    assert {Path(p["where"].split(":")[0]).name for p in report["problems"]} == {"bad.toml", "worse.toml"}
    assert {one["task"] for one in report["not_read"]} == {"good"}


def test_the_line_is_the_templates(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path, ("toy", "nli"))
    file = folder / "toy.toml"
    file.write_text(file.read_text().replace("True or false?", "True or false? {{ premise }}{{ hypothesis }}"))
    catalog = load_catalog(folder)
    (problem,) = check_task(catalog.task("toy"), file)
    number = int(problem.where.split(":")[1])
    assert file.read_text().splitlines()[number - 1] == 'id = "plain"'


def test_a_good_task_has_no_problem(tmp_path: Path) -> None:
    catalog = load_catalog(write_catalog(tmp_path, ("toy", "nli")))
    task, file = catalog.task("toy"), catalog.files["toy"]
    assert check_task(task, file) == []
    read, dropped = read_or_dropped(task, ROWS, file)
    assert len(read) == len(ROWS) and dropped == []
    assert check_rows(task, read, file) == []


def test_a_jinja_marker_is_a_fault_only_where_the_row_has_none(tmp_path: Path) -> None:
    catalog = load_catalog(write_catalog(tmp_path, ("toy", "nli")))
    task, file = catalog.task("toy"), catalog.files["toy"]
    quoted = Row("train/1", {"premise": "It reads {{ name }}.", "hypothesis": "So {% it %} is.", "label": 0})
    read, _ = read_or_dropped(task, [quoted, ROW], file)
    assert check_rows(task, read, file) == []
    wrong = task.templates[0].model_copy(update={"inputs": "{{ '{{' }} {{ premise }} {{ hypothesis }}"})
    (problem,) = check_rows(task.model_copy(update={"templates": (wrong,)}), read, file)
    assert problem.what == f"row {ROW.id}: a Jinja marker is left in the text"


def test_a_fault_is_told_once_for_a_template(tmp_path: Path) -> None:
    catalog = load_catalog(write_catalog(tmp_path, ("toy", "nli")))
    task = catalog.task("toy")
    loud = task.templates[0].model_copy(update={"inputs": "{{ premise }}."})
    task = task.model_copy(update={"templates": (loud,)})
    read, _ = read_or_dropped(task, [ROW] * 5, catalog.files["toy"])
    problems = check_rows(task, read, catalog.files["toy"])
    assert len(problems) == 1


def test_diversity_falls_when_a_wording_is_repeated(tmp_path: Path) -> None:
    task = load_catalog(write_catalog(tmp_path, ("toy", "nli"))).task("toy")
    first = task.templates[0]
    other = first.model_copy(update={"id": "other", "inputs": "{{ hypothesis }} Can one conclude this? {{ premise }}"})
    again = first.model_copy(update={"id": "again", "inputs": "Does it follow, that {{ hypothesis }}? {{ premise }}"})
    differently, alike = (diversity(task.model_copy(update={"templates": (first, one)})) for one in (other, again))
    assert differently.mean > alike.mean == 0.0
    assert alike.closest == ("follows", "again")


def test_specimens_that_are_meant_to_be_dropped_are_no_fault(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path, ("toy", "nli"))
    good, bad = json.dumps(ROW.fields), json.dumps({**ROW.fields, "premise": None})
    write_text(folder / "specimens" / "toy.jsonl", f"{good}\n{good}\n{bad}\n")
    (check,) = check_catalog(load_catalog(folder), SourceSettings(data_root=tmp_path), limit=5)
    assert check.read_from == "specimens" and check.problems == ()
    assert check.dropped == ("1 of 3 rows: column premise is null",)
    write_text(folder / "specimens" / "toy.jsonl", f"{bad}\n")
    (check,) = check_catalog(load_catalog(folder), SourceSettings(data_root=tmp_path), limit=5)
    assert [problem.what for problem in check.problems] == ["1 of 1 rows: column premise is null"]
    for split in ("train", "validation"):
        write_text(tmp_path / "toy" / f"{split}.jsonl", f"{good}\n{bad}\n")
    (check,) = check_catalog(load_catalog(folder), SourceSettings(data_root=tmp_path), limit=5)
    assert check.read_from == "rows" and any("column premise is null" in problem.what for problem in check.problems)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 1, -1], []),  # a step is there to drop some
        ([-1, -1], ["no test row is left (2 no gold label)"]),
        ([0, 1, "?"], ["1 test rows: keep_labelled: TypeError: '>=' not supported"]),
        (["?"], ["1 test rows: keep_labelled: TypeError", "no test row is left (1 keep_labelled: TypeError"]),
        ([], ["there is no test row"]),
    ],
)
def test_rows_that_are_lost_in_a_prepare_step_are_told(tmp_path: Path, labels: list[object], told: list[str]) -> None:
    folder = write_catalog(tmp_path / "catalog", ("toy", "nli"))
    file = folder / "toy.toml"
    file.write_text(file.read_text().replace("[columns]", 'prepare = ["keep_labelled"]\n[columns]'))
    write_text(tmp_path / "toy" / "train.jsonl", "".join(json.dumps(row.fields) + "\n" for row in ROWS))
    lines = [json.dumps({**ROW.fields, "premise": f"It is {i}.", "label": label}) for i, label in enumerate(labels)]
    write_text(tmp_path / "toy" / "validation.jsonl", "".join(f"{line}\n" for line in lines))
    (check,) = check_catalog(load_catalog(folder), SourceSettings(data_root=tmp_path), limit=9)
    line = 1 + file.read_text().splitlines().index('prepare = ["keep_labelled"]')
    assert len(check.problems) == len(told), check.problems
    for problem, words in zip(check.problems, told, strict=True):
        assert words in str(problem) and problem.where == f"{file}:{line}"


def test_specimens_that_a_prepare_step_cannot_read_are_told(tmp_path: Path) -> None:
    folder = write_catalog(tmp_path, ("toy", "nli"))
    file = folder / "toy.toml"
    file.write_text(file.read_text().replace("[columns]", 'prepare = ["keep_labelled"]\n[columns]'))
    refused, unread = ({**ROW.fields, "label": label} for label in (-1, "?"))
    rows = "".join(json.dumps(row) + "\n" for row in (ROW.fields, refused, unread))
    write_text(folder / "specimens" / "toy.jsonl", rows)
    (check,) = check_catalog(load_catalog(folder), SourceSettings(data_root=tmp_path / "none"), limit=9)
    assert check.read_from == "specimens" and len(check.problems) == 1
    assert "1 specimens: keep_labelled: TypeError" in check.problems[0].what


def test_the_shipped_catalog_is_clean_without_rows(tmp_path: Path) -> None:
    catalog = load_catalog("flan")
    nowhere = {name: task.model_copy(update={"source": task.source.model_copy(update={"hub": None, "obtain": "-"})})
               for name, task in catalog.tasks.items()}  # fmt: skip
    checks = check_catalog(dataclasses.replace(catalog, tasks=nowhere), SourceSettings(data_root=tmp_path), limit=5)
    assert {check.read_from for check in checks} == {"specimens"}
    assert [str(problem) for check in checks for problem in check.problems] == []


@pytest.mark.slow
def test_the_flan_catalog_is_clean_on_real_rows(real_rows: Path) -> None:
    catalog = load_catalog("flan")
    checks = check_catalog(catalog, SourceSettings(data_root=real_rows), limit=30)
    assert [str(problem) for check in checks for problem in check.problems] == []
    folders = {folder.name for folder in real_rows.iterdir() if folder.is_dir()}
    tried = {check.task for check in checks if check.read_from == "rows"}
    assert folders <= tried and all(check.rows >= 2 for check in checks)
    assert {check.task for check in checks} - tried == {check.task for check in checks if check.not_read}


def test_the_world_catalog_is_clean() -> None:
    checks = check_catalog(load_catalog("world"), SourceSettings(), limit=15)
    assert [str(problem) for check in checks for problem in check.problems] == []
    assert all(check.read_from == "rows" for check in checks)


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    catalog = load_catalog(write_catalog(tmp_path, ("one", "nli"), ("two", "nli")))
    alone, shared_out = (
        check_catalog(catalog, SourceSettings(data_root=tmp_path), limit=5, workers=workers) for workers in (1, 2)
    )
    assert alone == shared_out
