"""Pretraining text and tasks keep apart."""

from pathlib import Path

import pytest

from openflan.world import overlap
from openflan.world.overlap import check


def test_a_small_sample_is_clean() -> None:
    findings = check(1500, seed=1, row_seeds=(0,), rows_per_split=8)
    assert findings.clean, findings
    assert findings.tokens > 50_000


@pytest.mark.slow
def test_a_large_sample_is_clean_and_holds_every_template_word() -> None:
    findings = check(60_000, seed=2, row_seeds=(0, 1, 2), rows_per_split=60)
    assert findings.clean, findings
    assert not findings.rare_words


def test_it_finds_pieces_of_templates(tmp_path: Path) -> None:
    """The check is not blind: a template that quotes the text is reported."""
    (tmp_path / "quoting.toml").write_text(
        'name = "quoting"\n[[template]]\ninputs = "The good reply was {{ answer }}"\ntargets = ""\n', encoding="utf-8"
    )
    assert "the good reply was" in check(1500, rows_per_split=0, folder=tmp_path).pieces


def test_it_finds_facts_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is not blind: with the realms exchanged, or rows taken from the text, it reports them."""
    from openflan.world.language import Realm

    sentences = overlap._fact_sentences(Realm.PRETRAINING)  # pyright: ignore[reportPrivateUsage]
    stolen = list(sentences)
    monkeypatch.setattr(overlap, "_fact_sentences", lambda realm: stolen if realm is Realm.TUNING else [])  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    row = {"passage": "In Zed, hall is nasix. Nasix means hall.", "label": 0}
    monkeypatch.setattr(overlap, "evaluation_rows", lambda seeds, count: [("zed", row)])  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    monkeypatch.setattr(overlap, "document", _quoting)
    findings = check(200, rows_per_split=1)
    assert findings.rows == [("zed", "in zed , hall is nasix . nasix means hall .")]
    assert findings.facts


def _quoting(rng: object, stage: object, patterns: object) -> object:
    from openflan.world.text import Document

    return Document("Notes. In Zed, hall is nasix. Nasix means hall. Tom is happy. Tom has the cup. Ann is sad.", ())
