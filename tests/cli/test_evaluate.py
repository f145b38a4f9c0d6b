"""`openflan evaluate`."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openflan.artifacts import write_json
from openflan.catalog.load import load_catalog
from openflan.cli.app import app
from openflan.models.load import find_model
from openflan.studies.evaluate import seen_by
from tests.catalog.toys import write_catalog


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_evaluations_of_other_tasks_have_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for task in ("world_mood", "world_liked"):
        invoke("evaluate", "--model", "world:tiny", "--catalog", "world", "--tasks", task, "--limit", 2, "-q")
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_tasks_that_the_model_was_tuned_on_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder that does not tell itself, by the files of the run or study it lies in."""
    seen, unseen = load_catalog(write_catalog(tmp_path / "tasks", ("seen", "nli"), ("unseen", "nli"))).tasks.values()
    write_json(tmp_path / "split.json", {"train": ["seen", "other"]})
    write_json(tmp_path / "seen.lock", {"tasks": {"unseen": {}}})
    write_json(tmp_path / "study" / "models" / "key" / "mixture.lock", {"tasks": {"seen": {}}})
    assert seen_by("world:tiny", [seen]) == seen_by(str(tmp_path / "model"), [unseen]) == []
    told = {"model": "seen", "arms/no_template/model": "seen", "study/models/key/model": "seen"}
    for model, task in (told | {"arms/supervised/unseen/model": "unseen"}).items():
        assert seen_by(str(tmp_path / model), [seen, unseen]) == []  # no such model
        (tmp_path / model).mkdir(parents=True)
        assert seen_by(str(tmp_path / model), [seen, unseen]) == [task]
    monkeypatch.chdir(tmp_path / "model")
    assert seen_by(".", [seen, unseen]) == ["seen"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "model")
    assert seen_by(str(tmp_path / "elsewhere" / "link"), [seen]) == ["seen"]


@pytest.mark.slow
def test_a_tuned_model_is_not_called_untuned_nor_its_scores_zero_shot(tmp_path: Path) -> None:
    """Neither on the terminal nor in the result nor on the page."""
    shutil.copytree(str(find_model("world:tiny")), tmp_path / "run" / "model")
    (tmp_path / "run" / "split.json").write_text(json.dumps({"train": ["world_mood"]}))
    asked = ("--catalog", "world", "--tasks", "world_mood,world_liked", "--limit", 2)
    table = invoke("evaluate", "--model", tmp_path / "run" / "model", *asked, "--out", tmp_path / "out", "-q")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert set(result["arms"]) == {"model"} and result["seen"] == ["world_mood"]
    assert result["arms"]["model"]["clusters"]["sentiment"]["majority"] is not None
    invoke("report", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    seen = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    for text in (" ".join(table.split()), " ".join(seen.split())):
        assert "was tuned on world_mood: that is no zero-shot result" in text
        assert "untuned" not in text.lower() and "not tuned on" not in text
    assert "Zero-shot score" not in page and '<article class="sample">' in page
    assert (
        f"openflan evaluate --model {tmp_path}/run/model --tasks world_liked,world_mood --catalog world --limit 2"
        in page
    )
