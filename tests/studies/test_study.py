"""Studies: what shares what, what is computed once, and that a grid means what it says."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from openflan.artifacts import read_json
from openflan.errors import ConfigError
from openflan.reports.study_page import write_study_report
from openflan.studies import clusters, study
from openflan.studies.all_studies import STUDIES, possible
from openflan.studies.settings import StudySettings, load_settings, resolve_settings
from openflan.studies.study import run_study, samples_file


def toy(**top: Any) -> StudySettings:
    """The micro-world's settings at a size that takes seconds."""
    plain = load_settings("world").model_dump(mode="json")
    recipe: dict[str, Any] = plain["recipe"]
    recipe["tuning"] |= {"steps": 2, "tokens_per_step": 256}
    recipe["mixture"] |= {"max_examples": 60, "block_size": 64}
    recipe["evaluation"] |= {"items": 3, "dev_items": 2, "resamples": 200}
    small = {"models": ["world:small"], "seeds": [1, 2], "counts": [1, 3], "orders": 2, "shots": [1], "resamples": 200}
    return StudySettings.model_validate(plain | small | {"ladder": [["world:small"]], "prompt_rows": [8]} | top)


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
    assert trained[2] is not None and trained[2][:2] == trained[1]


def test_settings_name_every_problem() -> None:
    with pytest.raises(ConfigError) as raised:
        resolve_settings("world", None, sections={"tuning": {"steps": 0}, "mixture": {"nonsense": 1}})
    said = str(raised.value)
    assert "steps" in said and "nonsense" in said
    with pytest.raises(ConfigError, match="world"):
        load_settings("wrld")
    with pytest.raises(ConfigError, match="--hold-out"):
        resolve_settings(None, None, models=["some/model"])
    assert [one.name for one in possible(toy(ladder=[]))] == [name for name in STUDIES if name != "scale"]


def test_a_foreign_model_takes_the_papers_recipe() -> None:
    found = resolve_settings(None, None, models=["a/b"], splits=[["nli", "paraphrase"], ["commonsense"]], seeds=[3])
    assert found.recipe.catalogs == ("flan",) and found.recipe.tuning.steps == 30_000
    assert found.models == ("a/b",) and found.seeds == (3,)
    assert found.splits == (("nli", "paraphrase"), ("commonsense",))
    assert found.together == ("nli", "paraphrase", "commonsense")


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
