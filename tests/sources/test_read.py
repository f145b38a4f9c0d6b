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
from openflan.sources.local import read_file
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


def of_hub(task: Task, **splits: str) -> Task:
    return task.model_copy(update={"source": task.source.model_copy(update={"hub": "owner/name", "splits": splits})})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('text,label\nfine,a\n"never closed,b\nmore,c\n', r"csv:3: the row that begins here: unexpected end"),
        ("text,text,label\na,b,c\n", r"several columns called 'text' \(rename them\)"),
    ],
)
def test_a_csv_file_that_would_lose_rows_or_columns_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(SourceError, match=says):
        read_file(tmp_path / "rows.csv")


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    twice = pyarrow.table([[1], [2]], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "rows.parquet")
    with pytest.raises(SourceError, match="several columns called 'text'"):
        read_file(tmp_path / "rows.parquet")


def test_a_csv_file_of_a_hub_task_has_the_hubs_types(task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    lines = [
        "flag,answers,number,text,price",
        'False,"[""Ann Lee"", ""Lee""]",3,007,1.50',
        "true,[],,8,2",
        'True,"[""x""]",-4,"a, b",3',
    ]
    (folder / "test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    read = read_rows(of_hub(task, test="test"), "test", SourceSettings(data_root=tmp_path / "data"), Ledger())
    first, second, third = (row.fields for row in sorted(read, key=lambda row: row.id))
    assert first == {"flag": False, "answers": ["Ann Lee", "Lee"], "number": 3, "text": "007", "price": "1.50"}
    assert second == {"flag": True, "answers": [], "number": None, "text": "8", "price": "2"}
    assert (third["number"], third["text"]) == (-4, "a, b")
    (folder / "test.csv").write_text("answers\n['Ann Lee']\n['Lee']\n")
    with pytest.raises(SourceError, match="column answers: lists or objects that are not JSON"):
        ids(of_hub(task, test="test"), "test", tmp_path / "data")
    own = task.model_copy(update={"source": task.source.model_copy(update={"hub": None, "splits": {"test": "test"}})})
    assert read_rows(own, "test", SourceSettings(data_root=tmp_path / "data"), Ledger())[0].fields["answers"][0] == "["


def test_cells_that_no_column_takes_are_named_with_their_lines(task: Task, data_root: Path) -> None:
    file = data_root / "toy" / "validation.csv"
    (data_root / "toy" / "validation.parquet").unlink()
    file.write_text("premise,label\nI was charged, twice,0\nfine,1\na,b,c,d\n")
    with pytest.raises(SourceError) as raised:
        ids(task, "test", data_root)
    assert "validation.csv:2: has 1 cells more" in str(raised.value) and "validation.csv:4: has 2" in str(raised.value)
    file.write_text("premise,label\n" + "long " * 50_000 + ",0\n")
    assert len(read_rows(task, "test", SourceSettings(data_root=data_root), Ledger())[0].fields["premise"]) == 250_000


def test_a_damaged_archive_is_said(task: Task, data_root: Path) -> None:
    file = data_root / "toy" / "train.jsonl.gz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(SourceError, match=r"train.jsonl.gz: cannot be read"):
        ids(task, "train", data_root)


def test_train_and_test_never_come_from_one_file(task: Task, data_root: Path) -> None:
    both = of_hub(task, train="train_a", dev="train_a", test="train_b")
    for split in ("train", "test"):
        with pytest.raises(SourceError, match="its train and its test rows are the same: both are read from train in"):
            ids(both, split, data_root)
    with pytest.raises(SourceError, match=r"'train\[90%:\]', a part of a hub split, which a folder of files has not"):
        ids(of_hub(task, train="train[:90%]", test="train[90%:]"), "test", data_root)


def test_a_folder_and_the_hub_give_the_same_rows(task: Task, tmp_path: Path) -> None:
    files = {"train_r1": "train", "test_r1": "test"}
    for where, names in (("hub", list(files)), ("data/toy", list(files.values()))):
        (tmp_path / where).mkdir(parents=True)
        for name, split in zip(names, files.values(), strict=True):
            path = tmp_path / where / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(split, 40)))
    listed = "".join(f"  - split: {name}\n    path: {name}.jsonl\n" for name in files)
    (tmp_path / "hub" / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{listed}---\n")
    hub = task.source.model_copy(
        update={"hub": str(tmp_path / "hub"), "splits": {"train": "train_r1", "test": "test_r1"}}
    )
    asked = task.model_copy(update={"source": hub})
    for split in ("train", "test"):
        local, remote = (
            [(row.id, row.fields["premise"]) for row in read_rows(asked, split, settings, Ledger())]
            for settings in (SourceSettings(data_root=tmp_path / "data"), SourceSettings())
        )
        assert local == remote and local[0][0].startswith(f"{split}/")


def test_a_row_that_a_step_cannot_read_is_counted(task: Task, data_root: Path) -> None:
    stepped = task.model_copy(update={"source": task.source.model_copy(update={"prepare": ("keep_four_choices",)})})
    ledger = Ledger()
    assert not read_rows(stepped, "test", SourceSettings(data_root=data_root), ledger)
    assert ledger.dropped == {("prepare", "toy", "keep_four_choices: KeyError: 'choices'"): 90}
