"""Rows read once are the rows as they are read, whoever asks and however often."""

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openflan.catalog.load import load_catalog
from openflan.catalog.task import Task
from openflan.errors import SourceError
from openflan.ledger import Ledger
from openflan.rendering.render import read_columns
from openflan.rendering.store import RowStore, StoreJob, build_stores, read_store
from openflan.sources.read import SourceSettings, read_rows
from tests.catalog.toys import write_catalog


def toy(folder: Path, premises: Sequence[str], **changes: Any) -> StoreJob:
    """The job of reading a toy task's test rows with these premises."""
    catalog = write_catalog(folder / "catalog", ("toy", "nli"))
    task = load_catalog(catalog).task("toy").model_copy(update=changes)
    data = folder / "data" / "toy"
    data.mkdir(parents=True, exist_ok=True)
    rows = [{"premise": text, "hypothesis": "so", "label": i % 2} for i, text in enumerate(premises)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (data / "validation.jsonl").write_text(text, encoding="utf-8")
    (data / "train.jsonl").write_text(text, encoding="utf-8")
    return StoreJob(task, "test", SourceSettings(data_root=folder / "data"), None)


def stored(folder: Path, premises: Sequence[str]) -> RowStore:
    """A store of toy rows, in the order given."""
    rows = read_store(toy(folder, premises), Ledger())
    order = [premises.index(str(row.columns["premise"])) for row in rows]
    return rows.choose(np.argsort(order))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENFLAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_another_process_is_sent_the_place_of_the_rows_not_the_rows(tmp_path: Path) -> None:
    rows = stored(tmp_path, [f"premise {i} " + "very " * 50 + "long" for i in range(300)])
    unread = pickle.dumps(rows)
    assert rows[7].columns["premise"].startswith("premise 7 ")
    sent = pickle.dumps(rows)
    assert len(sent) == len(unread) < 8_000
    again: RowStore = pickle.loads(sent)
    assert list(again) == list(rows) and again[7] == rows[7] and again.sha == rows.sha


def test_stored_rows_are_the_rows(tmp_path: Path) -> None:
    job = toy(tmp_path, [f"premise {i}" for i in range(30)])
    ledger, again = Ledger(), Ledger()
    direct = read_columns(job.task, read_rows(job.task, "test", job.settings, ledger), ledger)
    for attempt in (Ledger(), again):  # built, then read back
        rows = read_store(job, attempt)
        assert [(r.id, dict(r.columns), r.options, r.gold, r.group) for r in rows] == [
            (r.id, dict(r.columns), r.options, r.gold, r.group) for r in direct
        ]
        assert [rows[i] for i in range(len(rows))] == list(rows)
        assert attempt.to_json() == ledger.to_json()


def test_a_view_is_a_sequence_with_a_name_of_its_own(tmp_path: Path) -> None:
    rows = stored(tmp_path, [f"premise {i}" for i in range(10)])
    view = rows.choose(np.array([7, 2, 5]))
    assert [row.columns["premise"] for row in view] == ["premise 7", "premise 2", "premise 5"]
    assert view[-1] == view[2] and len(view[:2]) == 2 and list(view[:2]) == list(view)[:2]
    assert view.sha not in (rows.sha, rows.choose(np.array([7, 5, 2])).sha)
    assert view.sha == rows.choose(np.array([7, 2, 5])).sha
    with pytest.raises(IndexError):
        view[3]


def test_what_decides_the_rows_names_the_store(tmp_path: Path) -> None:
    job = toy(tmp_path, ["a", "b", "c"])
    same = toy(tmp_path / "elsewhere", ["a", "b", "c"])
    first, other = read_store(job, Ledger()), read_store(same, Ledger())
    assert job.folder != same.folder and first.sha == other.sha  # another file, the same content
    columns = {**job.task.columns, "premise": "premise | upper"}
    assert toy(tmp_path, ["a", "b", "c"], columns=columns).folder != job.folder
    templates = (job.task.templates[0].model_copy(update={"inputs": "{{ premise }}!"}), *job.task.templates[1:])
    kept = StoreJob(job.task.model_copy(update={"templates": templates}), "test", job.settings, None)
    assert kept.folder == job.folder  # a wording does not change the rows
    file = tmp_path / "data" / "toy" / "validation.jsonl"
    before = job.folder
    file.write_text(json.dumps({"premise": "new", "hypothesis": "so", "label": 1}) + "\n")
    os.utime(file, ns=(1, 1))
    assert job.folder != before
    assert [row.columns["premise"] for row in read_store(job, Ledger())] == ["new"]


def test_a_crash_leaves_no_store(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openflan.rendering.store as store

    job = toy(tmp_path, ["a", "b"])
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
        with pytest.raises(RuntimeError):
            read_store(job, Ledger())
    assert list((cache / "rows").iterdir()) == []
    assert len(read_store(job, Ledger())) == 2


def test_processes_build_what_one_would(tmp_path: Path) -> None:
    jobs = [toy(tmp_path / str(i), [f"{i} {j}" for j in range(5)]) for i in range(3)]
    seen: list[tuple[int, int, str]] = []
    build_stores(jobs, workers=2, progress=lambda *event: seen.append(event))
    assert [done for done, _, _ in seen] == [1, 2, 3] and all((job.folder / "DONE").exists() for job in jobs)
    build_stores(jobs, workers=2, progress=lambda *event: seen.append(event))
    assert len(seen) == 3


def test_what_cannot_be_read_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    job = toy(tmp_path, ["a"])
    source = job.task.source.model_copy(update={"hub": None, "obtain": "ask the author"})
    lost = StoreJob(job.task.model_copy(update={"name": "lost", "source": source}), "test", job.settings, None)
    build_stores([lost, lost], workers=2)
    with pytest.raises(SourceError, match="ask the author"):
        read_store(lost, Ledger())


def test_a_template_with_options_of_its_own_keeps_the_raw_row(tmp_path: Path) -> None:
    job = toy(tmp_path, ["a", "b"])

    def with_options(task: Task) -> Task:
        own = task.templates[0].model_copy(update={"options": '[premise ~ "!", premise ~ "?"]'})
        return task.model_copy(update={"templates": (own,)})

    assert read_store(job, Ledger())[0].raw == {}
    own = StoreJob(with_options(job.task), "test", job.settings, None)
    assert set(read_store(own, Ledger())[0].raw) == {"premise", "hypothesis", "label"}
