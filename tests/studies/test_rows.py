"""What a run reads: nothing missing in silence, nothing evaluated in tuning."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from openflan.artifacts import read_json
from openflan.catalog.holdout import hold_out_nothing
from openflan.catalog.load import load_catalog
from openflan.cli.app import app
from openflan.errors import OpenflanError, RunError, SourceError
from openflan.interop.mix import export_mixture, verify_lock
from openflan.ledger import Ledger
from openflan.studies.locks import lock
from openflan.studies.recipe import Recipe
from openflan.studies.rows import read_evaluated, read_split, split_of, store_split
from tests.catalog.toys import write_catalog
from tests.studies.conftest import LONG


def test_a_dataset_that_cannot_be_loaded_is_left_out_and_said_so(recipe: Recipe) -> None:
    rows = read_split(split_of(recipe), recipe)
    assert set(rows.train) == {"feeling", "mood"}
    assert any("away: left out" in note and "toy/away" in note for note in rows.ledger.notes)


def test_unless_all_are_required(recipe: Recipe) -> None:
    strict = recipe.changed(require_all=True)
    assert strict.fingerprint == recipe.fingerprint
    with pytest.raises(SourceError, match="toy/away"):
        read_split(split_of(strict), strict)


def test_tuning_rows_that_repeat_an_evaluated_text_are_out(recipe: Recipe) -> None:
    rows = read_split(split_of(recipe), recipe)
    assert not any(LONG in row.columns["premise"] for row in rows.train["mood"].rows)
    dropped = rows.ledger.dropped["overlap", "mood", "repeats text that entails evaluates"]
    paper = recipe.changed(hold_out_rule="paper")
    assert len(read_split(split_of(paper), paper).train["mood"].rows) == len(rows.train["mood"].rows) + dropped
    assert dropped > 0


def test_the_dev_loss_is_over_dev_rows_of_the_tuning_tasks_alone(recipe: Recipe) -> None:
    assert not read_split(split_of(recipe), recipe).dev
    measured = recipe.changed(tuning=recipe.tuning.model_dump() | {"dev_every": 5, "dev_rows": 7})
    assert measured.fingerprint == recipe.fingerprint
    rows = read_split(split_of(measured), measured)
    assert set(rows.dev) == set(rows.train) == {"feeling", "mood"}
    assert rows.ledger.to_json() == read_split(split_of(recipe), recipe).ledger.to_json()
    for name, share in rows.dev.items():
        assert 0 < len(share.rows) <= 7
        assert not {row.columns["premise"] for row in share.rows} & {
            row.columns["premise"] for row in rows.train[name].rows
        }
    # A dev row that repeats an evaluated text is no more part of it than of tuning.
    repeated = [row for row in rows.train["mood"].rows if LONG in row.columns["premise"]]
    assert not repeated and not any(LONG in row.columns["premise"] for row in rows.dev["mood"].rows)
    assert sum(rows.dev_ledger.dropped.values()) > 0


def with_step(recipe: Recipe, task: str, rows: dict[str, list[object]]) -> None:
    """A prepare step for a toy task, and labels of its rows in some of its files."""
    file = Path(recipe.catalogs[0]) / f"{task}.toml"
    step = 'prepare = ["keep_labelled"]\n\n'
    file.write_text(file.read_text().replace(step, "").replace("[columns]", f"{step}[columns]", 1))
    for split, labels in rows.items():
        rows_of_split = [
            {"premise": f"It is {i}.", "hypothesis": "so", "label": label} for i, label in enumerate(labels)
        ]
        path = Path(str(recipe.data_root)) / task / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_of_split))


@pytest.mark.parametrize("labels", [[], [-1] * 30], ids=["an empty file", "all dropped by a step"])
def test_an_evaluated_task_without_test_rows_is_left_out_and_said_so(recipe: Recipe, labels: list[object]) -> None:
    both = recipe.changed(hold_out=["sentiment"])
    with_step(both, "mood", {"train": [0, 1] * 9, "validation": labels})
    rows = read_split(split_of(both), both)
    assert set(rows.tasks) == set(rows.evaluated) == {"feeling"}
    assert "mood: left out, it has no test rows" in rows.ledger.notes
    tasks = list(split_of(both).evaluated)
    ledger = Ledger()
    assert set(read_evaluated(tasks, both, ledger)) == {"feeling"} and ledger.notes == rows.ledger.notes[:1]
    required = both.changed(require_all=True)
    for read in (lambda: read_split(split_of(both), required), lambda: read_evaluated(tasks, required, Ledger())):
        with pytest.raises(SourceError, match="mood: has no test rows"):
            read()


@pytest.mark.parametrize("side", ["evaluated", "tuned on"])
def test_rows_that_a_step_cannot_read_are_lost_and_those_it_refuses_are_not(recipe: Recipe, side: str) -> None:
    held = recipe.changed(hold_out=["sentiment" if side == "evaluated" else "nli"])
    with_step(held, "mood", {"train": [*[-1] * 20, *[0, 1] * 10], "validation": [*[-1] * 20, *[0, 1] * 10]})
    assert read_split(split_of(held), held).ledger.dropped["prepare", "mood", "no gold label"] >= 10
    failing = [*["?"] * 12, *[0, 1] * 20]
    with_step(held, "mood", {"train": failing, "validation": failing})
    with pytest.raises(SourceError, match=r"mood: \d+ of \d+ rows dropped in prepare: \d+ keep_labelled.*TypeError"):
        read_split(split_of(held), held)


def test_reading_ahead_in_processes_changes_nothing(recipe: Recipe) -> None:
    store_split(split_of(recipe), recipe, workers=2)
    ahead = read_split(split_of(recipe), recipe)
    again = read_split(split_of(recipe), recipe)
    assert [row.id for row in ahead.train["mood"].rows] == [row.id for row in again.train["mood"].rows]


def test_a_mixture_of_everything_has_a_lock_that_verifies(recipe: Recipe, tmp_path: Path) -> None:
    everything = recipe.changed(hold_out=[])
    export_mixture(everything, tmp_path / "out", "parquet", num_examples=50)
    file = tmp_path / "out" / "mixture.lock"
    lock = verify_lock(everything, file)
    counts = {name: min(task["rows"], 3_000) for name, task in lock["tasks"].items()}
    assert set(counts) == {"entails", "feeling", "mood"}
    for name, task in lock["tasks"].items():
        assert task["rate"] == pytest.approx(counts[name] / sum(counts.values()), abs=1e-9)
    rows = tmp_path / "data" / "mood" / "train.jsonl"
    rows.write_text(rows.read_text().replace("mood train", "mood then"))
    with pytest.raises(RunError, match=r"tasks\.mood\.rows_sha"):
        verify_lock(everything, file)


def test_the_ledger_of_a_mixture_is_of_what_was_written(recipe: Recipe, tmp_path: Path) -> None:
    shots = {"shots": {0: 0.5, 2: 0.5}, "block_size": 16}
    mixed = recipe.changed(hold_out=[], mixture=recipe.mixture.model_dump() | shots)
    export_mixture(mixed, tmp_path / "out", "parquet", num_examples=20)
    written = pl.read_parquet(tmp_path / "out" / "data")
    ledger = read_json(tmp_path / "out" / "ledger.json")["stages"]["exemplars"]
    assert written.height == 20
    assert sum(task["kept"] for task in ledger.values()) == (written["shots"] > 0).sum() > 0


def test_a_mixture_of_no_example_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    for name, column in (("mood", "label"), ("feeling", "label"), ("entails", "label")):
        file = tmp_path / "data" / name / "train.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        first = next(row for row in rows if row[column] in (0, 1))
        file.write_text(json.dumps(first))
    mixed = recipe.changed(hold_out=[], mixture=recipe.mixture.model_dump() | {"shots": {2: 1.0}})
    with pytest.raises(SourceError, match=r"0 of 20 examples: .*no row to take exemplars from"):
        export_mixture(mixed, tmp_path / "out", "parquet", num_examples=20)
    assert not (tmp_path / "out").exists()


def test_tasks_that_a_mixture_leaves_out_are_named(recipe: Recipe, tmp_path: Path) -> None:
    data = Path(str(recipe.data_root))
    (data / "mood" / "train.jsonl").write_text("")
    kept = read_split(split_of(recipe), recipe).train["feeling"].rows
    lines = (data / "feeling" / "train.jsonl").read_text().splitlines()
    lines[int(kept[0].id.split("/")[1])] = json.dumps({"label": 0})
    (data / "feeling" / "train.jsonl").write_text("\n".join(lines))
    command = ["mix", "--catalog", recipe.catalogs[0], "--data-root", str(data), "--out", str(tmp_path / "o")]
    told = CliRunner().invoke(app, [*command, "--examples", "20"])
    assert told.exit_code == 0, told.output
    assert "away: left out, its rows could not be read" in told.stderr
    assert "mood: left out, it has no rows to tune on" in told.stderr
    ledger = json.loads((tmp_path / "o" / "ledger.json").read_text())
    assert [note.split(":")[0] for note in ledger["notes"]] == ["away", "mood"]
    split = read_json(tmp_path / "o" / "split.json")
    assert split["train"] == ["entails", "feeling"]
    assert {"task": "mood", "reason": "it has no rows to tune on"} in split["excluded"]
    (dropped,) = ledger["stages"]["render"]["feeling"]["dropped"].values()
    assert dropped["count"] == 1


def test_nothing_held_out_is_for_mixtures_only(recipe: Recipe, tmp_path: Path) -> None:
    split = hold_out_nothing(load_catalog(*recipe.catalogs))
    assert split.evaluated == () and len(split.train) == 4
    with pytest.raises(OpenflanError, match="at least one cluster"):
        split_of(recipe.changed(hold_out=[]))


def test_require_all_reaches_the_command_line(recipe: Recipe, tmp_path: Path) -> None:
    command = ["mix", "--catalog", recipe.catalogs[0], "--data-root", str(recipe.data_root)]
    command += ["--out", str(tmp_path / "o")]
    assert CliRunner().invoke(app, [*command, "--examples", "20", "--quiet"]).exit_code == 0
    refused = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "p"), "--require-all"])
    assert isinstance(refused.exception, SourceError)


def test_the_split_of_a_folder_names_the_tasks_that_take_part(recipe: Recipe, tmp_path: Path) -> None:
    one = {"tasks_per_cluster": 1}
    both = recipe.changed(hold_out=["sentiment"], mixture=recipe.mixture.model_dump() | one)
    write_catalog(tmp_path / "catalog", ("follows", "nli"))
    with_step(both, "mood", {"train": [0, 1] * 9, "validation": []})
    shutil.copytree(tmp_path / "data" / "entails", tmp_path / "data" / "follows")
    rows = read_split(split_of(both), both)
    lock(both, split_of(both), rows, tmp_path / "out")
    split = read_json(tmp_path / "out" / "split.json")
    assert (split["evaluated"], split["train"]) == (["feeling"], list(rows.train))
    told = {one["task"]: one["reason"] for one in split["excluded"]}
    (other,) = {"entails", "follows"} - set(rows.train)
    assert told[other] == "not chosen by mixture.tasks_per_cluster"
    assert told["mood"] == "it has no test rows" and told["away"].startswith("its rows could not be read: ")
