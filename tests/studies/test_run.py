"""The whole path on the smallest model: equal bytes, and a kill at any moment costs nothing but time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from openflan.artifacts import read_json, write_json
from openflan.errors import LeakageError, ModelError, RunError
from openflan.ledger import Ledger
from openflan.models.provenance import TunedOn, tuned_on
from openflan.studies.arm_models import arm_model
from openflan.studies.evaluate import seen_by
from openflan.studies.progress import silent
from openflan.studies.recipe import Recipe, load_recipe, resolve
from openflan.studies.rows import read_split, refuse_tuned_base, split_of
from openflan.studies.run import open_run, run, run_many, tune_only


def small(**top: object) -> Recipe:
    sections = {
        "tuning": {"steps": 24, "tokens_per_step": 512, "checkpoint_every": 4},
        "evaluation": {"items": 6, "dev_items": 4, "resamples": 200},
    }
    arms = ["untuned", "untuned_completion", "tuned", "no_template"]
    return resolve("demo", sections, **({"model": "world:small-early", "hold_out": ["nli"], "arms": arms} | top))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "nli"
    run(small(), out)
    return out


@pytest.mark.slow
def test_a_run_folder_is_complete_and_keeps_its_promises(finished: Path) -> None:
    for name in (
        "recipe.toml",
        "split.json",
        "mixture.lock",
        "ledger.json",
        "env.json",
        "steps.jsonl",
        "result.json",
        "DONE",
    ):
        assert (finished / name).is_file(), name
    result = read_json(finished / "result.json")
    assert set(result["arms"]) == {"untuned", "untuned_completion", "tuned", "no_template"}
    assert result["held_out"] == ["nli"]
    split = read_json(finished / "split.json")
    trained = set(read_json(finished / "mixture.lock")["tasks"])
    assert trained == set(split["train"]) and not trained & set(result["arms"]["tuned"]["tasks"])
    samples = pl.read_parquet(finished / "samples.parquet")
    assert samples.filter(pl.col("split") == "test").group_by("arm", "task").agg(pl.col("row_id").n_unique())[
        "row_id"
    ].unique().to_list() == [6]
    for arm in result["arms"].values():
        for task in arm["tasks"].values():
            assert task["low"] <= task["mean"] <= task["high"] and task["n"] == 6
    assert {d["against"] for d in result["differences"]} == {"untuned", "untuned_completion", "no_template"}


@pytest.mark.slow
def test_the_same_recipe_twice_is_the_same_bytes_whatever_the_workers(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "nli"
    run_many({again: small()}, workers=2)
    for name in (
        "result.json",
        "mixture.lock",
        "split.json",
        "ledger.json",
        "samples.parquet",
        "model/model.safetensors",
    ):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.slow
def test_data_workers_change_no_byte_that_tuning_leaves(tmp_path: Path) -> None:
    left: list[list[object]] = []
    tuning = {"steps": 9, "tokens_per_step": 256, "checkpoint_every": 4, "dev_every": 3, "dev_rows": 1}
    for workers in (0, 2):
        sections = {"tuning": tuning | {"data_workers": workers}, "mixture": {"block_size": 16}}
        recipe = resolve("demo", sections, model="world:small-early", hold_out=["nli"], train_clusters=["sentiment"])
        out = tmp_path / str(workers)
        tune_only(recipe, out)
        made = [path.name for path in sorted((out / "encoded").iterdir())]
        ledger = Ledger()
        arm_model("tuned", recipe, read_split(split_of(recipe), recipe), out, ledger, silent)
        steps = [json.loads(line) | {"timing": None} for line in (out / "steps.jsonl").read_text().splitlines()]
        files = [
            (out / name).read_bytes() for name in ("model/model.safetensors", "dev.jsonl", "dev.json", "mixture.lock")
        ]
        left.append([recipe.fingerprint, ledger.to_json(), steps, *files])
        assert len(made) > steps[-1]["block"] > 1
    assert left[0] == left[1]


@pytest.mark.slow
def test_a_finished_run_computes_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    run(small(), finished)
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}


@pytest.mark.slow
def test_a_folder_of_another_recipe_is_refused_with_the_differing_keys(finished: Path) -> None:
    with pytest.raises(RunError, match=r"tuning\.steps: the run has 24, this recipe 25"):
        run(small().changed(tuning=small().tuning.model_dump() | {"steps": 25}), finished)


def test_a_model_that_is_not_there_takes_no_folder(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="world:smal: no such micro-world checkpoint"):
        run(recipe.changed(model="world:smal"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="not a run folder"):
        run(small(), tmp_path)


def test_a_base_model_that_was_tuned_on_the_held_out_cluster_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    tuning = recipe.tuning.model_dump() | {"steps": 1, "tokens_per_step": 64}
    tables = {"tuning": tuning, "mixture": {"block_size": 16}, "supervised": {"steps": 1}}
    first = recipe.changed(model="world:tiny", evaluation={"items": 2, "dev_items": 1, "resamples": 100}, **tables)
    model = str(tune_only(first, tmp_path / "first"))
    told = {"tasks": ["feeling", "mood"], "clusters": ["sentiment"]}
    assert read_json(Path(model) / "openflan.json")["tuned_on"] == told
    leaking = first.changed(model=model, hold_out=["sentiment"], arms=["untuned"])
    for start in (run, lambda *given: run_many({given[1]: given[0]}, workers=2), tune_only):
        with pytest.raises(
            LeakageError, match=r"was tuned on what must not be seen.*evaluate(.|\n)*task feeling: is eval"
        ):
            start(leaking, tmp_path / "second")
    assert not (tmp_path / "second").exists()
    # The same clusters may stay held out, and arms may be tuned on the task they are asked.
    assert run(leaking.changed(hold_out=["nli"], arms=["untuned", "supervised"]), tmp_path / "third").arms
    supervised = tmp_path / "third" / "arms" / "supervised" / "entails" / "model"
    assert tuned_on(str(supervised)) == TunedOn(("entails", "feeling", "mood"), ("nli", "sentiment"))
    assert seen_by(str(supervised), split_of(first).evaluated) == ["entails"]


def test_a_past_that_no_local_arm_brings_along_is_not_asked_for(recipe: Recipe, tmp_path: Path) -> None:
    write_json(tmp_path / "model" / "openflan.json", {"tuned_on": {"tasks": ["entails"], "clusters": ["nli"]}})
    endpoint = {"url": "http://localhost:1", "model": "m"}
    own = recipe.changed(model=str(tmp_path / "model"), arms=["remote:other"], remote={"other": endpoint})
    refuse_tuned_base(own)
    with pytest.raises(LeakageError, match="task entails: is evaluated"):
        refuse_tuned_base(own.changed(arms=["remote:other", "untuned"]))


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(small().to_toml())
    command = [
        sys.executable,
        "-c",
        "from openflan.cli.app import main; main()",
        "run",
        str(recipe),
        "--out",
        str(out),
        "-q",
    ]
    marks = (
        "steps.jsonl",
        "arms/untuned/samples.parquet",
        "checkpoints",
        "model",
        "arms/tuned/scores",
        "arms/no_template",
    )
    kills = 0
    for mark in marks:
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (out / mark).exists():
            time.sleep(0.02)
        if process.poll() is None:
            time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if (out / "DONE").exists():
            break
    assert kills >= 3
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for name in ("result.json", "samples.parquet", "model/model.safetensors", "ledger.json"):
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_run_killed_before_its_recipe_was_written_begins_again(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text("{}")
    (tmp_path / ".recipe.toml.7.part").write_text("model = ")
    open_run(small(), tmp_path)
    assert load_recipe(tmp_path / "recipe.toml") == small()
    (tmp_path / "recipe.toml").unlink()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not a run folder"):
        open_run(small(), tmp_path)
