"""Pretraining: the module, resuming, and the export."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from openflan.world import pretrain as module
from openflan.world.pretrain import SIZES, FastLlama, Settings, Start, batches, pretrain, to_llama
from openflan.world.probes import PROBES, Item, Probe, accuracies
from openflan.world.text import Patterns, document
from openflan.world.tokenizer import build_tokenizer, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@cache
def tokenizer() -> "PreTrainedTokenizerFast":
    return build_tokenizer(vocabulary(documents=3000))


@pytest.mark.parametrize("start", ["mimetic", "induction"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.05), (torch.float32, 1e-5)])
def test_the_export_computes_what_the_fast_module_computes(dtype: torch.dtype, most: float, start: Start) -> None:
    model = FastLlama(len(tokenizer()), SIZES["tiny"], 3, dtype, start)
    texts = [document(random.Random(seed), "full").text for seed in range(4)]
    encoded = tokenizer()(texts, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        ours = model(encoded["input_ids"]).float()
        theirs = to_llama(model, tokenizer())(**encoded).logits
    real = encoded["attention_mask"].bool()
    assert (ours - theirs)[real].abs().max() < most
    assert (ours.argmax(-1) == theirs.argmax(-1))[real].float().mean() > 0.97


def test_paired_heads_look_back_and_match_what_they_keep() -> None:
    """Twice the same forty words: one head is at the word before, the one above finds what followed the first time."""
    words, earlier = torch.arange(50, 950)[torch.randperm(900, generator=torch.Generator().manual_seed(0))[:40]], 39
    model = FastLlama(1000, SIZES["base"], seed=1, dtype=torch.float32, start="induction")
    shares = _attention(model, torch.cat((words, words))[None])
    late = torch.arange(60, 79)
    for layer in shares[:-1]:
        assert layer[0, late, late - 1].mean() > 0.6
    assert shares[1][1, late, late - earlier].mean() > 2 / 70
    mimetic = _attention(FastLlama(1000, SIZES["base"], seed=1, dtype=torch.float32), torch.cat((words, words))[None])
    assert mimetic[0][0, late, late - 1].mean() < 0.1
    assert mimetic[1][1, late, late - earlier].mean() < 2 / 70


@torch.no_grad()
def _attention(model: FastLlama, ids: torch.Tensor) -> list[torch.Tensor]:
    """Of each layer (heads, length, length): what each position attends to."""
    llama = to_llama(model, tokenizer())
    llama.set_attn_implementation("eager")
    return [layer[0] for layer in llama(ids, output_attentions=True).attentions or ()]


def test_batches_weight_answers_and_nothing_else() -> None:
    batch = next(batches(tokenizer(), seed=1, stage="focus", batch_tokens=512, answer_weight=4.0))
    assert batch.ids.shape == batch.weights.shape
    assert batch.tokens == int((batch.weights > 0).sum())
    assert bool(((batch.ids == 0) == (batch.weights == 0)).all())
    answers = {str(tokenizer().convert_ids_to_tokens(int(i))) for i in batch.ids[batch.weights == 4.0]}
    assert answers & {"yes", "no", "true", "false"}
    assert not answers & {"is", "the", "?", ":", "<eos>"}


def test_a_run_continues_where_it_stopped_and_ends_as_a_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = Settings(size="tiny", tokens=24_000, precision="float32")

    def run() -> FastLlama:
        return pretrain(settings, tmp_path, probes=(), report_every=6000, save_every=6000, tokenizer=tokenizer())

    with pytest.raises(InterruptedError):
        _interrupted(_Stop(after=16), run)
    before = _lines(tmp_path)[-1]
    model = run()
    lines = _lines(tmp_path)
    assert lines[-1]["tokens"] >= settings.tokens > before["tokens"] > 0
    assert lines[-1]["loss"] < lines[0]["loss"]
    card = json.loads((tmp_path / "model" / "training.json").read_text())
    assert card["restarts"] == 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")("Tom has the cup.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert (loaded(ids).logits - model(ids).float()).abs().max() < 0.1


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    pretrain(Settings(size="tiny", tokens=3000), tmp_path, probes=(), tokenizer=tokenizer())
    with pytest.raises(ValueError, match="other settings"):
        pretrain(Settings(size="tiny", tokens=4000), tmp_path, probes=(), tokenizer=tokenizer())


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    settings = Settings(tokens=10_000_000)

    def rate(tokens: int, steps: int = 1000) -> float:
        return module._learning_rate(settings, module._Progress(tokens=tokens, steps=steps))  # pyright: ignore[reportPrivateUsage]

    assert rate(0, steps=0) < rate(0, steps=40) < rate(1_000_000) == rate(6_000_000) == settings.learning_rate
    assert rate(6_000_000) > rate(8_000_000) > rate(9_900_000) > 0


def test_labels_of_whole_texts_come_last_and_among_exercises_alone() -> None:
    def stage(patterns: Patterns, tokens: int) -> str:
        settings = Settings(tokens=40_000_000, patterns=patterns)
        return module._phase(settings, module._Progress(tokens=tokens))[0]  # pyright: ignore[reportPrivateUsage]

    assert stage("exercises", 23_900_000) == stage("short", 30_000_000) == stage("none", 30_000_000) == "late"
    assert stage("exercises", 24_000_000) == stage("exercises", 39_000_000) == "labels"


def test_probes_tell_right_from_wrong() -> None:
    """A model that puts all weight on one token is right exactly where that token is."""
    probe = Probe("cups", (Item("Tom has the", ("cup", "hat"), 0), Item("Sue has the", ("cup", "hat"), 1)))
    favourite = tokenizer().get_vocab()["cup"]

    def logits(ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.full_like(ids, favourite), len(tokenizer())).float()

    assert accuracies([probe], logits, tokenizer()) == {"cups": 0.5}
    for each in PROBES:
        assert 0.3 < each.chance <= 0.5
        assert all(len(set(item.options)) == len(item.options) for item in each.items)


class _Stop:
    """Lets some steps pass, then interrupts."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise InterruptedError


def _interrupted(stop: _Stop, run: Callable[[], FastLlama]) -> None:
    original = module._loss  # pyright: ignore[reportPrivateUsage]

    def loss(model: FastLlama, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        stop()
        return original(model, ids, weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_loss", loss)
        run()


def _lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step(tmp_path: Path) -> None:
    settings = Settings(size="tiny", tokens=4_000, precision="float32")
    losses: list[float] = []
    for compiled in (False, True):
        pretrain(settings, tmp_path / str(compiled), probes=(), compiled=compiled)
        losses.append(_lines(tmp_path / str(compiled))[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)
