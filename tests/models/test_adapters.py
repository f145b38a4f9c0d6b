"""LoRA: has an effect, trains only itself, merges to the same model, and is what plain peft makes of its folder."""

import copy
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from openflan.errors import ModelError
from openflan.models.adapters import Adapted, LoraSettings, add_lora
from openflan.models.load import LanguageModel, load_model, load_tokenizer, save_model
from openflan.models.packing import packing_of
from openflan.models.soft_prompt import add_soft_prompt, save_soft_prompt
from openflan.tuning.settings import TuningSettings
from openflan.tuning.tune import tune
from tests.models.tiny import FAMILIES, bpe, examples, saved

IDS = torch.tensor([[5, 6, 7, 8]])


def logits(lm: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(IDS).logits


def moved(lm: LanguageModel, settings: LoraSettings | None = None) -> Adapted:
    """LoRA whose update is not zero, as it is at the start."""
    adapted = add_lora(lm, settings or LoraSettings(rank=4), seed=1)
    with torch.no_grad():
        for name, parameter in adapted.lm.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return adapted


def test_only_the_adapter_is_trainable_and_merging_keeps_the_logits(tmp_path: Path) -> None:
    lm = saved(tmp_path / "model")
    base = copy.deepcopy(lm.model)
    adapted = moved(lm)
    named = dict(adapted.lm.model.named_parameters())
    assert {name.split(".")[-3] for name, p in named.items() if p.requires_grad} == {"lora_A", "lora_B"}
    assert type(adapted.lm.model) is type(base)
    assert packing_of(adapted.lm.model).way == "ragged"
    changed = logits(adapted.lm)
    assert not torch.allclose(changed, base(IDS).logits, atol=1e-3)
    merged = adapted.merged().model
    torch.testing.assert_close(merged(IDS).logits, changed, rtol=1e-4, atol=1e-4)
    assert dict(merged.named_parameters()).keys() == dict(base.named_parameters()).keys()


def test_the_seed_decides_the_start(tmp_path: Path) -> None:
    starts = [add_lora(saved(tmp_path / str(i)), LoraSettings(rank=2), seed=s) for i, s in enumerate((0, 0, 1))]
    first, same, other = ({n: p for n, p in a.lm.model.named_parameters() if "lora_A" in n} for a in starts)
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)


@pytest.mark.reference
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_loads_the_folder_to_the_logits_of_tuning(tmp_path: Path, family: str) -> None:
    lm = saved(tmp_path / "model", family)
    before = logits(lm).clone()
    adapted = moved(lm)
    tuned = logits(adapted.lm).clone()
    adapted.save(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    plain = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    with torch.no_grad():
        torch.testing.assert_close(PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))(IDS).logits, tuned)
    ours = load_model(str(tmp_path / "adapter"), device="cpu")
    torch.testing.assert_close(logits(ours), tuned, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, tuned, atol=1e-2)
    assert type(ours.model) is type(lm.model) and not ours.model.training
    assert load_tokenizer(str(tmp_path / "adapter")).vocab_size == lm.tokenizer.vocab_size


def test_a_tuned_folder_holds_the_same_model_merged_and_as_an_adapter(tmp_path: Path) -> None:
    settings = TuningSettings(
        steps=6, tokens_per_step=60, row_length=30, lr=1e-2, optimizer="adamw", method="lora", lora={"rank": 2}
    )
    lm = saved(tmp_path / "base")
    tuned = tune(lm, lambda block: examples(20, seed=block), settings, tmp_path / "run")
    assert not torch.allclose(logits(lm), logits(tuned), atol=1e-2)
    adapter = load_model(str(tmp_path / "run" / "adapter"), device="cpu")
    assert torch.equal(logits(adapter), logits(tuned))
    assert adapter.prompt_format == tuned.prompt_format is not None
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    generated = [m.generate(IDS, max_new_tokens=8, do_sample=False, pad_token_id=1) for m in (plain, adapter.model)]
    assert torch.equal(*generated)


def test_a_folder_moved_with_its_base_is_the_same_model(tmp_path: Path) -> None:
    moved(saved(tmp_path / "here" / "model")).save(tmp_path / "here" / "adapter")
    here = load_model(str(tmp_path / "here" / "adapter"), device="cpu")
    shutil.move(tmp_path / "here", tmp_path / "there")
    there = load_model(str(tmp_path / "there" / "adapter"), device="cpu")
    assert there.identity == here.identity and torch.equal(logits(there), logits(here))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    lm = saved(tmp_path / "model")
    adapter = tmp_path / "adapter"
    moved(lm).save(adapter)
    config, weights = (adapter / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    good = load_file(weights)
    first = sorted(good)[0]
    save_file({("x" if key == first else key): value for key, value in good.items()}, weights)
    with pytest.raises(ModelError, match="does not fit"):
        load_model(str(adapter), device="cpu")
    save_file(good, weights)
    config.write_text(config.read_text().replace('"LORA"', '"IA3"'))
    with pytest.raises(ModelError, match="expected LORA or PROMPT_TUNING"):
        load_model(str(adapter), device="cpu")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="not an adapter"):
        load_model(str(adapter), device="cpu")
    weights.write_bytes(whole)
    config.write_text("{")
    with pytest.raises(ModelError, match="not an adapter"):
        load_model(str(adapter), device="cpu")


def test_another_peft_users_adapter_loads_and_a_changed_base_of_ours_does_not(tmp_path: Path) -> None:
    lm = saved(tmp_path / "model")
    adapted = moved(lm)
    tuned = logits(adapted.lm).clone()
    adapted.save(tmp_path / "adapter")
    (tmp_path / "adapter" / "base.json").rename(tmp_path / "kept.json")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "adapter"), device="cpu")), tuned, rtol=1e-4, atol=1e-4)
    (tmp_path / "kept.json").rename(tmp_path / "adapter" / "base.json")
    other = saved(tmp_path / "other")
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    save_model(other, tmp_path / "model", None)
    with pytest.raises(ModelError, match="belongs to"):
        load_model(str(tmp_path / "adapter"), device="cpu")


def test_an_adapter_of_a_model_of_another_size_is_refused(tmp_path: Path) -> None:
    moved(saved(tmp_path / "model")).save(tmp_path / "adapter")
    (tmp_path / "adapter" / "base.json").unlink()  # as another peft user's, which names its base and no more
    saved(tmp_path / "model", hidden_size=64)
    with pytest.raises(ModelError, match=r"does not fit .*model: size mismatch for .*lora_A"):
        load_model(str(tmp_path / "adapter"), device="cpu")


def test_a_tokenizer_in_an_adapters_folder_is_the_one_that_is_used(tmp_path: Path) -> None:
    adapted = moved(saved(tmp_path / "model"))
    adapted.save(tmp_path / "adapter")
    bases = load_model(str(tmp_path / "adapter"), device="cpu")
    assert bases.tokenizer("Hello").input_ids == adapted.lm.tokenizer("Hello").input_ids
    bpe("Hello").save_pretrained(tmp_path / "adapter")
    own = load_model(str(tmp_path / "adapter"), device="cpu")
    assert own.tokenizer("Hello").input_ids == load_tokenizer(str(tmp_path / "adapter"))("Hello").input_ids
    assert len(own.tokenizer("Hello").input_ids) < len(bases.tokenizer("Hello").input_ids)
    assert own.identity != bases.identity


# Few bits

few_bits = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the extra qlora")


@few_bits
@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_lora_beside_few_bits_is_saved_alone_and_comes_back_as_tuned(tmp_path: Path, quantize: str) -> None:
    settings = TuningSettings.model_validate(
        {"steps": 3, "tokens_per_step": 60, "row_length": 30, "lr": 1e-2, "optimizer": "adamw", "method": "lora"}
        | {"lora": {"rank": 2, "quantize": quantize}}
    )
    whole = saved(tmp_path / "base", hidden_size=64, intermediate_size=64)
    lm = load_model(whole.name, device="cpu", quantize=quantize)
    assert lm.identity != whole.identity
    before = logits(lm).clone()
    assert 0 < (before - logits(whole)).norm() / before.norm() < 0.2
    tuned = tune(lm, lambda block: examples(20, seed=block), settings, tmp_path / "run", in_place=True)
    assert not (tmp_path / "run" / "model" / "config.json").exists()
    assert tuned.quantize == quantize and not torch.allclose(logits(tuned), before, atol=1e-2)
    lm.model.eval()  # it was tuned in place; int8 computes otherwise in training
    assert torch.equal(logits(tuned), logits(lm))
    with pytest.raises(ModelError, match="without loss"):
        Adapted(tuned, None).merged()
    with pytest.raises(ModelError, match="cannot be merged"):
        add_lora(tuned, settings.lora)
    save_soft_prompt(add_soft_prompt(load_model(tuned.name, device="cpu"), num_tokens=2), tmp_path / "soft")
    assert load_model(str(tmp_path / "soft"), device="cpu").quantize == quantize
    with pytest.raises(ModelError, match="only method lora"):
        full = settings.model_copy(update={"method": "full"})
        tune(
            load_model(whole.name, device="cpu", quantize=quantize), lambda block: examples(9), full, tmp_path / "full"
        )


@few_bits
def test_rows_that_end_within_a_block_of_four_bits_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "base")  # of 32 values a row
    with pytest.raises(ModelError, match=r"q_proj and 13 more take 32 values, which are no whole blocks of 64"):
        load_model(whole.name, device="cpu", quantize="nf4")
    assert load_model(whole.name, device="cpu", quantize="int8").quantize == "int8"


def test_bits_must_be_those_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="quantize = nf4"):
        add_lora(saved(tmp_path / "model"), LoraSettings(quantize="nf4"))


def test_without_bitsandbytes_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "model")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'openflan\[qlora\]'"):
        load_model(str(tmp_path / "model"), device="cpu", quantize="nf4")
