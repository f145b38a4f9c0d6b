"""Exemplars on the whole path: where they come from, whom they never meet, and what they leave alone."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from openflan.artifacts import read_json
from openflan.catalog.load import load_catalog
from openflan.errors import ConfigError
from openflan.evaluation.samples import read_samples
from openflan.ledger import Ledger
from openflan.rendering.example import Example
from openflan.rendering.exemplars import STAGE
from openflan.studies.recipe import EvaluationSettings, Recipe, recipe_from
from openflan.studies.rows import SplitRows, read_evaluated, read_exemplars
from openflan.studies.run import evaluation_examples, run, run_many


def recipe(catalog: str = "flan", **evaluation: object) -> Recipe:
    settings = {"items": 5, "dev_items": 4, "resamples": 100, "shots": [0, 3]} | evaluation
    return recipe_from(
        {"model": "world:small-early", "hold_out": ["nli"], "catalogs": [catalog], "evaluation": settings}, "test"
    )


def asked(settings: Recipe, names: Sequence[str], *, shots: int = 3) -> tuple[list[Example], SplitRows, Ledger]:
    catalog = load_catalog(*settings.catalogs)
    tasks = [catalog.task(name) for name in names]
    ledger = Ledger()
    evaluated = read_evaluated(tasks, settings, ledger)
    known = {task.name: task for task in tasks}
    rows = SplitRows({}, evaluated, known, ledger, read_exemplars(tasks, settings, ledger))
    return [example for _, example in evaluation_examples(rows, "direct", ledger, shots=shots)], rows, ledger


@pytest.mark.parametrize("draw", ["fixed", "per_item"])
def test_a_prompt_depends_neither_on_the_other_rows_nor_on_the_other_tasks(draw: str) -> None:
    names = sorted(load_catalog("world").tasks)[:3]
    many, _, _ = asked(recipe("world", exemplars=draw), names)
    few, _, _ = asked(recipe("world", exemplars=draw, items=2, dev_items=1), names[1:2])
    by_id = {(e.task, e.row_id, e.template): e for e in many}
    assert few and all(by_id[e.task, e.row_id, e.template] == e for e in few)
    prompts: dict[tuple[str, str], set[object]] = {}
    for example in many:
        prompts.setdefault((example.task, example.template), set()).add(example.exemplars)
    assert (max(map(len, prompts.values())) == 1) is (draw == "fixed")


def test_exemplars_are_train_rows_of_the_same_task_and_never_the_row_itself() -> None:
    for name in sorted(load_catalog("world").tasks)[:6]:
        examples, _, _ = asked(recipe("world"), [name])
        assert examples
        for example in examples:
            assert all(row_id.startswith("train/") for row_id in example.exemplar_rows)
            assert example.inputs not in [inputs for inputs, _ in example.exemplars]
            assert len(set(example.exemplars)) == len(example.exemplars) == 3


def test_zero_shot_reads_no_exemplars() -> None:
    settings = recipe("world", shots=[0])
    assert not settings.needs_exemplars
    _, rows, _ = asked(settings, ["world_entailment"], shots=0)
    assert rows.exemplars == {}


def test_a_task_without_train_rows_is_shown_dev_rows_and_says_so(tmp_path: Path, real_rows: Path) -> None:
    (tmp_path / "data").mkdir()
    folder = tmp_path / "data" / "arc_easy"
    folder.mkdir()
    for file in ("validation.jsonl.gz", "test.jsonl.gz"):
        (folder / file).symlink_to(real_rows / "arc_easy" / file)
    settings = recipe().changed(data_root=str(tmp_path / "data"))
    examples, rows, ledger = asked(settings, ["arc_easy"])
    assert "arc_easy: has no train rows, its exemplars are dev rows" in ledger.notes
    dev = {row.id for row in rows.evaluated["arc_easy"]["dev"]}
    of_dev = [example for example in examples if example.row_id in dev]
    assert of_dev
    for example in examples:
        assert len(example.exemplars) == 3 and example.row_id not in example.exemplar_rows


def test_a_task_with_no_row_to_show_is_left_out_and_counted(real_rows: Path) -> None:
    settings = recipe().changed(data_root=str(real_rows))
    examples, _, ledger = asked(settings, ["wsc273"])
    assert examples == []
    assert ledger.dropped[STAGE, "wsc273", "no row to take exemplars from"] == 5 * len(
        load_catalog("flan").task("wsc273").of_kind("direct")
    )
    assert any("neither train nor dev rows" in note for note in ledger.notes)


def test_real_rows_that_repeat_a_test_text_are_no_exemplars(tmp_path: Path) -> None:
    folder = tmp_path / "rte"
    folder.mkdir()

    def lines(count: int, word: str) -> str:
        told = [(f"{word}{' heavily' * i} in Oslo", i) for i in range(count)]
        return "".join(f'{{"premise": "{text}", "hypothesis": "Wet.", "label": 0, "idx": {i}}}\n' for text, i in told)

    (folder / "validation.jsonl").write_text(lines(3, "It rained"))
    (folder / "train.jsonl").write_text(lines(40, "IT  RAINED,"))
    examples, _, ledger = asked(recipe(items=3, shots=[16]).changed(data_root=str(tmp_path)), ["rte"], shots=16)
    tests = [example for example in examples if example.row_id.startswith("validation/")]
    assert len(tests) == 3 * len(load_catalog("flan").task("rte").of_kind("direct"))
    for example in tests:
        told = [" ".join(re.findall(r"\w+", inputs.lower())) for inputs, _ in example.exemplars]
        assert len(told) == 16 and " ".join(re.findall(r"\w+", example.inputs.lower())) not in told
    assert ledger.shortened[STAGE, "rte", "an exemplar repeats the row, the next one stands in"] > 0


def test_the_number_of_exemplars_is_checked() -> None:
    assert EvaluationSettings(shots=(5, 0)).shots == (0, 5)
    with pytest.raises(ValidationError, match="named twice"):
        EvaluationSettings(shots=(1, 1))
    with pytest.raises(ConfigError, match=r"evaluation\.shots"):
        recipe(shots=[-1])
    assert recipe().shots_of("tuned") == {"tuned": 0, "tuned@3": 3}
    assert recipe(few_shot=8).shots_of("few_shot") == {"few_shot": 8}


# Whole runs


def small(*arms: str, shots: Sequence[int]) -> Recipe:
    table = {
        "model": "world:small-early",
        "hold_out": ["nli"],
        "catalogs": ["world"],
        "arms": arms,
        "threads": 1,
        "lengths": {"inputs": 192, "targets": 32},
        "tuning": {"steps": 6, "tokens_per_step": 512, "row_length": 256, "optimizer": "adamw", "lr": 5e-4},
        "evaluation": {"items": 4, "dev_items": 3, "resamples": 100, "shots": shots, "few_shot": 4},
    }
    return recipe_from(table, "test")


@pytest.fixture(scope="module")
def with_exemplars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shots") / "nli"
    run(small("untuned", "tuned", "few_shot", shots=[0, 2]), out)
    return out


@pytest.mark.slow
def test_arms_with_exemplars_stand_beside_zero_shot_ones(with_exemplars: Path) -> None:
    result = read_json(with_exemplars / "result.json")
    assert set(result["arms"]) == {"untuned", "untuned@2", "tuned", "tuned@2", "few_shot"}
    pairs = {(d["arm"], d["against"]) for d in result["differences"]}
    assert pairs == {
        ("tuned", "untuned"), ("tuned", "untuned@2"), ("tuned", "few_shot"), ("tuned@2", "untuned@2"),
        ("tuned@2", "tuned"), ("untuned@2", "untuned"),
    }  # fmt: skip
    samples = read_samples(with_exemplars / "samples.parquet")
    for arm, most in (("untuned", 0), ("untuned@2", 2), ("tuned@2", 2), ("few_shot", 4)):
        shots = samples.filter(pl.col("arm") == arm)["shots"]
        assert shots.max() == most
        for task, numbers in result["arms"][arm]["tasks"].items():
            mine = samples.filter((pl.col("arm") == arm) & (pl.col("task") == task) & (pl.col("split") == "test"))
            assert numbers["shots"] == pytest.approx(mine["shots"].mean(), abs=1e-6)
    assert (samples["exemplars"].list.len() == samples["shots"]).all()
    train = set(read_json(with_exemplars / "split.json")["train"])
    assert not train & set(samples["task"])  # what exemplars are rows of was never tuned on
    ledger = read_json(with_exemplars / "ledger.json")
    assert set(ledger["stages"][STAGE]) == set(samples["task"])
    assert not any(entry["dropped"] for entry in ledger["stages"][STAGE].values())


@pytest.mark.slow
def test_exemplars_leave_the_zero_shot_answers_alone_and_workers_change_nothing(
    with_exemplars: Path, tmp_path: Path
) -> None:
    run(small("untuned", "tuned", shots=[0]), tmp_path / "zero")
    zero, both = (read_samples(folder / "samples.parquet") for folder in (tmp_path / "zero", with_exemplars))
    assert both.filter(pl.col("arm").is_in(["untuned", "tuned"])).equals(zero)
    recipe = small("untuned", "tuned", "few_shot", shots=[0, 2])
    run_many({tmp_path / "shared": recipe}, workers=2)
    for name in ("result.json", "samples.parquet", "ledger.json", "model/model.safetensors"):
        assert (tmp_path / "shared" / name).read_bytes() == (with_exemplars / name).read_bytes(), name


@pytest.mark.slow
def test_an_evaluation_killed_and_started_again_computes_nothing_it_had(
    tmp_path: Path, stories: str, real_rows: Path
) -> None:
    def start(out: Path) -> "subprocess.Popen[bytes]":
        command = [
            *(sys.executable, "-c", "from openflan.cli.app import main; main()", "evaluate", "--model", stories),
            *("--data-root", str(real_rows), "--tasks", "rte,hellaswag,squad_v1,web_nlg_en", "--shots", "0,3"),
            *("--limit", "3", "--max-new-tokens", "8", "--out", str(out), "-q"),
        ]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)

    def chunks(out: Path) -> dict[Path, int]:
        return {path.relative_to(out): path.stat().st_mtime_ns for path in sorted(out.rglob("chunk-*.jsonl"))}

    killed, straight = tmp_path / "killed", tmp_path / "straight"
    for wanted in (1, 3):  # within zero-shot, then within few-shot
        process = start(killed)
        before = chunks(killed) if killed.exists() else {}
        deadline = time.monotonic() + 600
        while len(chunks(killed) if killed.exists() else {}) < wanted:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (killed / "DONE").exists()
        assert {path: made for path, made in chunks(killed).items() if path in before} == before
    before = chunks(killed)
    assert start(killed).wait() == 0 and start(straight).wait() == 0
    after = chunks(killed)
    assert {path: after[path] for path in before} == before and set(after) == set(chunks(straight)) > set(before)
    for name in ("result.json", "samples.parquet", "ledger.json"):
        assert (killed / name).read_bytes() == (straight / name).read_bytes(), name
    result = read_json(killed / "result.json")
    metrics = {"rte": "accuracy", "hellaswag": "accuracy", "squad_v1": "squad", "web_nlg_en": "rouge"}
    assert set(result["arms"]) == {"model", "model@3"}
    for arm in result["arms"].values():
        assert {task: numbers["metric"] for task, numbers in arm["tasks"].items()} == metrics
        assert all(numbers["low"] <= numbers["mean"] <= numbers["high"] for numbers in arm["tasks"].values())
    assert result["arms"]["model@3"]["tasks"]["rte"]["shots"] > 0 == result["arms"]["model"]["tasks"]["rte"]["shots"]
