import csv
import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openflan.catalog.load import load_catalog
from openflan.catalog.task import SPLITS
from openflan.cli.app import app
from openflan.errors import CatalogError, ConfigError, SourceError
from openflan.interop.draft import draft_task, new_task
from openflan.ledger import Ledger
from openflan.rendering.check import check_catalog
from openflan.rendering.render import read_columns
from openflan.sources.read import SourceSettings, read_rows

TICKETS = [
    {"subject": f"Order {i}", "message": f"Parcel {i} did not come.", "label": ["urgent", "not urgent"][i % 2]}
    for i in range(40)
]
CHOICES = [
    {"question": f"What comes after {i}?", "choices": [str(i + 1), str(i + 2)], "answer": 0 if i % 3 else 1}
    for i in range(20)
]
SUMMARIES = [
    {"long text": f"It rained in village {i} and nobody went out.", "summary": f"Rain in village {i}."}
    for i in range(20)
]
CHINESE_SUMMARIES = [{"内容": f"第{i}个村里下了一场大雨。", "summary": f"第{i}村下雨"} for i in range(20)]
GERMAN = [
    {"überschrift": f"Bestellung {i}", "text": f"Paket {i} kam nicht.", "label": ["dringend", "nicht dringend"][i % 2]}
    for i in range(40)
]
CHINESE = [{"标题": f"订单{i}", "内容": f"第{i}个包裹还没有送到。", "标签": ["紧急", "一般"][i % 2]} for i in range(40)]
NUMBERED = [{"text": f"Line {i} of a log.", "class": i % 3} for i in range(30)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("rows", "ending", "form"),
    [
        (TICKETS, "csv", "classification"),
        (GERMAN, "csv", "classification"),
        (CHINESE, "jsonl", "classification"),
        (NUMBERED, "csv", "classification"),
        (NUMBERED, "jsonl", "classification"),
        (CHOICES, "jsonl", "multiple_choice"),
        (SUMMARIES, "csv", "generation"),
    ],
)
def test_a_draft_passes_the_check_on_the_rows_it_was_made_from(
    rows: list[dict[str, Any]], ending: str, form: str, tmp_path: Path
) -> None:
    file = write(tmp_path / f"rows.{ending}", rows)
    folder, data = tmp_path / "my_tasks", tmp_path / "data"
    draft, _ = new_task("mine", file, folder, cluster="triage", answer=None, data_root=data)
    assert draft.form == form
    (check,) = check_catalog(load_catalog(folder), SourceSettings(data_root=data), limit=100)
    assert check.problems == () and check.rows == len(rows)
    lines = [(data / "mine" / f"{split}.jsonl").read_text().splitlines() for split in ("train", "test")]
    assert len(lines[1]) == round(0.2 * len(rows)) and not set(lines[0]) & set(lines[1])


def test_a_cluster_is_entered_once_even_beside_a_faulty_task(tmp_path: Path) -> None:
    folder, file = tmp_path / "tasks", write(tmp_path / "rows.csv", TICKETS)
    new_task("first", file, folder, cluster="triage", answer=None, data_root=None)
    (folder / "first.toml").write_text("nonsense")
    _, written = new_task("second", file, folder, cluster="triage", answer=None, data_root=None)
    assert written == [folder / "second.toml"]
    assert list(tomllib.loads((folder / "clusters.toml").read_text())) == ["triage"]
    (folder / "clusters.toml").write_text("[triage")
    with pytest.raises(CatalogError, match="not valid TOML"):
        new_task("third", file, folder, cluster="triage", answer=None, data_root=None)
    assert not (folder / "third.toml").exists()


@pytest.mark.parametrize(("rows", "metric"), [(SUMMARIES, "rouge"), (CHINESE_SUMMARIES, "chrf")])
def test_the_metric_of_a_draft_reads_the_writing_of_the_answers(
    rows: list[dict[str, Any]], metric: str, tmp_path: Path
) -> None:
    file, folder, data = write(tmp_path / "rows.jsonl", rows), tmp_path / "tasks", tmp_path / "data"
    new_task("mine", file, folder, cluster="triage", answer=None, data_root=data)
    catalog = load_catalog(folder)
    assert catalog.task("mine").metrics == (metric,)
    (check,) = check_catalog(catalog, SourceSettings(data_root=data), limit=100)
    assert check.problems == ()
    (folder / "mine.toml").write_text((folder / "mine.toml").read_text().replace('"chrf"', '"rouge"'))
    (check,) = check_catalog(load_catalog(folder), SourceSettings(data_root=data), limit=100)
    assert [str(problem) for problem in check.problems] == (metric == "chrf") * [
        f"{folder}/mine.toml:9: metrics: rouge reads the letters a to z and digits alone, "
        "of which the answers have few or none (use chrf)"
    ]


def test_identifiers_and_dates_are_no_texts() -> None:
    rows = [{"id": f"a{i:031x}", "on": f"2024-01-{i:02}", **row} for i, row in enumerate(TICKETS)]
    assert draft_task("mine", rows, cluster="nli", answer=None, where="rows").texts == ("subject", "message")


def test_the_answer_column_can_be_named(tmp_path: Path) -> None:
    rows = [{"text": f"Line {i} here.", "label": "x", "mood": ["up", "down"][i % 2]} for i in range(12)]
    draft = draft_task("mine", rows, cluster="nli", answer="mood", where="rows")
    assert draft.labels == ("down", "up") and draft.answer == "mood"
    with pytest.raises(ConfigError, match="did you mean mood"):
        draft_task("mine", rows, cluster="nli", answer="moods", where="rows")


def test_what_cannot_be_drafted_says_why(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no column looks like the answer"):
        draft_task("mine", [{"a": f"text number {i}"} for i in range(5)], cluster="nli", answer=None, where="rows")
    with pytest.raises(SourceError, match="at least two"):
        draft_task("mine", [], cluster="nli", answer=None, where="rows")
    (tmp_path / "Mine.toml").write_text("")
    with pytest.raises(ConfigError) as caught:
        new_task("Mine", tmp_path / "rows.xlsx", tmp_path, cluster="nli", answer=None, data_root=None)
    assert len(caught.value.problems) == 3


@pytest.mark.slow
def test_the_page_on_own_tasks_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of docs/your-own-tasks.md, as printed, save the one that downloads a model."""
    page = (Path(__file__).parents[2] / "docs" / "your-own-tasks.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tickets.csv", TICKETS)
    lines = page.replace("\\\n", " ").splitlines()
    told = [line for line in lines if line.startswith("openflan ") and "HuggingFaceTB" not in line]
    commands = [shlex.split(line.removeprefix("openflan ")) for line in told]
    assert [command[0] for command in commands] == ["catalog", "render", "catalog", "run", "catalog"]
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.output)
    result = json.loads((tmp_path / "runs" / "triage-small" / "result.json").read_text())
    assert result["held_out"] == ["triage"] and result["arms"]["tuned"]["tasks"]["tickets"]["n"] == 8


def test_columns_called_as_the_answer_is_get_another_name(tmp_path: Path) -> None:
    checked = [
        {"question": f"what is {i} plus {i}", "answer": f"it is {i} now", "label": "ab"[i % 2]} for i in range(40)
    ]
    file, folder = write(tmp_path / "rows.jsonl", checked), tmp_path / "tasks"
    new_task("checked", file, folder, cluster="nli", answer="label", data_root=None)
    task = load_catalog(folder).task("checked")
    assert task.columns == {"question": "question | trim", "answer_text": "answer | trim"}


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [("answer", "answer_text", "label"), ("options", "options_", "label"), ("a b", "column_0", "label"),
     ("a\x7f", "b", "label"), ("answer", "question", "answer_text")],
)  # fmt: skip
def test_another_name_is_never_that_of_another_column(first: str, second: str, answer: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {first: f"one is {i} here", second: f"two is {i} there", answer: "ab"[i % 2]} for i in range(40)
    ]
    file, folder, data = write(tmp_path / "rows.jsonl", rows), tmp_path / "tasks", tmp_path / "data"
    new_task("alike", file, folder, cluster="nli", answer=answer, data_root=data)
    task = load_catalog(folder).task("alike")
    read = read_columns(task, read_rows(task, "test", SourceSettings(data_root=data), Ledger()), Ledger())
    assert len(read) == 8 and all({str(value)[:3] for value in row.columns.values()} == {"one", "two"} for row in read)


def test_rows_need_not_have_all_keys_and_labels_may_be_signs(tmp_path: Path) -> None:
    signs: list[dict[str, Any]] = [
        {"text": f"line {i} of it", "mood": "\U0001f44d\U0001f44e"[i % 2]} for i in range(40)
    ]
    signs[7] = {"text": "a line without one"}
    file, folder, data = write(tmp_path / "rows.jsonl", signs), tmp_path / "tasks", tmp_path / "data"
    new_task("moods", file, folder, cluster="nli", answer="mood", data_root=data)
    signs[9]["mood"] = float("nan")
    assert draft_task("moods", signs, cluster="nli", answer="mood", where="rows").labels == ("\U0001f44d", "\U0001f44e")
    task, ledger = load_catalog(folder).task("moods"), Ledger()
    for split in SPLITS:
        read_columns(task, read_rows(task, split, SourceSettings(data_root=data), ledger), ledger)
    assert sum(ledger.kept.values()) == 39 and sum(ledger.dropped.values()) == 1


def test_a_task_is_not_drafted_where_it_could_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"line {i} of it", "label": "ab"[i % 2]} for i in range(40)]
    file = write(tmp_path / "rows.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        new_task("rte", file, Path("flan"), cluster="nli", answer="label", data_root=None)
    assert "a catalog of openflan's own" in str(raised.value)
    assert "rte: is a task of openflan's own already" in str(raised.value)
    assert not Path("flan").exists()


def test_columns_called_as_words_of_jinja_get_another_name(tmp_path: Path) -> None:
    odd = [
        {"not": f"line {i} of it", "none": f"and {i} more", "self": f"or {i} less", "label": "ab"[i % 2]}
        for i in range(40)
    ]
    file, folder, data = write(tmp_path / "rows.jsonl", odd), tmp_path / "tasks", tmp_path / "data"
    new_task("odd", file, folder, cluster="nli", answer="label", data_root=data)
    (check,) = check_catalog(load_catalog(folder), SourceSettings(data_root=data), limit=100)
    assert check.problems == () and check.rows == 40
