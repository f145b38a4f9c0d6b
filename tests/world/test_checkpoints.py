"""The base checkpoints that ship with the package."""

import json
from pathlib import Path

import pytest

from openflan.world import language as lang
from openflan.world.tokenizer import lexicon_words, template_words

CHECKPOINTS = sorted((Path(lang.__file__).parent / "checkpoints").glob("*/config.json"))

pytestmark = pytest.mark.skipif(not CHECKPOINTS, reason="no checkpoints in this source tree")


@pytest.fixture(params=[config.parent for config in CHECKPOINTS], ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_it_knows_every_word_of_tasks_and_language(folder: Path) -> None:
    words = set(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    assert not template_words() - words
    assert not lexicon_words() - words


def test_its_card_says_how_it_was_made(folder: Path) -> None:
    card = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert card["command"].startswith("python -m openflan.world.pretrain --size ")
    assert card["tokens"] >= card["settings"]["tokens"]
    assert card["probes"]


@pytest.mark.slow
def test_it_has_the_skills_its_card_reports(folder: Path) -> None:
    from openflan.world.pretrain import exported_accuracies

    reported = json.loads((folder / "training.json").read_text(encoding="utf-8"))["probes"]
    assert exported_accuracies(folder) == pytest.approx(reported, abs=0.05)
