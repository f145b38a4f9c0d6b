"""LoRA: has an effect, trains only itself, merges to the same model."""

import copy
from pathlib import Path

import torch

from openflan.models.adapters import LoraSettings, add_lora
from openflan.models.packing import packing_of
from tests.models.tiny import saved

IDS = torch.tensor([[5, 6, 7, 8]])


def test_only_the_adapter_is_trainable_and_merging_keeps_the_logits(tmp_path: Path) -> None:
    lm = saved(tmp_path / "model")
    base = copy.deepcopy(lm.model)
    adapted = add_lora(lm, LoraSettings(rank=4), seed=1)
    named = dict(adapted.lm.model.named_parameters())
    assert {name.split(".")[-3] for name, p in named.items() if p.requires_grad} == {"lora_A", "lora_B"}
    assert type(adapted.lm.model) is type(base)
    assert packing_of(adapted.lm.model).way == "ragged"
    with torch.no_grad():
        for name, p in named.items():
            if "lora_B" in name:
                p.normal_()
        changed = adapted.lm.model(IDS).logits
        assert not torch.allclose(changed, base(IDS).logits, atol=1e-3)
        adapted.save(tmp_path / "adapter")
        assert (tmp_path / "adapter" / "adapter_config.json").exists()
        merged = adapted.merged().model
        torch.testing.assert_close(merged(IDS).logits, changed, rtol=1e-4, atol=1e-4)
    assert dict(merged.named_parameters()).keys() == dict(base.named_parameters()).keys()


def test_the_seed_decides_the_start(tmp_path: Path) -> None:
    starts = [add_lora(saved(tmp_path / str(i)), LoraSettings(rank=2), seed=s) for i, s in enumerate((0, 0, 1))]
    first, same, other = ({n: p for n, p in a.lm.model.named_parameters() if "lora_A" in n} for a in starts)
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)
