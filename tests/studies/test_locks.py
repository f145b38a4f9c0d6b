"""What a folder's numbers depend on is compared before it goes on."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from openflan.artifacts import read_json
from openflan.errors import RunError
from openflan.models.identity import WORLD_FOLDER
from openflan.studies import run as run_module
from openflan.studies.all_studies import STUDIES
from openflan.studies.evaluate import evaluate_only
from openflan.studies.locks import check_evaluated, keep_lock, model_identity
from openflan.studies.recipe import Recipe
from openflan.studies.rows import asked_under, read_split, split_of
from openflan.studies.run import run
from openflan.studies.settings import StudySettings
from openflan.studies.study import Compared, Plan, Reading, Study, System, run_folder, run_study, samples_file
from tests.catalog.toys import write_catalog


def model_in(folder: Path) -> str:
    shutil.copytree(WORLD_FOLDER / "tiny", folder)
    return str(folder)


@pytest.fixture
def asked(recipe: Recipe, tmp_path: Path) -> Recipe:
    return recipe.changed(model=model_in(tmp_path / "model"), arms=["untuned"])


def test_an_evaluation_is_not_continued_with_other_rows_templates_or_weights(asked: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = evaluate_only(asked, ["entails"], out)
    assert evaluate_only(asked, ["entails"], out) == first
    rows = Path(str(asked.data_root)) / "entails" / "validation.jsonl"
    task = Path(asked.catalogs[0]) / "entails.toml"
    config = Path(asked.model) / "config.json"
    changes = {
        rows: (lambda text: text.replace("entails validation", "entails then"), "rows_sha"),
        task: (lambda text: text.replace("{{ premise }}", "Here: {{ premise }}", 1), "task_sha"),
        config: (lambda text: json.dumps(json.loads(text) | {"note": "another"}), "model"),
    }  # fmt: skip
    for file, (change, named) in changes.items():
        before = file.read_text()
        assert change(before) != before
        file.write_text(change(before))
        with pytest.raises(RunError, match=named):
            evaluate_only(asked, ["entails"], out)
        file.write_text(before)
    assert evaluate_only(asked, ["entails"], out) == first


def test_a_finished_run_gives_no_answers_to_other_rows(asked: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(asked, out)
    found = (out / "result.json").read_bytes()
    rows = Path(str(asked.data_root)) / "entails" / "validation.jsonl"
    before = rows.read_text()
    rows.write_text(before.replace("entails validation", "entails then"))
    with pytest.raises(RunError, match="rows_sha"):
        run(asked, out)
    rows.write_text(before)
    assert run(asked, out) == first and (out / "result.json").read_bytes() == found


def test_a_finished_folder_is_compared_without_reading_rows(asked: Recipe, tmp_path: Path) -> None:
    tasks = read_split(split_of(asked), asked).tasks
    evaluate_only(asked, list(tasks), tmp_path / "out")
    check_evaluated(tasks, model_identity(asked.model), tmp_path / "out")
    check_evaluated(tasks, None, tmp_path / "without a lock, from before there were any")
    with pytest.raises(RunError, match="model"):
        check_evaluated(tasks, "another", tmp_path / "out")
    other = {name: task.model_copy(update={"metrics": ("f1",)}) for name, task in tasks.items()}
    with pytest.raises(RunError, match=r"tasks\.entails"):
        check_evaluated(other, model_identity(asked.model), tmp_path / "out")


def test_a_study_does_not_pair_answers_to_other_rows_under_one_row_id(recipe: Recipe, tmp_path: Path) -> None:
    plain = {"recipe": recipe.changed(evaluation={"items": 4, "dev_items": 2}).model_dump(mode="json")}
    plain |= {"models": ["world:tiny"], "splits": [["nli"]], "together": ["nli"], "resamples": 200}
    settings, out = StudySettings.model_validate(plain), tmp_path / "studies"

    def of_arms(*arms: str) -> tuple[Study, list[System]]:
        systems = [System(settings.recipe_of(settings.replicates[0], arm, ("nli",))) for arm in arms]
        readings = [Reading(one.arm, "nli", settings.replicates[0], "nli", one) for one in systems]
        plan = Plan(dict(zip(arms, arms, strict=True)), readings, [Compared(arms[-1], arms[0])])
        return dataclasses.replace(STUDIES["holdout"], plan=lambda settings: plan), systems

    first, _ = of_arms("untuned")
    both, systems = of_arms("untuned", "untuned_completion")
    run_study(first, settings, out)
    rows = Path(str(recipe.data_root)) / "entails" / "validation.jsonl"
    before = rows.read_text()
    rows.write_text(before.replace("entails validation", "entails then"))
    run_module._read.clear()  # as in another process
    for _ in range(2):  # the second time before anything is read
        with pytest.raises(RunError, match="entails, test rows") as raised:
            run_study(both, settings, out)
        assert all(one.name in str(raised.value) for one in systems) and "--out" in str(raised.value)
    assert not samples_file(systems[1], out).exists()
    shutil.rmtree(run_folder(systems[0], out))
    changed = run_study(both, settings, out)
    assert run_study(both, settings, out) == changed and len(changed["contrasts"]) == 1


def test_a_lock_names_what_differs_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "some.lock"
    keep_lock({"rows": {"a": 1}}, file)
    keep_lock({"rows": {"a": 1}}, file)
    with pytest.raises(RunError, match=r"rows\.a: the run has 1, this recipe 2"):
        keep_lock({"rows": {"a": 2}}, file)
    assert read_json(file) == {"rows": {"a": 1}}


def test_a_task_counts_in_the_cluster_that_is_held_out(tmp_path: Path) -> None:
    from openflan.catalog.load import load_catalog

    folder = write_catalog(tmp_path, ("both", "misc"), ("other", "misc"))
    file = folder / "both.toml"
    file.write_text(file.read_text().replace('["misc"]', '["misc", "nli"]'))
    task = load_catalog(folder).task("both")
    assert asked_under(task, ["nli"]).clusters == ("nli", "misc")
    assert asked_under(task, ["misc"]) is task
