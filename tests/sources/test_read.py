import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tests.catalog.toys import write_catalog

from openflan.catalog.load import load_catalog
from openflan.catalog.task import SPLITS, Task
from openflan.errors import SourceError
from openflan.ledger import Ledger
from openflan.sources.read import SourceSettings, read_rows


def rows_of(split: str, count: int) -> list[dict[str, Any]]:
    return [{"premise": f"{split} {i}", "hypothesis": "so", "label": i % 2} for i in range(count)]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return load_catalog(write_catalog(tmp_path / "catalog", ("toy", "nli"))).task("toy")


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    with gzip.open(folder / "train.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows_of("train", 500))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows_of("validation", 90)), folder / "validation.parquet")
    return tmp_path / "data"


def ids(task: Task, split: Any, root: Path, **options: Any) -> list[str]:
    return [row.id for row in read_rows(task, split, SourceSettings(data_root=root), Ledger(), **options)]


def test_dev_rows_are_never_trained_on_and_nothing_is_lost(task: Task, data_root: Path) -> None:
    train, dev, test = (ids(task, split, data_root) for split in SPLITS)
    assert len(dev) == 200 and len(train) == 300 and len(test) == 90
    assert not set(train) & set(dev)
    assert set(train) | set(dev) == {f"train/{i}" for i in range(500)}


def test_rows_are_shuffled_the_same_way_each_time_and_a_limit_takes_the_first(task: Task, data_root: Path) -> None:
    train = ids(task, "train", data_root)
    assert train == ids(task, "train", data_root) != sorted(train)
    assert ids(task, "train", data_root, limit=7) == train[:7]


def test_a_missing_test_file_is_stood_in_for_and_said(task: Task, data_root: Path) -> None:
    moved = task.model_copy(
        update={
            "source": task.source.model_copy(update={"splits": {"train": "train", "dev": "validation", "test": "test"}})
        }
    )
    ledger = Ledger()
    test = read_rows(moved, "test", SourceSettings(data_root=data_root), ledger)
    dev = read_rows(moved, "dev", SourceSettings(data_root=data_root), ledger)
    assert not {row.id for row in test} & {row.id for row in dev}
    assert len(test) + len(dev) == 90
    assert any("validation stands in for test" in note for note in ledger.notes)


def test_broken_lines_are_all_named(task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "broken" / "toy"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"premise": 1}\n{nope\n[1]\n')
    with pytest.raises(SourceError) as caught:
        ids(task, "train", tmp_path / "broken")
    assert "train.jsonl:2" in str(caught.value) and "train.jsonl:3" in str(caught.value)


def test_a_hub_folder_is_read_as_the_hub_serves_it(task: Task, tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "toy"
    (repo / "data").mkdir(parents=True)
    for split, count in (("train", 300), ("validation", 40)):
        table = pyarrow.Table.from_pylist(rows_of(split, count))
        pyarrow.parquet.write_table(table, repo / "data" / f"{split}-00000-of-00001.parquet")
    (repo / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: data/train-*}\n"
        "  - {split: validation, path: data/validation-*}\n---\n"
    )
    hub = task.model_copy(update={"source": task.source.model_copy(update={"hub": str(repo)})})
    rows = read_rows(hub, "train", SourceSettings(), Ledger())
    assert len(rows) == 150  # half of a small split at most goes to dev
    assert rows[0].fields["hypothesis"] == "so"
    assert len(read_rows(hub, "test", SourceSettings(), Ledger())) == 40


def test_rows_that_cannot_be_had_say_what_to_do(task: Task, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--data-root"):
        read_rows(task, "train", SourceSettings(), Ledger())
    with pytest.raises(SourceError, match="no such folder"):
        read_rows(task, "train", SourceSettings(data_root=tmp_path / "none"), Ledger())


def test_world_rows_depend_on_their_seed_only() -> None:
    task = next(iter(load_catalog("world").tasks.values()))
    first, again, other = (
        [dict(r.fields) for r in read_rows(task, "test", SourceSettings(world_seed=seed), Ledger(), limit=20)]
        for seed in (1, 1, 2)
    )
    assert first == again != other
