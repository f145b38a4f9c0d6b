"""Soft prompts: one before each packed example, harmless to padding, bound to their base model."""

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from openflan.encoding import pack
from openflan.errors import ModelError
from openflan.models.adapters import base_name
from openflan.models.load import load_model
from openflan.models.packed_forward import collate, target_logits
from openflan.models.packing import packing_of
from openflan.models.soft_prompt import SoftPromptEmbedding, add_soft_prompt, prepend, save_soft_prompt
from tests.models.tiny import FAMILIES, VOCABULARY, examples, saved


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_separate_equals_vectors_by_hand(tmp_path: Path, family: str) -> None:
    base = saved(tmp_path / "model", family)
    untouched = copy.deepcopy(base.model)
    lm = add_soft_prompt(base, num_tokens=3, seed=5)
    assert lm.prefix_ids == (VOCABULARY, VOCABULARY + 1, VOCABULARY + 2)
    assert packing_of(lm.model).way == "ragged"
    some = examples(6, longest=10)
    batch = collate(pack(prepend(some, lm.prefix_ids), 24))
    embedding = lm.model.get_input_embeddings()
    assert isinstance(embedding, SoftPromptEmbedding)
    with torch.no_grad():
        embedding.vectors.mul_(2.0)
        packed = target_logits(lm.model, batch)
        torch.testing.assert_close(target_logits(lm.model, batch, "alone"), packed, rtol=1e-4, atol=1e-4)
        first = batch.input_ids[0, : batch.segments.lengths[0]]
        words = untouched.get_input_embeddings()(first[3:])
        by_hand = untouched(inputs_embeds=torch.cat([embedding.vectors, words])[None]).logits[0]
        inside = batch.target_positions[batch.target_positions < len(first)]
        torch.testing.assert_close(packed[: len(inside)], by_hand[inside], rtol=1e-4, atol=1e-4)
        assert packed.shape[1] == VOCABULARY


def test_only_the_vectors_are_trainable_and_they_have_an_effect(tmp_path: Path) -> None:
    lm = add_soft_prompt(saved(tmp_path / "model"), num_tokens=2, seed=10**30)
    assert [n for n, p in lm.model.named_parameters() if p.requires_grad] == ["model.embed_tokens.vectors"]
    ids = torch.tensor([[*lm.prefix_ids, 5, 6]])
    with torch.no_grad():
        assert not torch.allclose(lm.model(ids).logits[0, -1], lm.model(ids[:, 2:]).logits[0, -1], atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_the_vectors_start_as_embeddings_of_the_vocabulary(tmp_path: Path, family: str) -> None:
    base = saved(tmp_path / "model", family)
    words = base.model.get_input_embeddings()(torch.arange(VOCABULARY)).detach()
    lm = add_soft_prompt(base, num_tokens=3)
    vectors = lm.model.get_input_embeddings()(torch.tensor(lm.prefix_ids))
    assert all((vector == words).all(-1).any() for vector in vectors)


def test_left_and_right_padding_change_nothing(tmp_path: Path) -> None:
    lm = add_soft_prompt(saved(tmp_path / "model"), num_tokens=2, seed=10**30)
    ids, pad = [*lm.prefix_ids, 5, 6, 7], [1, 1, 1]
    mask, none = [1] * len(ids), [0] * len(pad)
    with torch.no_grad():
        alone = lm.model(torch.tensor([ids])).logits[0, -1]
        left = lm.model(
            torch.tensor([pad + ids]),
            attention_mask=torch.tensor([none + mask]),
            position_ids=torch.tensor([[0, 0, 0, *range(len(ids))]]),
        ).logits[0, -1]
        right = lm.model(torch.tensor([ids + pad]), attention_mask=torch.tensor([mask + none])).logits[0, len(ids) - 1]
    torch.testing.assert_close(left, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(right, alone, rtol=1e-4, atol=1e-4)


def test_saved_vectors_load_in_front_of_their_base_only(tmp_path: Path) -> None:
    lm = add_soft_prompt(saved(tmp_path / "model"), num_tokens=2, seed=10**30)
    save_soft_prompt(lm, tmp_path / "soft")
    again = load_model(str(tmp_path / "soft"))
    ids = torch.tensor([[*lm.prefix_ids, 5, 6]])
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, lm.model(ids).logits)
    assert again.prefix_ids == lm.prefix_ids
    assert again.identity != lm.identity
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        other.model.norm.weight += 1
    other.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="belongs to"):
        load_model(str(tmp_path / "soft"))


def test_vectors_saved_again_keep_their_base(tmp_path: Path) -> None:
    save_soft_prompt(add_soft_prompt(saved(tmp_path / "model"), num_tokens=2), tmp_path / "soft")
    loaded = load_model(str(tmp_path / "soft"))
    save_soft_prompt(loaded, tmp_path / "again")
    again = load_model(str(tmp_path / "again"))
    assert base_name(tmp_path / "again") == base_name(tmp_path / "soft") == str(tmp_path / "model")
    ids = torch.tensor([[*loaded.prefix_ids, 5, 6]])
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, loaded.model(ids).logits)


@pytest.mark.reference
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_loads_the_folder_to_the_same_logits(tmp_path: Path, family: str) -> None:
    lm = add_soft_prompt(saved(tmp_path / "model", family), num_tokens=3, seed=2)
    save_soft_prompt(lm, tmp_path / "soft")
    config = json.loads((tmp_path / "soft" / "adapter_config.json").read_text())
    plain = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        ours = lm.model(torch.tensor([[*lm.prefix_ids, 5, 6, 7, 8]])).logits
        theirs = PeftModel.from_pretrained(plain, str(tmp_path / "soft"))(input_ids=ids).logits
        bare = plain(ids).logits
    torch.testing.assert_close(theirs, ours)
    assert not torch.allclose(theirs[:, -4:], bare, atol=1e-3)


def test_vectors_that_are_none_of_this_model_are_refused(tmp_path: Path) -> None:
    save_soft_prompt(add_soft_prompt(saved(tmp_path / "model"), num_tokens=2), tmp_path / "soft")
    weights = tmp_path / "soft" / "adapter_model.safetensors"
    for found, match in (({"vectors": torch.ones(2, 32)}, "expected one matrix"),
                         ({"prompt_embeddings": torch.ones(2, 8)}, "embeddings of 32 numbers")):  # fmt: skip
        save_file(found, weights)
        with pytest.raises(ModelError, match=match):
            load_model(str(tmp_path / "soft"))


def test_a_second_soft_prompt_and_saving_none_are_refused(tmp_path: Path) -> None:
    plain = saved(tmp_path / "model")
    with pytest.raises(ModelError, match="no soft prompt"):
        save_soft_prompt(plain, tmp_path / "soft")
    lm = add_soft_prompt(plain, num_tokens=2)
    with pytest.raises(ModelError, match="already"):
        add_soft_prompt(lm)
