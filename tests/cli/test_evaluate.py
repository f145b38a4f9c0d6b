"""`openflan evaluate`."""

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openflan.catalog.load import load_catalog
from openflan.cli.app import app
from openflan.studies.evaluate import warn_of_tuned
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


def test_tasks_that_the_model_was_tuned_on_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen, unseen = load_catalog(write_catalog(tmp_path / "tasks", ("seen", "nli"), ("unseen", "nli"))).tasks.values()
    (tmp_path / "split.json").write_text(json.dumps({"train": ["seen", "other"]}))
    with caplog.at_level(logging.WARNING):
        warn_of_tuned("world:tiny", [seen])
        warn_of_tuned(str(tmp_path / "model"), [unseen])
        assert not caplog.messages
        for model in (tmp_path / "model", tmp_path / "arms" / "no_template" / "model"):
            warn_of_tuned(str(model), [seen, unseen])
    assert len(caplog.messages) == 2
    assert all("was tuned on seen: no zero-shot results" in message for message in caplog.messages)
