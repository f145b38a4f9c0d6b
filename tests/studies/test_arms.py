"""The arms that see their task: never mixed with the held-out ones, labelled, resumable, and counted once."""

import json
from collections import Counter
from io import StringIO
from pathlib import Path

import polars as pl
import pytest

from openflan.artifacts import read_json
from openflan.errors import ConfigError, SourceError
from openflan.evaluation.samples import SEEN_ARMS, read_samples
from openflan.ledger import Ledger
from openflan.mixture.mixture import Mixture
from openflan.rendering.render import ReadRow
from openflan.reports.arms import ARMS as STYLES
from openflan.reports.arms import style
from openflan.reports.reading import read_report
from openflan.reports.table import render_table
from openflan.studies.progress import ProgressEvent
from openflan.studies.recipe import Recipe, load_recipe, recipe_from, resolve
from openflan.studies.rows import read_seen, read_split, split_of
from openflan.studies.run import run, run_many, tune_only
from openflan.studies.seen import spread_rows
from tests.catalog.toys import write_catalog

LONG = "Once upon a time there was a king who had three daughters and one of them liked to sing."


def with_arms(*arms: str, **top: object) -> Recipe:
    return recipe_from({"model": "m", "hold_out": ["nli"], "arms": list(arms), **top}, "test")


# Recipes


def test_each_arm_is_tuned_by_its_own_table_over_tuning() -> None:
    recipe = with_arms(
        *("tuned", "supervised", "soft_prompt"),
        tuning={"steps": 9, "lr": 0.1, "warmup_steps": 3, "schedule": "linear"},
        supervised={"steps": 4},
        soft_prompt={"steps": 5, "num_tokens": 7},
        seed=3,
    )
    tuned, supervised, soft = (recipe.tuning_of(arm) for arm in ("tuned", "supervised", "soft_prompt"))
    assert tuned == recipe.tuning.model_copy(update={"seed": 3})
    assert supervised == tuned.model_copy(update={"steps": 4})
    assert (soft.method, soft.steps, soft.soft_prompt_tokens, soft.lr) == ("soft_prompt", 5, 7, 0.3)
    assert (soft.warmup_steps, soft.schedule) == (0, "constant")
    assert recipe.tuning_of("untuned_soft_prompt") == soft


def test_the_papers_prompt_tuning_is_the_default() -> None:
    soft = with_arms("soft_prompt").tuning_of("soft_prompt")
    assert (soft.soft_prompt_tokens, soft.weight_decay, soft.lr, soft.optimizer) == (10, 1e-4, 0.3, "adafactor")
    assert (soft.steps, soft.scale_parameter) == (30_000, False)


def test_a_table_that_no_arm_reads_changes_nothing(tmp_path: Path) -> None:
    tables = {"supervised": {"steps": 4}, "soft_prompt": {"steps": 5}}
    assert with_arms("tuned", **tables).fingerprint == with_arms("tuned").fingerprint
    for arm, table in (("supervised", "supervised"), ("untuned_soft_prompt", "soft_prompt")):
        assert with_arms(arm, **{table: tables[table]}).fingerprint != with_arms(arm).fingerprint
    file = tmp_path / "recipe.toml"
    file.write_text(with_arms("tuned", **tables, mixture={"shots": {0: 0.5, 3: 0.5}}).to_toml())
    assert load_recipe(file).supervised.steps == 4 and load_recipe(file).mixture.shots == {0: 0.5, 3: 0.5}


def test_arms_that_cannot_be_made_are_refused_together() -> None:
    with pytest.raises(ConfigError) as refused:
        with_arms(*SEEN_ARMS, model="remote:m@http://localhost:1", tuning={"method": "soft_prompt"})
    said = str(refused.value)
    assert all(f"{arm} tunes its model" in said for arm in SEEN_ARMS)
    assert "tuning.method gives one already" in said
    with pytest.raises(ConfigError, match=r"num_token: unknown key \(did you mean num_tokens"):
        with_arms("soft_prompt", soft_prompt={"num_token": 3})
    with pytest.raises(ConfigError, match=r"shares sum to 0\.9"):
        with_arms("tuned", mixture={"shots": {0: 0.5, 3: 0.4}})


def test_flags_go_into_inner_tables() -> None:
    base = resolve("demo", {"tuning": {"lora": {"rank": 3}}})
    assert base.tuning.lora.rank == 3 and base.tuning.steps == resolve("demo").tuning.steps
    assert resolve(None, {"tuning": {"method": "lora"}}, model="m", hold_out=["nli"]).tuning.lr == 2e-4


def test_seen_arms_are_labelled_wherever_they_are_named() -> None:
    assert {name for name, face in STYLES.items() if face.seen} == set(SEEN_ARMS)
    assert all("seen" in style(arm).title and "seen" in style(f"{arm}@2").title for arm in SEEN_ARMS)


# Rows


def test_spread_rows_take_as_many_of_each_option_as_can_be() -> None:
    golds = [0] * 20 + [1] * 3 + [2] * 7
    rows = [ReadRow(f"train/{i}", {}, {}, ("a", "b", "c"), (gold,), (), "") for i, gold in enumerate(golds)]
    few = spread_rows(rows, 6)
    assert [row.id for row in few] == [f"train/{i}" for i in (0, 1, 20, 21, 23, 24)]
    assert Counter(row.gold[0] for row in spread_rows(rows, 15)) == {0: 6, 1: 3, 2: 6}
    assert spread_rows(rows, None) is rows and spread_rows(rows, 30) is rows


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("OPENFLAN_CACHE", str(tmp_path / "cache"))
    catalog = write_catalog(tmp_path / "catalog", ("entails", "nli"), ("bare", "nli"), ("feeling", "sentiment"))
    for name in ("entails", "bare", "feeling"):
        (folder := tmp_path / "data" / name).mkdir(parents=True)
        for split, count in (("train", 300), ("validation", 10)):
            if (name, split) == ("bare", "train"):
                continue
            rows = [{"premise": f"{name} {split} {i}", "hypothesis": "so", "label": i % 2} for i in range(count)]
            for row in rows[-4:] if name == "entails" else []:  # the last: not among the two that are evaluated
                row["premise"] += f": {LONG}"
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = {"catalogs": [str(catalog)], "data_root": str(tmp_path / "data"), "evaluation": {"items": 2}}
    return with_arms("tuned", "supervised", **table)


@pytest.mark.parametrize("rule", ["strict", "paper"])
def test_seen_rows_stand_apart_and_repeat_no_evaluated_text_under_either_rule(toys: Recipe, rule: str) -> None:
    recipe = toys.changed(hold_out_rule=rule)
    rows = read_split(split_of(recipe), recipe)
    assert set(rows.seen) == {"entails"} and set(rows.train) == {"feeling"}
    assert all(template.kind == "direct" for template in rows.seen["entails"].templates)
    assert not any(LONG in row.columns["premise"] for row in rows.seen["entails"].rows)
    assert 0 < rows.ledger.dropped["overlap", "entails", "repeats text that entails evaluates"] <= 4
    assert any("bare: has no train rows of its own" in note for note in rows.ledger.notes)
    assert read_split(split_of(recipe), recipe.changed(arms=["tuned"])).seen == {}
    drawn = {e.task for e in Mixture(rows.train, recipe.mixture, 0).examples(0, Ledger())}
    assert drawn == {"feeling"}


def test_no_train_row_of_any_task_is_an_error(toys: Recipe) -> None:
    bare = [task for task in split_of(toys).evaluated if task.name == "bare"]
    with pytest.raises(SourceError, match="need train rows"):
        read_seen(bare, toys, Ledger())


# Whole runs

ARMS = ("soft_prompt", "tuned", "untuned_soft_prompt", "supervised")
FILES = ("result.json", "samples.parquet", "ledger.json", "seen.lock", "mixture.lock", "model/model.safetensors")


def small(*arms: str, **top: object) -> Recipe:
    table: dict[str, object] = {
        "catalogs": ["world"],
        "hold_out": ["reading_comprehension_commonsense"],
        "train_clusters": ["struct_to_text"],
        "threads": 1,
        "lengths": {"inputs": 192, "targets": 32},
        "tuning": {"steps": 4, "tokens_per_step": 512, "row_length": 256, "optimizer": "adamw", "lr": 5e-4}
        | {"checkpoint_every": 1, "log_every": 2},
        "supervised": {"steps": 3},
        "soft_prompt": {"steps": 3, "tokens_per_step": 512, "rows": 8, "num_tokens": 2},
        "evaluation": {"items": 2, "dev_items": 1, "resamples": 100},
    }
    return with_arms(*arms, **(table | {"model": "world:small-early"} | top))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "seen"
    run_many({out: small(*ARMS)}, workers=2)
    return out


@pytest.mark.slow
def test_each_task_has_its_model_and_the_tuned_one_knows_nothing_of_it(finished: Path, tmp_path: Path) -> None:
    result = read_json(finished / "result.json")
    assert {name for name, arm in result["arms"].items() if arm.get("seen")} == set(SEEN_ARMS)
    pairs = {(d["arm"], d["against"]) for d in result["differences"]}
    assert pairs == {("tuned", arm) for arm in SEEN_ARMS} | {("soft_prompt", "untuned_soft_prompt")}
    tasks = set(result["arms"]["tuned"]["tasks"])
    samples = read_samples(finished / "samples.parquet")
    for arm in SEEN_ARMS:
        assert set(result["arms"][arm]["tasks"]) == tasks
        for task in tasks:
            home = finished / "arms" / arm / task
            trained = {
                json.loads(file.read_text())["stages"]["encode"].keys() == {task} for file in home.glob("enc*/*")
            }
            assert trained == {True}
            tuning = read_json(home / "tuning.json")
            assert tuning["settings"]["method"] == ("full" if arm == "supervised" else "soft_prompt")
    # Each arm's answers to the same prompts are another model's.
    means = samples.explode("logprobs").group_by("arm").agg(pl.col("logprobs").mean())["logprobs"]
    assert means.n_unique() == len(ARMS)
    locked = read_json(finished / "seen.lock")["tasks"]
    assert set(locked) == tasks and not tasks & set(read_json(finished / "mixture.lock")["tasks"])
    tune_only(small("tuned"), tmp_path / "alone")
    for name in ("model/model.safetensors", "mixture.lock", "split.json", "steps.jsonl"):
        mine, other = ((folder / name).read_text("latin1") for folder in (finished, tmp_path / "alone"))
        if name == "steps.jsonl":
            mine, other = (["".join(line.split('"timing"')[0]) for line in text.splitlines()] for text in (mine, other))
        assert mine == other, name


@pytest.mark.slow
def test_tables_say_seen(finished: Path) -> None:
    from rich.console import Console

    shown = StringIO()
    Console(file=shown, width=200).print(render_table(read_json(finished / "result.json")))
    said = shown.getvalue()
    for arm in SEEN_ARMS:
        assert f"{STYLES[arm].title.lower()}" in said and "(seen)" in STYLES[arm].title
    assert read_report(finished).runs[0].arms.keys() == set(ARMS)


@pytest.mark.slow
def test_workers_tune_no_model_twice(finished: Path) -> None:
    assert len((finished / "steps.jsonl").read_text().splitlines()) == 4
    ledgers = [read_json(file)["stages"]["encode"] for file in (finished / "arms").glob("*/ledger.json")]
    tuned_on = set(read_json(finished / "mixture.lock")["tasks"])
    assert sum(bool(tuned_on & set(stage)) for stage in ledgers) == 1  # what the tuned model read counts for one arm


class CrashError(Exception):
    """Stands for a crash."""


@pytest.mark.slow
def test_crashed_between_and_within_tasks_it_ends_with_the_bytes_that_workers_made(
    finished: Path, tmp_path: Path
) -> None:
    tasks = sorted(read_json(finished / "seen.lock")["tasks"])
    out = tmp_path / "seen"
    moments = [f"soft_prompt/{tasks[1]}: score", f"supervised/{tasks[-1]}: tune"]

    def crash(event: ProgressEvent) -> None:
        if moments and event.job.endswith(moments[0]):
            moments.pop(0)
            raise CrashError

    for left in (1, 0):
        with pytest.raises(CrashError):
            run(small(*ARMS), out, progress=crash)
        assert len(moments) == left
    assert (out / "arms" / "supervised" / tasks[-1] / "checkpoints").exists()
    run(small(*ARMS), out, progress=crash)
    for name in FILES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name
