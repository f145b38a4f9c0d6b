"""A model by name, and back to a folder that plain transformers reads."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from openflan.encoding import PromptFormat
from openflan.errors import ModelError
from openflan.models.load import (
    FORMAT_FILE,
    folder_identity,
    load_model,
    load_tokenizer,
    save_model,
    write_prompt_format,
)
from openflan.models.provenance import TunedOn, tuned_on
from tests.models.tiny import bpe, saved, tiny


def test_what_is_saved_loads_in_plain_transformers_and_generates_the_same(tmp_path: Path) -> None:
    lm = saved(tmp_path / "first")
    save_model(lm, tmp_path / "second", PromptFormat(separator=" => "))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "second")
    ids = tokenizer("Hello", return_tensors="pt").input_ids
    assert ids.tolist() == [lm.tokenizer("Hello").input_ids]
    kwargs = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    assert torch.equal(plain.generate(ids, **kwargs), lm.model.generate(ids, **kwargs))
    again = load_model(str(tmp_path / "second"))
    assert again.prompt_format == PromptFormat(separator=" => ")
    assert all(torch.equal(a, b) for a, b in zip(lm.model.parameters(), again.model.parameters(), strict=True))


def test_identity_follows_content_and_not_the_prompt_format(tmp_path: Path) -> None:
    lm = saved(tmp_path / "model")
    assert lm.identity == saved(tmp_path / "other").identity
    write_prompt_format(tmp_path / "model", PromptFormat(separator="|"))
    assert folder_identity(tmp_path / "model") == lm.identity
    with torch.no_grad():
        next(lm.model.parameters())[0, 0] += 1
    save_model(lm, tmp_path / "model", None)
    assert folder_identity(tmp_path / "model") != lm.identity


def test_without_weights_it_is_the_same_model_and_takes_no_memory(tmp_path: Path) -> None:
    whole = saved(tmp_path / "model")
    shape = load_model(str(tmp_path / "model"), device="meta", dtype="bfloat16")
    assert shape.device.type == "meta"
    assert str(shape.dtype) == "torch.bfloat16"
    assert (shape.identity, shape.context) == (whole.identity, whole.context)
    sizes = {name: weight.shape for name, weight in shape.model.named_parameters()}
    assert sizes == {name: weight.shape for name, weight in whole.model.named_parameters()}
    assert all(weight.is_meta for weight in (*shape.model.parameters(), *shape.model.buffers()))


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_here_is_named(device: str) -> None:
    with pytest.raises(ModelError, match=f"device {device}: cannot be used"):
        load_model("never-looked-for", device=device)


def test_context_and_mode(tmp_path: Path) -> None:
    lm = saved(tmp_path / "model", "gpt2")
    assert (lm.context, lm.model.training, lm.prefix_ids, lm.prompt_format) == (64, False, (), None)


def test_a_mistyped_folder_names_its_neighbours(tmp_path: Path) -> None:
    saved(tmp_path / "llama-tiny")
    with pytest.raises(ModelError, match=r"no such folder.*llama-tiny"):
        load_model(str(tmp_path / "lama-tiny"))


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_weights_that_are_not_in_the_files_are_refused_and_not_drawn_at_random(tmp_path: Path, family: str) -> None:
    model = tiny(family)
    whole = dict(model.state_dict())
    lost = "lm_head.weight" if family == "qwen2" else "transformer.h.1.mlp.c_fc.weight"
    model.save_pretrained(tmp_path, state_dict={name: value for name, value in whole.items() if name != lost})
    bpe().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"no weights for {lost}"):
        load_model(str(tmp_path))


def test_weights_of_another_size_than_configured_are_named(tmp_path: Path) -> None:
    saved(tmp_path / "model", "qwen2")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 310}))
    with pytest.raises(ModelError, match=r"lm_head\.weight is \[300, 32\] in .*, by its configuration \[310, 32\]"):
        load_model(str(tmp_path / "model"))


def test_a_configuration_with_a_value_of_another_kind_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": "thirty-two"}))
    with pytest.raises(ModelError, match=r"does not hold a causal language model: .*hidden_size"):
        load_model(str(tmp_path / "model"))


def test_an_unknown_world_model_names_the_known_ones() -> None:
    with pytest.raises(ModelError, match="world:base"):
        load_model("world:bose")


def test_an_unreachable_hub_id_says_what_was_tried() -> None:
    with pytest.raises(ModelError, match=r"no folder of that name here, and the hub did not give a model 'no/such'"):
        load_model("no/such")


def test_unknown_dtype_and_damaged_format_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="float32"):
        load_model("world:base", dtype="float31")
    saved(tmp_path / "model")
    (tmp_path / "model" / FORMAT_FILE).write_text(json.dumps({"prompt_format": {"separater": ""}}))
    with pytest.raises(ModelError, match="separater"):
        load_model(str(tmp_path / "model"))


def test_what_a_model_was_tuned_on_is_saved_with_it(tmp_path: Path) -> None:
    lm = saved(tmp_path / "base")
    assert lm.tuned_on == tuned_on(lm.name) == TunedOn()
    past = TunedOn(("a", "b"), ("nli",))
    save_model(dataclasses.replace(lm, tuned_on=past), tmp_path / "tuned", PromptFormat())
    assert load_model(str(tmp_path / "tuned")).tuned_on == tuned_on(str(tmp_path / "tuned")) == past
    save_model(lm, tmp_path / "again", None)
    assert folder_identity(tmp_path / "tuned") == folder_identity(tmp_path / "again")
    save_model(dataclasses.replace(lm, tuned_on=past), tmp_path / "formless", None)
    again = load_model(str(tmp_path / "formless"))
    assert (again.prompt_format, again.tuned_on) == (None, past)
    (tmp_path / "tuned" / FORMAT_FILE).write_text(json.dumps({"tuned_on": ["a"]}))
    with pytest.raises(ModelError, match="does not tell what the model was tuned on"):
        tuned_on(str(tmp_path / "tuned"))


def test_a_real_model_loads(stories: str) -> None:
    lm = load_model(stories)
    assert lm.context == 512
    assert load_tokenizer(stories)("Tim").input_ids == lm.tokenizer("Tim").input_ids
