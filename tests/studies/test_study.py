"""Studies: what shares what, what is computed once, and that a grid means what it says."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest

from openflan import artifacts
from openflan.artifacts import read_json
from openflan.errors import ConfigError
from openflan.evaluation.evaluate import ClusterDraws
from openflan.evaluation.samples import read_samples, write_samples
from openflan.reports.study_page import write_study_report
from openflan.studies import clusters, study, templates
from openflan.studies.all_studies import STUDIES, possible
from openflan.studies.made import frozen, rows_lost
from openflan.studies.progress import silent
from openflan.studies.recipe import Recipe
from openflan.studies.rows import seen_templates, split_of
from openflan.studies.settings import SETTINGS, StudyName, StudySettings, load_settings, resolve_settings
from openflan.studies.study import LEDGER, is_done, model_folder, run_folder, run_study, samples_file


def toy(**top: Any) -> StudySettings:
    """The micro-world's settings at a size that takes seconds."""
    plain = load_settings("world").model_dump(mode="json")
    recipe: dict[str, Any] = plain["recipe"]
    recipe["tuning"] |= {"steps": 2, "tokens_per_step": 256}
    recipe["mixture"] |= {"max_examples": 60, "block_size": 64}
    recipe["supervised"] |= {"steps": 2}
    recipe["soft_prompt"] |= {"steps": 2, "tokens_per_step": 256}
    recipe["evaluation"] |= {"items": 3, "dev_items": 2, "resamples": 200}
    small = {
        "models": ["world:small-early"],
        "seeds": [1, 2],
        "counts": [1, 3],
        "orders": 2,
        "shots": [1],
        "resamples": 200,
        "studies": {},
    }
    return StudySettings.model_validate(plain | small | {"ladder": [["world:small-early"]], "prompt_rows": [8]} | top)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_plans_with_what_it_compares(name: str) -> None:
    settings = toy()
    plan = STUDIES[name].plan(settings)
    named = {reading.series for reading in plan.readings}
    assert named <= set(plan.series)
    assert plan.compared
    assert all({one.first, one.second} <= named for one in plan.compared)
    for system in plan.systems:
        assert not set(system.recipe.hold_out) & set(system.recipe.train_clusters or ())


def test_studies_are_planned_without_torch_and_each_can_have_values_of_its_own() -> None:
    code = "import sys, openflan.studies.all_studies; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert get_args(StudyName) == tuple(STUDIES)


@pytest.mark.parametrize("arm", ["untuned", "tuned"])
def test_what_another_process_works_on_comes_last(arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = [one for one in STUDIES["holdout"].plan(toy()).systems if one.arm == arm][:3]
    names = [one.name for one in systems]
    begun: list[str] = []
    other = contextlib.ExitStack()

    def run_arm(arm: str, recipe: Recipe, rows: object, folder: Path, *_: object, **__: object) -> None:
        begun.append(folder.name)
        if len(begun) == 2:  # the others are done: the other process ends too
            other.close()

    monkeypatch.setattr(study, "run_arm", run_arm)
    monkeypatch.setattr(study, "close_ledger", lambda recipe, rows, folder: artifacts.write_json(folder / LEDGER, {}))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    with other:
        # Tuning takes the model's folder, whatever system and study it is for.
        other.enter_context(artifacts.alone_in(model_folder(systems[0], tmp_path) or run_folder(systems[0], tmp_path)))
        study.run_systems(systems, tmp_path, workers=1, progress=silent)
    assert begun == [names[1], names[2], names[0]]
    assert all(is_done(one, tmp_path) for one in systems)


def test_what_no_seed_moves_is_run_once_and_models_are_shared() -> None:
    settings = toy()
    systems = STUDIES["holdout"].plan(settings).systems
    untuned = [one for one in systems if one.arm == "untuned"]
    assert len(untuned) == len(settings.splits)  # for two seeds
    shots = STUDIES["shots"].plan(settings).systems
    keys = {one.model_key for one in systems if one.arm == "tuned"}
    plain = {one.model_key for one in shots if one.arm == "tuned" and set(one.recipe.mixture.shots) == {0}}
    assert plain == keys and len(keys) == len(settings.splits) * 2
    mixed = {one.model_key for one in shots if set(one.recipe.mixture.shots) != {0}}
    assert len(mixed) == len(keys) and not mixed & keys
    soft = STUDIES["prompt_tuning"].plan(settings).systems
    assert {one.model_key for one in soft if one.arm == "soft_prompt"} == keys


def test_orders_are_permutations_and_the_first_is_by_number_of_tasks() -> None:
    settings = toy()
    available = clusters.train_clusters(settings)
    orders = [clusters.order_of(available, settings, number) for number in range(4)]
    assert orders[0] == available and len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == sorted(available) for order in orders)
    assert not set(available) & {"nli", "paraphrase"}


def test_fewer_clusters_are_among_more_and_growing_steps_grow() -> None:
    settings = toy(counts=[1, 2, 4])
    chosen = [
        reading.system.recipe
        for reading in clusters.STUDY.plan(settings).readings
        if reading.series == clusters.GROWING and reading.place and reading.replicate.order == 1
    ]
    steps = [recipe.tuning.steps for recipe in chosen]
    assert steps == sorted(steps)
    trained = list(dict.fromkeys(recipe.train_clusters for recipe in chosen))
    assert [len(one or ()) for one in trained] == [1, 2, 4]
    assert set(trained[1] or ()) < set(trained[2] or ())


def test_seen_templates_are_those_that_a_tasks_own_model_is_tuned_with() -> None:
    """The untuned model is asked through the same halves, which the tuning seed draws."""
    settings = toy(templates_per_task=[1, 10, 5])
    assert templates.numbers(settings) == [1, 5]  # ten would leave none unseen
    with pytest.raises(ConfigError, match="no unseen template"):
        templates.numbers(toy(templates_per_task=[30]))
    halves: dict[tuple[float | str, int], set[tuple[str, ...]]] = {}
    for reading in templates.STUDY.plan(settings).readings:
        recipe = reading.system.recipe
        task = next(task for task in split_of(recipe).evaluated if task.name == "world_synonym")
        seen = seen_templates(task, recipe)
        assert len(seen) == reading.place and set(seen) < set(task.of_kind("direct"))
        halves.setdefault((reading.place, reading.replicate.seed), set()).add(tuple(one.id for one in seen))
    assert all(len(same) == 1 for same in halves.values())
    assert len({str(half) for half in halves.values()}) > 2  # another seed, another half


def test_settings_name_every_problem() -> None:
    with pytest.raises(ConfigError) as raised:
        resolve_settings("world", None, sections={"tuning": {"steps": 0}, "mixture": {"nonsense": 1}})
    said = str(raised.value)
    assert "steps" in said and "nonsense" in said
    with pytest.raises(ConfigError, match="world"):
        load_settings("wrld")
    with pytest.raises(ConfigError, match="--hold-out"):
        resolve_settings(None, None, models=["some/model"])
    with pytest.raises(ConfigError, match=r"studies\.clusters: counts: .*at least 1 item"):
        toy(studies={"clusters": {"counts": []}}).of_study("clusters")
    assert [one.name for one in possible(toy(ladder=[]))] == [name for name in STUDIES if name != "scale"]


def test_a_size_is_one_rung_of_the_ladder() -> None:
    with pytest.raises(ConfigError, match="two rungs have as many parameters"):
        STUDIES["scale"].plan(toy(ladder=[["world:tiny"], ["world:base"], ["world:base-1"]]))


def test_a_foreign_model_takes_the_papers_recipe() -> None:
    splits = [["nli", "paraphrase"], ["commonsense"]]
    found, file = resolve_settings(None, None, models=["a/b"], splits=splits, seeds=[3])
    assert file is None
    assert found.recipe.catalogs == ("flan",) and found.recipe.tuning.steps == 30_000
    assert found.models == ("a/b",) and found.seeds == (3,)
    assert found.splits == (("nli", "paraphrase"), ("commonsense",))
    assert found.together == ("nli", "paraphrase", "commonsense")


def test_a_study_can_have_its_own_values_and_the_command_line_goes_before_them(tmp_path: Path) -> None:
    settings = toy(studies={"shots": {"seeds": [5], "splits": [["commonsense"]]}})
    assert settings.of_study("shots").seeds == (5,) and settings.of_study("shots").splits == (("commonsense",),)
    assert settings.of_study("holdout").seeds == (1, 2)
    grids = STUDIES["holdout"].grids
    # Another study's values are none of its own.
    assert settings.of_study("holdout").content(grids) == toy().content(grids)
    with pytest.raises(ConfigError, match=r"shots cannot set sedes"):
        resolve_settings(write_settings(tmp_path, "[studies.shots]\nsedes = [5]\n"), None)
    with pytest.raises(ConfigError, match=r"studies\.shots: seeds"):
        resolve_settings(write_settings(tmp_path, "[studies.shots]\nseeds = []\n"), None)[0].of_study("shots")
    own = write_settings(tmp_path, "[studies.shots]\nseeds = [5]\nshots = [2]\n")
    given, _ = resolve_settings(own, None, seeds=[9])
    assert given.of_study("shots").seeds == (9,) and given.of_study("shots").shots == (2,)


def write_settings(folder: Path, more: str) -> str:
    """The micro-world's settings as a file, with more at the end and without what it has for single studies."""
    text = (SETTINGS / "world.toml").read_text(encoding="utf-8")
    kept = [part for part in re.split(r"(?m)^(?=\[)", text) if not part.startswith("[studies.")]
    (folder / "settings.toml").write_text("".join(kept) + more, encoding="utf-8")
    return str(folder / "settings.toml")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("studies")
    run_study(STUDIES["instructions"], toy(seeds=[1]), out)
    return out


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_gives_the_same_bytes(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (done / "instructions" / "study.json").read_bytes()
    monkeypatch.setattr(study, "run_arm", lambda *_, **__: pytest.fail("computed again"))
    run_study(STUDIES["instructions"], toy(seeds=[1]), done)
    assert (done / "instructions" / "study.json").read_bytes() == before


@pytest.mark.slow
def test_what_is_lost_alone_is_computed_again_in_any_number_of_processes(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "again")
    systems = STUDIES["instructions"].plan(toy(seeds=[1])).systems
    kept = {one.name: samples_file(one, done).stat().st_mtime_ns for one in systems}
    for lost in systems[:2]:
        shutil.rmtree(samples_file(lost, tmp_path / "again").parents[2])
    shutil.rmtree(tmp_path / "again" / "models")
    run_study(STUDIES["instructions"], toy(seeds=[1]), tmp_path / "again", workers=2)
    before, after = (folder / "instructions" / "study.json" for folder in (done, tmp_path / "again"))
    assert after.read_bytes() == before.read_bytes()
    again = {one.name for one in systems if samples_file(one, tmp_path / "again").stat().st_mtime_ns != kept[one.name]}
    assert again == {one.name for one in systems[:2]}


@pytest.mark.slow
def test_numbers_are_those_of_the_runs(done: Path) -> None:
    content = read_json(done / "instructions" / "study.json")
    assert [one["name"] for one in content["series"]] == list(STUDIES["instructions"].plan(toy()).series)
    tuned = next(one for one in content["series"] if one["name"] == "tuned")
    by_place = {p["place"]: p for p in tuned["points"]}
    assert by_place["all"]["mean"] == pytest.approx((by_place["nli"]["mean"] + by_place["paraphrase"]["mean"]) / 2)
    contrast = next(one for one in content["contrasts"] if one["second"] == "untuned" and one["place"] == "nli")
    untuned = next(one for one in content["series"] if one["name"] == "untuned")
    other = next(p for p in untuned["points"] if p["place"] == "nli")
    assert contrast["mean"] == pytest.approx(by_place["nli"]["mean"] - other["mean"])
    page = write_study_report(done / "instructions")
    assert "Role of instructions" in page.read_text() or "role of instructions" in page.read_text()


@pytest.mark.slow
def test_a_difference_is_over_rows_that_both_sides_answered(done: Path, tmp_path: Path) -> None:
    settings = toy(seeds=[1])
    by_arm = {one.arm: one for one in STUDIES["instructions"].plan(settings).systems}
    lost = read_samples(samples_file(by_arm["untuned"], done)).filter(cluster="nli")["task"][0]

    def differences(name: str, without: tuple[str, ...], kept: pl.Expr) -> dict[str, Any]:
        shutil.copytree(done, tmp_path / name)
        for arm in without:
            file = samples_file(by_arm[arm], tmp_path / name)
            write_samples(read_samples(file).filter(kept), file)
        found = run_study(STUDIES["instructions"], settings, tmp_path / name)["contrasts"]
        return {one["place"]: one for one in found if (one["first"], one["second"]) == ("tuned", "untuned")}

    others = pl.col("task") != lost
    whole, one_side, both = (
        differences("whole", (), others),
        differences("one", ("untuned",), others),
        differences("both", tuple(by_arm), others),
    )
    assert {place: one["left_out"] for place, one in whole.items()} == {"nli": 0, "paraphrase": 0, "all": 0}
    assert {place: one["left_out"] for place, one in one_side.items()} == {"nli": 3, "paraphrase": 0, "all": 3}
    for place, one in one_side.items():
        for number in ("mean", "low", "high", "p"):
            assert one[number] == pytest.approx(both[place][number]), (place, number)
    assert one_side["nli"]["mean"] != whole["nli"]["mean"]

    # A template that one side has no answers through is left out for both; no row falls away.
    some = read_samples(samples_file(by_arm["untuned"], done)).filter(task=lost, split="test")["template"].unique()
    kept = others | (pl.col("split") == "dev") | pl.col("template").is_in(some.sort()[1:].to_list())
    one_side, both = differences("template", ("untuned",), kept), differences("templates", tuple(by_arm), kept)
    assert {place: one["left_out"] for place, one in one_side.items()} == {"nli": 0, "paraphrase": 0, "all": 0}
    for place, one in one_side.items():
        for number in ("mean", "low", "high", "p"):
            assert one[number] == pytest.approx(both[place][number]), (place, number)


def test_a_place_without_answers_is_left_out_and_the_others_stay() -> None:
    plan = STUDIES["instructions"].plan(toy(seeds=[1]))
    draws = ClusterDraws(0.5, np.full(200, 0.5), 3, ("t",), None, None, 0.0)
    answered = {(study._asked_as(one), one.cluster): study.Answered(draws, pl.DataFrame()) for one in plan.readings}
    whole = study.measured(plan, answered)
    untuned = next(one for one in plan.readings if one.series == "untuned" and one.cluster == "nli")
    del answered[study._asked_as(untuned), "nli"]
    found = study.measured(plan, answered)
    assert set(whole) - set(found) == {("untuned", "nli"), ("untuned", "all")}


def test_lost_rows_are_told_by_reason_with_their_range_over_systems() -> None:
    def ledger(**lost: int) -> dict[str, Any]:
        dropped = {reason: {"count": count, "rows": []} for reason, count in lost.items()}
        tasks = {name: {"kept": 9, "dropped": dropped, "shortened": {}} for name in ("a", "b")}
        return {"stages": {"read": tasks}, "notes": []}

    found = rows_lost([ledger(empty=2), ledger(empty=5, overlap=1), ledger()])
    assert found == [
        {"stage": "read", "what": "dropped", "reason": "empty", "systems": 2, "least": 4, "most": 10},
        {"stage": "read", "what": "dropped", "reason": "overlap", "systems": 1, "least": 2, "most": 2},
    ]


def test_a_settings_file_names_the_commit_that_froze_it_until_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("a = 1\n")
    assert frozen(file)["commit"] is None
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "frozen")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    before = frozen(file)
    assert re.fullmatch("[0-9a-f]{40}", before["commit"])
    file.write_text("a = 2\n")
    assert frozen(file)["commit"] is None and frozen(file)["sha256"] != before["sha256"]
    beyond = tmp_path / "beyond.toml"
    beyond.write_text('extends = "settings.toml"\n')
    assert frozen(beyond)["extends"] == frozen(file)


def test_what_is_given_on_top_of_settings_reaches_the_study_it_is_for(tmp_path: Path, monkeypatch: Any) -> None:
    settings, _ = resolve_settings("world", None, models=["world:tiny"], splits=[["commonsense"]])
    assert settings.together == ("commonsense",) and settings.ladder == ()
    settings, _ = resolve_settings("world", None, splits=[["commonsense"], ["nli"]], together=["nli"])
    assert settings.together == ("nli",) and settings.ladder
    file = tmp_path / "all.toml"
    file.write_text('extends = "world"\nprompt_rows = [32, "all"]\n')
    assert load_settings(file).prompt_rows == (32, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "world").mkdir()  # no settings file, whatever it holds
    assert load_settings("world").models


def test_models_and_prompts_to_tune_are_counted_before_they_are_tuned() -> None:
    systems = {
        name: STUDIES[name].plan(load_settings("world").of_study(name)).systems for name in ("holdout", "templates")
    }
    tasks = {task.name for one in systems["holdout"] for task in split_of(one.recipe).evaluated}
    numbers = {name: len(set[str]().union(*(one.tuned for one in some))) for name, some in systems.items()}
    assert numbers["holdout"] == 3 * 2 * 5 + 3 * len(tasks)
    assert numbers["templates"] == sum(
        len(split_of(one.recipe).evaluated) for one in systems["templates"] if one.recipe.sees_tasks
    )


@pytest.mark.parametrize("name", ["world", "quick"])
def test_steps_in_proportion_keep_the_shape_of_the_schedule(name: str) -> None:
    settings = load_settings(name)
    whole = settings.recipe.tuning
    for system in STUDIES["clusters"].plan(settings).systems:
        tuning = system.recipe.tuning
        assert tuning.warmup_steps / tuning.steps == pytest.approx(
            whole.warmup_steps / whole.steps, abs=0.6 / tuning.steps
        )


def test_settings_extend_others_table_by_table(tmp_path: Path) -> None:
    file, further = tmp_path / "mine.toml", tmp_path / "further.toml"
    file.write_text('extends = "world"\nseeds = [5]\n[recipe.tuning]\nsteps = 9\n[studies.shots]\nseeds = [6]\n')
    further.write_text('extends = "mine.toml"\nshots = [2]\n')
    world, found = load_settings("world"), load_settings(further)
    assert (found.seeds, found.shots, found.recipe.tuning.steps) == ((5,), (2,), 9)
    assert found.of_study("shots").seeds == (6,) and found.of_study("shots").splits == world.of_study("shots").splits
    assert found.recipe.tuning.lr == world.recipe.tuning.lr and found.models == world.models
    file.write_text('extends = "further.toml"\n')
    with pytest.raises(ConfigError, match="comes back"):
        load_settings(further)
    file.write_text("extends = 3\n")
    with pytest.raises(ConfigError, match="expected the name"):
        load_settings(file)
    file.write_text('extends = "wrld"\n')
    with pytest.raises(ConfigError, match="world"):
        load_settings(file)


@pytest.mark.slow
def test_what_was_tuned_is_counted_and_every_system_says_what_it_lost(done: Path) -> None:
    made = read_json(done / "instructions" / "made.json")
    systems = STUDIES["instructions"].plan(toy(seeds=[1])).systems
    own_task = [task for one in systems if one.arm == "supervised" for task in split_of(one.recipe).evaluated]
    assert made["models_tuned"] == len({one.model_key for one in systems if one.model_key}) + len(own_task)
    assert made["steps"] == 2 * made["models_tuned"] and made["flops"] > 0
    for one in systems:
        folder = done / "runs" / one.name
        assert read_json(folder / "split.json")["held_out"] == ["nli", "paraphrase"]
        assert read_json(folder / "mixture.lock")["tasks"]
        assert read_json(folder / "ledger.json")["stages"]["encode"]


KILLED = """
from pathlib import Path
import sys
from tests.studies.test_study import toy
from openflan.studies.all_studies import STUDIES
from openflan.studies.study import run_study
if __name__ == "__main__":
    run_study(STUDIES["instructions"], toy(seeds=[1]), Path(sys.argv[1]), workers=2)
"""


@pytest.mark.slow
def test_killed_in_the_middle_it_loses_the_stage_it_was_in_and_ends_with_the_same_bytes(
    done: Path, tmp_path: Path
) -> None:
    out, script = tmp_path / "killed", tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    finished: dict[Path, int] = {}
    for number in (1, 3, 6):
        process = subprocess.Popen([sys.executable, str(script), str(out)], env=environment, start_new_session=True)
        while process.poll() is None and len(list(out.glob("runs/*/ledger.json"))) < number:
            time.sleep(0.02)
        assert process.poll() is None, "ended before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pattern in ("runs/*/arms/*/samples.parquet", "models/*/model/model.safetensors"):
            for file in out.glob(pattern):
                assert finished.setdefault(file, file.stat().st_mtime_ns) == file.stat().st_mtime_ns
    assert finished
    run_study(STUDIES["instructions"], toy(seeds=[1]), out)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    before, after = (folder / "instructions" / "study.json" for folder in (done, out))
    assert after.read_bytes() == before.read_bytes()


@pytest.mark.slow
def test_answers_through_seen_and_unseen_templates_are_told_apart(tmp_path: Path) -> None:
    settings = toy(seeds=[1], together=["paraphrase"], templates_per_task=[5], splits=[["paraphrase"]])
    found = run_study(STUDIES["templates"], settings, tmp_path)
    systems = {one.arm: one for one in STUDIES["templates"].plan(settings).systems}
    samples = read_samples(samples_file(systems["untuned"], tmp_path)).filter(pl.col("split") == "test")
    tasks = split_of(systems["untuned"].recipe).evaluated
    for name, way in (("untuned_seen", True), ("untuned_unseen", False)):
        means = []
        for task in tasks:
            seen = [one.id for one in seen_templates(task, systems["untuned"].recipe)]
            mine = samples.filter(pl.col("task") == task.name, pl.col("template").is_in(seen) == way)
            means.append(mine.group_by("template").agg(pl.col("value").mean())["value"].mean())
        series = next(one for one in found["series"] if one["name"] == name)
        assert series["points"][0]["mean"] == pytest.approx(sum(means) / len(means))


def test_a_studys_fingerprint_follows_its_own_grids_and_no_others() -> None:
    def fingerprint(name: str, **top: Any) -> str:
        settings = toy(**top)
        return artifacts.fingerprint(settings.content(STUDIES[name].grids))

    grids = {grid for one in STUDIES.values() for grid in one.grids}
    assert grids | {"recipe", "models", "seeds", "report_seed", "resamples", "studies"} == set(
        StudySettings.model_fields
    )
    for name in STUDIES:
        assert (fingerprint(name, ladder=[]) != fingerprint(name)) == (name == "scale")
        assert fingerprint(name, resamples=300) != fingerprint(name)
    changed = load_settings("world").recipe.model_dump(mode="json")
    changed["soft_prompt"] |= {"lr": 0.5}
    assert fingerprint("prompt_tuning", recipe=changed) != fingerprint(
        "prompt_tuning", recipe=load_settings("world").recipe
    )
