"""Generation against transformers' own, and every way to end."""

import inspect

import pytest
import torch

from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ModelError
from openflan.models.load import LanguageModel
from openflan.models.soft_prompt import add_soft_prompt
from openflan.scoring.generate import Generation, GenerationRequest, _say_slow, generate

from .conftest import CONFIGS, Scripted, byte_tokenizer, tiny

PROMPTS = [(5,), (9, 8, 7, 6, 5, 4, 3), (20, 30, 40), tuple(range(10, 60))]
REQUESTS = [GenerationRequest(str(index), prompt) for index, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_generation_equals_greedy_generation_of_transformers_one_by_one(architecture):
    lm = tiny(architecture)
    found = generate(lm, REQUESTS, max_new_tokens=12, stops=[])
    for one, prompt in zip(found, PROMPTS, strict=True):
        ids = torch.tensor([prompt])
        expected = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=1, pad_token_id=1
        )[0, len(prompt) :].tolist()
        assert [*one.token_ids, *([1] if one.ended == "eos" else [])] == expected


@pytest.mark.parametrize("architecture", CONFIGS)
def test_company_in_the_batch_changes_nothing(architecture):
    lm = tiny(architecture)
    together = generate(lm, REQUESTS, max_new_tokens=12)
    assert together == [generate(lm, [request], max_new_tokens=12)[0] for request in REQUESTS]
    assert together == generate(lm, REQUESTS, max_new_tokens=12, batch_tokens=1)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_prompts_with_a_common_beginning_and_texts_of_many_lengths(architecture):
    """As few-shot prompts are: long common beginnings, and texts that leave the batch at different times."""
    lm = tiny(architecture)
    shared = tuple(5 + 7 * i % 200 for i in range(40))
    requests = [GenerationRequest(f"{i}", shared[: 40 - i % 3] + tuple(range(20 + i, 21 + 2 * i))) for i in range(12)]
    whole = generate(lm, requests, max_new_tokens=24, stops=[])
    # Stops that end texts early and late: pairs that the texts hold at the most different places. (No broken
    # characters: a later byte may still make something else of them.)
    pairs = {one.text[at : at + 2] for one in whole for at in range(len(one.text))}
    places = {pair: len({one.text.find(pair) for one in whole}) for pair in pairs if "\ufffd" not in pair}
    stops = sorted(places, key=lambda pair: (-places[pair], pair))[:2]
    together = generate(lm, requests, max_new_tokens=24, stops=stops)
    assert len({len(one.token_ids) for one in together}) > 1  # some leave the batch before others
    assert together == [generate(lm, [request], max_new_tokens=24, stops=stops)[0] for request in requests]
    for one, full in zip(together, whole, strict=True):
        assert full.token_ids[: len(one.token_ids)] == one.token_ids
        cuts = [at for stop in stops if (at := full.text.find(stop)) >= 0]
        if one.ended == "stop":
            assert one.text == full.text[: min(cuts)]
        else:
            assert not cuts and one == full


def test_a_token_that_the_model_does_not_know_is_named(llama):
    with pytest.raises(ModelError, match="id 260, the model knows 260 tokens") as raised:
        generate(llama, [*REQUESTS, GenerationRequest("other", (5, 260, 7))])
    assert [problem.where for problem in raised.value.problems] == ["other"]


def test_a_model_without_keys_and_values_is_computed_anew_and_says_so(caplog):
    _say_slow.cache_clear()
    generate(tiny("mamba"), REQUESTS, max_new_tokens=2)
    assert caplog.text.count("MambaForCausalLM keeps no keys and values") == 1


def test_a_common_beginning_is_computed_once(llama, monkeypatch):
    fed = []
    forward = llama.model.forward

    def counting(input_ids, **inputs):
        fed.append(input_ids.numel())
        return forward(input_ids=input_ids, **inputs)

    shared = tuple(range(10, 50))
    alike = [GenerationRequest(f"{i}", (*shared, 60 + i, *[9] * (i % 4))) for i in range(10)]
    alone = [GenerationRequest(f"x{i}", (70 + i, *shared)) for i in range(3)]
    expected = [generate(llama, [request], max_new_tokens=5, stops=[])[0] for request in (*alike, *alone)]
    monkeypatch.setattr("openflan.scoring.generate.accepted_arguments", lambda _: frozenset(inspect_of(forward)))
    monkeypatch.setattr(llama.model, "forward", counting)
    assert generate(llama, [*alike, *alone], max_new_tokens=5, stops=[]) == expected
    # Beginning, then the padded rests of ten prompts; the other three, which only look alike further on, whole.
    assert sorted(count for count in fed if count > 10) == sorted([40, 10 * 4, 3 * 41])
    # The order in which they come changes nothing.
    assert generate(llama, [*alone, *alike[::-1]], max_new_tokens=5, stops=[]) == [*expected[10:], *expected[9::-1]]


def inspect_of(function):
    return inspect.signature(function).parameters


def test_a_soft_prompt_survives_padding():
    lm = add_soft_prompt(tiny("llama"), num_tokens=3)
    together = generate(lm, REQUESTS, max_new_tokens=8)
    assert together == [generate(lm, [request], max_new_tokens=8)[0] for request in REQUESTS]


def test_the_context_bounds_what_is_written(llama):
    (one,) = generate(llama, [GenerationRequest("a", tuple(range(2, 92)))], max_new_tokens=50, stops=[])
    assert one.ended == "eos" or (one.ended == "length" and len(one.token_ids) == 96 - 90)
    with pytest.raises(ModelError, match="leave no room"):
        generate(llama, [GenerationRequest("a", tuple([5] * 96))])
    with pytest.raises(ModelError, match="two requests"):
        generate(llama, [REQUESTS[0], REQUESTS[0]])


# Ways to end

WORDS = ("yes", ".\n", "\n\nNext", "sub", "way", "STOP", " no", "OPS")


def written(*tokens: str, stops=("\n\n",), max_new_tokens=20) -> Generation:
    """What comes of a model that wants to write these tokens."""
    tokenizer = byte_tokenizer(*WORDS)
    ids = [tokenizer.convert_tokens_to_ids(token) for token in tokens]
    assert None not in ids
    first = tokenizer.convert_tokens_to_ids("Q")
    lm = LanguageModel(
        name="scripted",
        model=Scripted({first: ids}, len(tokenizer)),
        tokenizer=tokenizer,
        prompt_format=PromptFormat(),
        context=64,
        identity="scripted",
    )
    (one,) = generate(
        lm,
        [GenerationRequest("a", (first,))],
        stops=None if stops is None else list(stops),
        max_new_tokens=max_new_tokens,
    )
    return one


NEWLINE = "Ċ"  # how a byte-level vocabulary writes "\n"


def test_the_end_token_ends_and_is_not_part_of_the_text():
    one = written("yes", "</s>", "yes")
    assert (one.text, one.ended, len(one.token_ids)) == ("yes", "eos", 1)


def test_a_stop_across_token_borders_is_found_and_cut():
    one = written("yes", ".\n", NEWLINE, "yes")
    assert (one.text, one.ended, len(one.token_ids)) == ("yes.", "stop", 3)


def test_a_stop_inside_one_token_cuts_what_follows_it():
    one = written("yes", "\n\nNext", "yes")
    assert (one.text, one.ended) == ("yes", "stop")


def test_a_stop_at_once_gives_an_empty_text():
    assert written("\n\nNext").text == ""
    assert written("</s>").text == ""


def test_a_single_line_break_does_not_stop():
    one = written("yes", NEWLINE, "way", "</s>")
    assert (one.text, one.ended) == ("yes\nway", "eos")


def test_a_stop_text_may_stand_inside_a_word():
    one = written("sub", "way", "</s>", stops=["bw"])
    assert (one.text, one.ended) == ("su", "stop")


def test_the_budget_ends_too():
    one = written("yes", max_new_tokens=4)
    assert (one.text, one.ended) == ("yes" * 4, "length")


def test_by_default_the_prompt_format_says_what_stops():
    one = written("yes", NEWLINE, NEWLINE, "yes", stops=None)
    assert (one.text, one.ended) == ("yes", "stop")


def test_a_stop_far_into_a_long_text_is_found_across_token_borders():
    for before in (0, 1, 17, 40):
        one = written(*["yes"] * before, "S", "T", "OPS", "way", stops=["STOP"], max_new_tokens=60)
        assert (one.text, one.ended, len(one.token_ids)) == ("yes" * before, "stop", before + 3)


def test_a_stop_of_many_bytes_is_found_one_byte_at_a_time():
    marks = "…" * 9
    letters = [byte_tokenizer().convert_ids_to_tokens(i) for i in byte_tokenizer()(marks).input_ids]
    assert len(letters) == 27
    one = written(*["yes"] * 20, *letters, "way", stops=[marks], max_new_tokens=60)
    assert (one.text, one.ended, len(one.token_ids)) == ("yes" * 20, "stop", 47)


def test_a_long_text_costs_no_more_decoding_for_each_of_its_tokens():
    decoded = []

    class Counting:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def decode(self, ids, **options):
            decoded.append(len(ids))
            return tokenizer.decode(ids, **options)

    tokenizer = byte_tokenizer(*WORDS)
    first, yes = tokenizer.convert_tokens_to_ids(["Q", "yes"])
    lm = LanguageModel(
        name="scripted", model=Scripted({first: [yes]}, len(tokenizer)), tokenizer=Counting(),
        prompt_format=PromptFormat(), context=1024, identity="scripted",
    )  # fmt: skip
    (one,) = generate(lm, [GenerationRequest("a", (first,))], stops=["STOP"], max_new_tokens=150)
    assert len(one.token_ids) == 150
    assert max(decoded[:-2]) < 30


@pytest.mark.parametrize("stops", [[], ["STOP"]])
def test_no_budget_is_an_error(stops, llama):
    with pytest.raises(ModelError, match="at least one token"):
        generate(llama, REQUESTS, stops=stops, max_new_tokens=0)


def test_a_leading_space_is_kept():
    assert written(" no", "</s>").text == " no"


def test_sentencepiece_spaces_are_kept(stories_lm):
    tokenizer = stories_lm.tokenizer
    prompt = tuple(tokenizer("Once upon a time, there was a").input_ids)
    (one,) = generate(stories_lm, [GenerationRequest("a", prompt)], max_new_tokens=8)
    assert one.text.startswith(" ")
    assert tokenizer.decode([*prompt, *one.token_ids], skip_special_tokens=True).endswith(one.text)
