"""Studies of any model and catalog: real rows, a real small model, and the recipes that ship."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openflan.artifacts import read_json
from openflan.cli.app import app
from openflan.reports.study_page import write_index, write_study_report
from openflan.studies.all_studies import STUDIES, possible
from openflan.studies.recipe import RECIPES
from openflan.studies.settings import StudySettings, resolve_settings
from openflan.studies.study import run_study


def small(stories: str, real_rows: Path) -> StudySettings:
    """stories260K on a few real rows of three clusters: one held out, two tuned on for two steps."""
    sections = {
        "tuning": {"steps": 2, "tokens_per_step": 512, "row_length": 512, "optimizer": "adamw", "lr": 1e-4},
        "mixture": {"max_examples": 20, "block_size": 32},
        "lengths": {"inputs": 256, "targets": 64},
        "evaluation": {"items": 2, "dev_items": 1},
        "supervised": {"steps": 1},
        "soft_prompt": {"steps": 1, "tokens_per_step": 256},
    }
    top: dict[str, Any] = {"data_root": str(real_rows), "train_clusters": ["sentiment", "commonsense"], "threads": 1}
    settings, file = resolve_settings(
        None, None, models=[stories], splits=[["paraphrase"]], seeds=[1], sections=sections, **top
    )
    assert file is None
    few: dict[str, Any] = {"counts": (1, 2), "orders": 1, "shots": (1,), "prompt_rows": (4,), "ladder": ((stories,),)}
    few |= {"tasks_per_cluster": (1,), "templates_per_task": (1, 2), "resamples": 200}
    return settings.model_copy(update=few)


@pytest.mark.slow
def test_every_study_runs_on_real_rows(stories: str, real_rows: Path, tmp_path: Path) -> None:
    settings = small(stories, real_rows)
    for study in possible(settings):
        found = run_study(study, settings, tmp_path, workers=2)
        assert found["series"] and found["contrasts"]
        for split in found["splits"]:
            assert not set(split["train"]) & {*split["evaluated"], *(one["task"] for one in split["excluded"])}
        assert "cluster nli is barred" in write_study_report(tmp_path / study.name).read_text(encoding="utf-8")
    names = [study.name for study in possible(settings)]
    assert names == list(STUDIES)
    assert write_index(tmp_path, names).exists()
    assert read_json(tmp_path / "holdout" / "made.json")["models_tuned"] > 2


@pytest.mark.parametrize("recipe", sorted(file.stem for file in RECIPES.glob("*.toml") if file.stem != "demo"))
def test_a_shipped_recipe_resolves_for_every_study_without_its_weights(recipe: str, tmp_path: Path) -> None:
    command = ["study", "all", "--recipe", recipe, "--hold-out", "nli+paraphrase,commonsense", "--dry-run"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    for name in STUDIES:
        assert (f"study {name}" in done.output) is (name != "scale")  # a ladder has to be named
    assert not (tmp_path / "out").exists()
