"""The doctor passes sound models, names what falls back, and fails each fault that is planted from outside."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from typer.testing import CliRunner

from openflan import encoding
from openflan.cli.app import app
from openflan.encoding import PromptFormat
from openflan.errors import ConfigError
from openflan.models import adapters, load, packed_attention, soft_prompt
from openflan.models.load import LanguageModel, save_model
from openflan.models.soft_prompt import add_soft_prompt, save_soft_prompt
from openflan.scoring import forward, generate, padded, rank, tree
from openflan.studies.doctor.examine import EXAMINED, Report, examine
from openflan.studies.doctor.finding import Measure, judged
from openflan.tuning import loss
from tests.conftest import Serving
from tests.models.tiny import SMALL, bpe, saved
from tests.models.tiny import tiny as tiny_model
from tests.scoring.conftest import tiny

Plant = Callable[[LanguageModel, pytest.MonkeyPatch], LanguageModel | None]


def outcomes(report: Report) -> dict[str, str]:
    return {check.name: check.finding.outcome for check in report.checks}


def said(report: Report) -> dict[str, str]:
    return {check.name: check.finding.said for check in report.checks}


def llama(**changes: Any) -> LanguageModel:
    lm = dataclasses.replace(tiny("llama"), tokenizer=bpe())
    return dataclasses.replace(lm, **changes)


FALLS_BACK = {
    "llama": set[str](),
    "qwen3": set[str](),
    "opt": set[str](),
    "mistral": {"trees"},
    "bloom": {"packing", "trees"},
    "gemma2": {"trees"},
    "mamba": {"packing", "trees"},
}
WORDS = {"vocabulary", "round-trip", "bos", "eos", "boundary", "options", "prompt-format"}
SLOW = ("mistral", "bloom", "gemma2", "mamba")


@pytest.mark.parametrize("family", [pytest.param(f, marks=[pytest.mark.slow] * (f in SLOW)) for f in FALLS_BACK])
def test_sound_models_pass_and_what_falls_back_is_named(family: str) -> None:
    lm = tiny(family)
    before = copy.deepcopy(lm.model.state_dict())
    report = examine(lm)
    found = outcomes(report)
    assert {name for name, outcome in found.items() if outcome == "falls back"} == FALLS_BACK[family]
    assert "fail" not in found.values(), said(report)
    assert list(found) == list(EXAMINED)
    assert found["generation"] == "pass"
    assert found["lora"] == ("not applicable" if family == "mamba" else "pass")  # peft refuses its layers
    assert bool(FALLS_BACK[family]) == ("not in the fastest way" in str(report))
    after = lm.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad and p.grad is None for p in lm.model.parameters())


def test_half_precision_and_a_folder_with_its_prompt_format(tmp_path: Path) -> None:
    save_model(saved(tmp_path / "plain"), tmp_path / "tuned", PromptFormat(separator=" => "))
    report = examine(str(tmp_path / "tuned"), dtype="bfloat16", device="cpu")
    assert set(outcomes(report).values()) == {"pass"}, said(report)
    assert "' => '" in said(report)["prompt-format"]
    assert "bfloat16 on cpu" in said(report)["placement"]


def test_a_soft_prompts_folder(tmp_path: Path) -> None:
    lm = add_soft_prompt(saved(tmp_path / "model"), num_tokens=3)
    save_soft_prompt(lm, tmp_path / "soft")
    report = examine(str(tmp_path / "soft"), device="cpu")
    assert "fail" not in outcomes(report).values(), said(report)
    assert outcomes(report)["soft-prompt"] == "pass"


def test_a_folder_without_a_tokenizer_is_checked_all_the_same(tmp_path: Path) -> None:
    tiny_model("gpt2").save_pretrained(tmp_path)
    found = outcomes(examine(str(tmp_path), device="cpu"))
    assert {name for name, outcome in found.items() if outcome == "not applicable"} == WORDS
    assert {outcome for name, outcome in found.items() if name not in WORDS} == {"pass"}


def test_a_context_of_four_tokens(tmp_path: Path) -> None:
    config = LlamaConfig(**SMALL | {"max_position_embeddings": 4})
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    bpe().save_pretrained(tmp_path)
    report = examine(str(tmp_path), device="cpu")
    assert "fail" not in outcomes(report).values(), said(report)


def test_fewer_learned_positions_than_the_self_checks_need(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=4, n_positions=9)).save_pretrained(tmp_path)
    bpe().save_pretrained(tmp_path)
    report = examine(str(tmp_path), device="cpu", only=["context", "trees", "generation"])
    assert outcomes(report) == {"context": "pass", "trees": "falls back", "generation": "pass"}, said(report)


@pytest.mark.slow
def test_real_models(stories: str) -> None:
    for model in (stories, "world:small-early"):
        report = examine(model, device="cpu", only=[*WORDS, "packing", "trees"])
        assert [name for name, outcome in outcomes(report).items() if outcome != "pass"] == ["prompt-format"], said(
            report
        )


# Faults, each planted from the outside.


def leaking_attention(shortest: int, longest: int = 1 << 30) -> Plant:
    """Packed attention that ignores segments, in batches of so many tokens: others deceive the model's self-check."""
    sound = packed_attention.packed_attention

    def attend(module: Any, q: Any, k: Any, v: Any, mask: Any, *, openflan_segments: Any, **others: Any) -> Any:
        if not shortest <= q.shape[2] <= longest:
            return sound(module, q, k, v, mask, openflan_segments=openflan_segments, **others)
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        scale = others.get("scaling")
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2), None

    def plant(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
        patch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, packed_attention.NAME, attend)  # pyright: ignore

    return plant


def mean_of_means(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    """Each forward pass weighs the same, however many targets it has."""
    sound = loss.backward

    def backward(model: Any, rows: Any, *, forward_tokens: int, **others: Any) -> float:
        parts = list(loss.forward_passes(rows, forward_tokens))
        found = [sound(model, part, forward_tokens=forward_tokens, **others) for part in parts]
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= len(parts)
        return sum(found) / len(found)

    patch.setattr(loss, "backward", backward)


def without_eos(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    sound = encoding.encode
    patch.setattr(
        encoding,
        "encode",
        lambda *given, **others: [
            dataclasses.replace(one, target_ids=one.target_ids[:-1]) for one in sound(*given, **others)
        ],
    )


def eos_by_pad(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    """A tokenizer that has no end of its own where padding has the same token, as trainers once masked it."""

    class Masked(PreTrainedTokenizerFast):
        @property
        def eos_token_id(self) -> int:  # pyright: ignore
            return 2 if self.pad_token == self.eos_token else 1

    masked = Masked(tokenizer_object=bpe().backend_tokenizer, bos_token="<s>", eos_token="</s>")
    return dataclasses.replace(lm, tokenizer=masked)


def two_bos(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    tokenizer = bpe()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> <s> $A", special_tokens=[("<s>", 0)]
    )
    return dataclasses.replace(lm, tokenizer=tokenizer)


def bos_in_the_format(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    return dataclasses.replace(lm, prompt_format=PromptFormat(separator="\n<s>"))


def bos_in_the_chat_template(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    tokenizer = bpe()
    tokenizer.chat_template = "{{ bos_token }}{{ bos_token }}{{ messages[0].content }}"
    return dataclasses.replace(lm, tokenizer=tokenizer)


def lossy(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    class Lossy(PreTrainedTokenizerFast):
        def decode(self, *given: Any, **others: Any) -> str:  # pyright: ignore
            return super().decode(*given, **others).replace("\n", " ")

    return dataclasses.replace(lm, tokenizer=Lossy(tokenizer_object=bpe().backend_tokenizer, eos_token="</s>"))


def options_alike(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    from tokenizers import Regex, normalizers

    tokenizer = bpe()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"yes|no"), "")
    return dataclasses.replace(lm, tokenizer=tokenizer)


def other_boundary(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    """Scoring splits one token earlier than tuning."""
    sound = encoding.encode_options

    def encode_options(*given: Any, **others: Any) -> Any:
        return [
            dataclasses.replace(
                one, prompt_ids=one.prompt_ids[:-1], option_ids=tuple((one.prompt_ids[-1], *o) for o in one.option_ids)
            )
            for one in sound(*given, **others)
        ]

    patch.setattr(encoding, "encode_options", encode_options)


def other_format(lm: LanguageModel, patch: pytest.MonkeyPatch) -> LanguageModel:
    sound = encoding.encode_prompts
    patch.setattr(
        encoding,
        "encode_prompts",
        lambda examples, tokenizer, _format, *rest, **others: sound(
            examples, tokenizer, PromptFormat(), *rest, **others
        ),
    )
    return dataclasses.replace(lm, prompt_format=PromptFormat(separator=" => "))


def soft_prompt_ignored(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, input_ids: Any) -> Any:
        return self.embedding(input_ids.masked_fill(input_ids >= self.num_embeddings, 0))

    patch.setattr(soft_prompt.SoftPromptEmbedding, "forward", forward)


def soft_prompt_once_per_row(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    sound = soft_prompt.prepend
    patch.setattr(
        soft_prompt, "prepend", lambda encoded, ids: [*sound(encoded[:1], ids), *encoded[1:]]
    )  # fmt: skip


def base_tuned_too(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    sound = soft_prompt.add_soft_prompt

    def add(lm: LanguageModel, **others: Any) -> LanguageModel:
        added = sound(lm, **others)
        added.model.get_output_embeddings().weight.requires_grad_(True)
        return added

    patch.setattr(soft_prompt, "add_soft_prompt", add)


def wrong_merge(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    sound = adapters.Adapted.merged

    def merged(self: adapters.Adapted) -> LanguageModel:
        with self.peft.disable_adapter():
            unadapted = copy.deepcopy(sound(self).model)
        for parameter in unadapted.parameters():
            parameter.data *= 1.01
        return dataclasses.replace(self.lm, model=unadapted)

    patch.setattr(adapters.Adapted, "merged", merged)


def lora_without_effect(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    sound = adapters.add_lora

    def add(*given: Any, **others: Any) -> adapters.Adapted:
        added = sound(*given, **others)
        for module in added.peft.modules():
            if isinstance(getattr(module, "scaling", None), dict):
                module.scaling["default"] = 0.0
        return added

    patch.setattr(adapters, "add_lora", add)


class OffByOne(forward.HeadReader):
    def add(self, hidden: Any, *asked: Any) -> None:
        super().add(hidden.roll(1, dims=0), *asked)


def trees_off_by_one(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tree, "HeadReader", OffByOne)


def padded_off_by_one(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(padded, "HeadReader", OffByOne)


def scores_off_by_one(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    sound = rank._option_scores

    def shifted(record: Any) -> rank.OptionScores:
        one = sound(record)
        return rank.OptionScores(one.id, tuple(tokens[1:] + tokens[:1] for tokens in one.logprobs))

    patch.setattr(rank, "_option_scores", shifted)


def rebuilt(forward: Callable[..., Any]) -> Plant:
    """The model as a subclass with another forward pass, which gets the class's own and the arguments."""

    def plant(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
        class Faulty(LlamaForCausalLM):
            def forward(self, input_ids=None, attention_mask=None, **others):  # pyright: ignore
                return forward(super().forward, input_ids, attention_mask, others)

        model = Faulty(lm.model.config).eval()
        model.load_state_dict(lm.model.state_dict())
        return dataclasses.replace(lm, model=model)

    return plant


def sees_padding(own: Any, input_ids: Any, attention_mask: Any, others: Any) -> Any:
    found = own(input_ids=input_ids, attention_mask=attention_mask, **others)
    if attention_mask is not None and not attention_mask.all():
        found.logits = found.logits * 1.01
    return found


def counts_padding(own: Any, input_ids: Any, attention_mask: Any, others: Any) -> Any:
    """Pads are read as text, as where a mask is not handed on."""
    return own(input_ids=input_ids, **{k: v for k, v in others.items() if k != "position_ids"})


def looks_ahead(own: Any, input_ids: Any, attention_mask: Any, others: Any) -> Any:
    found = own(input_ids=input_ids, attention_mask=attention_mask, **others)
    found.logits = found.logits + 0.1 * found.logits.mean(1, keepdim=True)
    return found


def not_finite(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        lm.model.get_output_embeddings().weight[7] = torch.nan


def too_few_rows(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    tokenizer = bpe()
    tokenizer.add_tokens([f"<extra{n}>" for n in range(20)])
    return dataclasses.replace(lm, tokenizer=tokenizer)


def tied_by_name_only(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> None:
    lm.model.config.tie_word_embeddings = True


def second_likeliest(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    """In batches the token chosen is another one."""
    sound = generate._next

    def following(model: Any, ids: torch.Tensor, mask: Any, cache: Any) -> Any:
        logits, kept = sound(model, ids, mask, cache)
        return (logits.roll(1, dims=-1) if len(ids) > 1 else logits), kept

    patch.setattr(generate, "_next", following)


def damaged_when_saved(_lm: LanguageModel, patch: pytest.MonkeyPatch) -> None:
    sound = load.save_model

    def save(lm: LanguageModel, *rest: Any) -> None:
        other = copy.deepcopy(lm.model)
        other.get_input_embeddings().weight.data *= 1.001
        sound(dataclasses.replace(lm, model=other), *rest)

    patch.setattr(load, "save_model", save)


def short_positions(lm: LanguageModel, _patch: pytest.MonkeyPatch) -> LanguageModel:
    return dataclasses.replace(tiny("gpt2"), context=200)


FAULTS: dict[str, list[Plant]] = {
    "forward": [not_finite, rebuilt(looks_ahead)],
    "context": [short_positions],
    "vocabulary": [too_few_rows],
    "tied": [tied_by_name_only],
    "round-trip": [lossy],
    "bos": [two_bos, bos_in_the_format, bos_in_the_chat_template],
    "eos": [without_eos, eos_by_pad],
    "boundary": [other_boundary],
    "options": [options_alike],
    "prompt-format": [other_format],
    "packing": [leaking_attention(0), leaking_attention(30, 95)],
    "isolation": [leaking_attention(30, 95)],
    "accumulation": [mean_of_means],
    "trees": [trees_off_by_one, scores_off_by_one],
    "padding": [padded_off_by_one, rebuilt(sees_padding), rebuilt(counts_padding)],
    "generation": [second_likeliest, rebuilt(counts_padding)],
    "soft-prompt": [soft_prompt_ignored, soft_prompt_once_per_row, base_tuned_too],
    "lora": [wrong_merge, lora_without_effect],
    "reload": [damaged_when_saved],
}


@pytest.mark.parametrize(("check", "plant"), [(check, plant) for check, plants in FAULTS.items() for plant in plants])
def test_a_planted_fault_fails_its_check(check: str, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = llama()
    lm = plant(lm, monkeypatch) or lm
    report = examine(lm, only=[check])
    assert outcomes(report) == {check: "fail"}, said(report)
    assert "cannot be made" not in said(report)[check]
    assert f"fails {check}" in str(report)


def test_every_check_but_the_descriptive_one_has_a_planted_fault() -> None:
    assert set(FAULTS) == set(EXAMINED) - {"placement"}


def test_the_model_is_left_as_it_was_after_a_check_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = llama()
    embedding = lm.model.get_input_embeddings()

    def refuse(*_given: Any, **_others: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(loss, "backward", refuse)
    report = examine(lm, only=["packing", "accumulation", "soft-prompt", "lora"])
    assert set(outcomes(report).values()) == {"fail"}
    assert said(report)["lora"] == "the check cannot be made: RuntimeError: out of memory"
    assert lm.model.get_input_embeddings() is embedding
    assert all(p.requires_grad and p.grad is None for p in lm.model.parameters())


def test_an_unknown_check_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no check 'tree'.*trees"):
        examine(llama(), only=["tree", "bos"])


def test_a_measure_that_is_no_number_never_holds() -> None:
    finding = judged([Measure("x", float("nan"), 1.0), Measure("y", 0.5, 1.0)], said="good", otherwise="bad")
    assert finding.outcome == "fail" and finding.worst is not None and finding.worst.what == "x"
    assert finding.measures[0].to_json() == {"what": "x", "difference": None, "tolerance": 1.0, "holds": False}


# The command.


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)


def test_the_command_prints_a_table_and_the_same_as_json(tmp_path: Path) -> None:
    saved(tmp_path)
    chosen = ("--model", str(tmp_path), "--device", "cpu", "--only", "packing,trees", "--quiet")
    done = run(*chosen)
    assert done.exit_code == 0
    assert "packing" in done.stdout and "can be used, in the fastest way" in done.stdout
    first, second = (run(*chosen, "--json").stdout for _ in range(2))
    assert first == second
    report = json.loads(first)
    assert report["outcome"] == "pass" and [check["name"] for check in report["checks"]] == ["packing", "trees"]
    assert {measure["what"] for measure in report["checks"][0]["measures"]} == {"logits", "loss", "gradient"}
    assert all(measure["holds"] for check in report["checks"] for measure in check["measures"])


def test_the_command_fails_where_a_check_fails(tmp_path: Path) -> None:
    saved(tmp_path)
    tokenizer = bpe()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    done = run("--model", str(tmp_path), "--only", "eos", "--device", "cpu", "--json")
    assert done.exit_code == 1
    assert "set eos_token" in json.loads(done.stdout)["checks"][0]["said"]


def test_the_command_lists_its_checks() -> None:
    listed = json.loads(run("--list", "--json").stdout)
    assert set(listed) == set(EXAMINED) and all(listed.values())
    assert all(name in run("--list").stdout for name in EXAMINED)


def test_an_endpoint_is_asked_what_it_can_be_asked(toy: Serving) -> None:
    done = run("--model", f"remote:toy@{toy.url}", "--json")
    assert done.exit_code == 0
    (check,) = json.loads(done.stdout)["checks"]
    assert (check["name"], check["outcome"]) == ("endpoint", "pass")
    with pytest.raises(ConfigError, match="no weights"):
        run("--model", f"remote:toy@{toy.url}", "--only", "bos")
