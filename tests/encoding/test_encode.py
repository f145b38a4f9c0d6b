"""Truncation by rule, every loss counted, the same ids in tuning and scoring."""

import dataclasses

import pytest

from openflan.encoding import Lengths, PromptFormat, encode, encode_options, encode_prompts
from openflan.encoding.encode import CUT
from openflan.errors import ModelError
from openflan.ledger import Ledger
from openflan.rendering.example import Example
from tests.models.tiny import BOS, EOS, bpe

TOKENIZER = bpe("yes", "positive")  # else one token a byte, so that lengths can be counted by hand
FORMAT = PromptFormat()
PASSAGE = "the cat sat on the mat and " * 10
EXAMPLE = Example(
    task="rte",
    row_id="train/1",
    template="t",
    inputs=f"Read: {PASSAGE}Is it so?",
    targets="yes",
    options=("yes", "no"),
    gold=(0,),
    trimmable=(6, 6 + len(PASSAGE)),
)


def short(**changes: object) -> Example:
    return dataclasses.replace(EXAMPLE, inputs="Is it so?", trimmable=None, **changes)


def test_eos_ends_every_target_once_and_bos_begins_every_prompt_once() -> None:
    (found,) = encode([short()], TOKENIZER, FORMAT, Lengths(), Ledger())
    assert found.target_ids.count(EOS) == 1
    assert found.target_ids[-1] == EOS
    assert (*found.prompt_ids, *found.target_ids).count(BOS) == 1
    assert TOKENIZER.decode(found.prompt_ids + found.target_ids) == "<s>Is it so?\nyes</s>"


@pytest.mark.parametrize("inputs", ["Is it so?", "Is it so? ", "posit"])
@pytest.mark.parametrize("separator", ["\n", "", " "])
def test_tuned_and_scored_ids_are_the_same(inputs: str, separator: str) -> None:
    example = dataclasses.replace(short(targets="ive", options=("ive", "ion")), inputs=inputs)
    form = PromptFormat(separator=separator)
    (tuned,) = encode([example], TOKENIZER, form, Lengths(), Ledger())
    (scored,) = encode_options([example], TOKENIZER, form, Lengths(), Ledger())
    assert tuned.prompt_ids + tuned.target_ids[:-1] == scored.prompt_ids + scored.option_ids[0]


def test_a_prompt_alone_is_what_tuning_put_before_the_target() -> None:
    (tuned,) = encode([short()], TOKENIZER, FORMAT, Lengths(), Ledger())
    (asked,) = encode_prompts([short()], TOKENIZER, FORMAT, Lengths(), Ledger())
    assert asked.prompt_ids == tuned.prompt_ids


def test_exemplars_go_before_the_passage_does_and_last_ones_first() -> None:
    shown = (("first", "1"), ("second", "2"), ("third", "3"))
    ledger = Ledger()
    (found,) = encode([short(exemplars=shown)], TOKENIZER, FORMAT, Lengths(inputs=25), ledger)
    assert TOKENIZER.decode(found.prompt_ids) == "<s>first\n1\n\nIs it so?\n"
    assert ledger.shortened["encode", "rte", "exemplars left out"] == 1
    assert ledger.kept["encode", "rte"] == 1


def test_the_middle_of_the_passage_is_cut_and_nothing_else() -> None:
    ledger = Ledger()
    (found,) = encode([EXAMPLE], TOKENIZER, FORMAT, Lengths(inputs=100), ledger)
    text = TOKENIZER.decode(found.prompt_ids)
    assert 80 <= len(found.prompt_ids) <= 100
    assert text.startswith("<s>Read: the cat sat")
    assert text.endswith("Is it so?\n")
    assert text.count(CUT) == 1
    assert ledger.shortened["encode", "rte", "passage cut in the middle"] == 1


def test_what_cannot_be_cut_is_dropped_and_counted() -> None:
    whole = dataclasses.replace(EXAMPLE, trimmable=None)
    ledger = Ledger()
    assert encode([whole, short()], TOKENIZER, FORMAT, Lengths(inputs=30), ledger)[0].row_id == "train/1"
    assert ledger.dropped["encode", "rte", "inputs longer than 30 tokens"] == 1
    assert ledger.kept["encode", "rte"] == 1
    assert encode_options([whole], TOKENIZER, FORMAT, Lengths(inputs=30), Ledger()) == []


def test_long_targets_are_dropped_in_tuning_and_never_cut() -> None:
    ledger = Ledger()
    kept = encode([short(targets="yesyes"), short(targets="yes" * 9)], TOKENIZER, FORMAT, Lengths(targets=4), ledger)
    assert [len(e.target_ids) for e in kept] == [3]
    assert ledger.dropped["encode", "rte", "targets longer than 4 tokens"] == 1


@pytest.mark.parametrize("context", [20, 60, 120])
def test_prompt_and_target_fit_the_context(context: int) -> None:
    ledger = Ledger()
    for e in encode([EXAMPLE, short()], TOKENIZER, FORMAT, Lengths(), ledger, context=context):
        assert len(e.prompt_ids) + len(e.target_ids) <= context
    for o in encode_options([EXAMPLE, short()], TOKENIZER, FORMAT, Lengths(), ledger, context=context):
        assert len(o.prompt_ids) + max(map(len, o.option_ids)) <= context
    (asked,) = encode_prompts([EXAMPLE], TOKENIZER, FORMAT, Lengths(targets=8), ledger, context=80)
    assert len(asked.prompt_ids) + 8 <= 80


def test_examples_keep_their_order_and_none_is_invented() -> None:
    examples = [dataclasses.replace(short(), row_id=str(i)) for i in range(20)]
    assert [e.row_id for e in encode(examples, TOKENIZER, FORMAT, Lengths(), Ledger())] == [str(i) for i in range(20)]


def test_merged_joins_are_noted() -> None:
    ledger = Ledger()
    (found,) = encode_options(
        [dataclasses.replace(short(options=("ive",)), inputs="posit")],
        TOKENIZER,
        PromptFormat(separator=""),
        Lengths(),
        ledger,
    )
    assert found.merged
    assert "rte: in 1 examples a token spans the join" in ledger.notes[0]


def test_pad_equal_to_eos_is_harmless() -> None:
    tokenizer = bpe("yes")
    tokenizer.pad_token = tokenizer.eos_token
    (found,) = encode([short()], tokenizer, FORMAT, Lengths(), Ledger())
    assert found.target_ids[-1] == EOS


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = bpe()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="EOS"):
        encode([short()], tokenizer, FORMAT, Lengths(), Ledger())


def test_as_many_exemplars_are_kept_as_fit_and_those_are_the_first() -> None:
    shown = tuple((f"question {'x' * (7 * i % 11)}", f"answer {i}") for i in range(9))
    example = short(exemplars=shown, exemplar_rows=tuple(f"train/{i}" for i in range(9)))
    sizes = [len(FORMAT.of(example.first_exemplars(k)).encode()) + 1 for k in range(10)]
    for most in range(sizes[0], sizes[-1] + 3):
        ledger = Ledger()
        (found,) = encode_prompts([example], TOKENIZER, FORMAT, Lengths(inputs=most), ledger)
        fitting = max(k for k in range(10) if sizes[k] <= most)
        assert found.read.exemplars == shown[:fitting]
        assert found.read.exemplar_rows == example.exemplar_rows[:fitting]
        assert TOKENIZER.decode(found.prompt_ids) == "<s>" + FORMAT.of(found.read)
        said = {0: "all exemplars left out", 9: ""}.get(fitting, "exemplars left out")
        assert [reason for (_, _, reason) in ledger.shortened] == [said] * bool(said)


def test_what_is_read_is_what_is_encoded_after_a_cut_too() -> None:
    example = dataclasses.replace(EXAMPLE, exemplars=(("first", "1"),))
    (found,) = encode_options([example], TOKENIZER, FORMAT, Lengths(inputs=100), Ledger())
    assert TOKENIZER.decode(found.prompt_ids) == "<s>" + FORMAT.of(found.read)
    assert found.read.exemplars == () and CUT in found.read.inputs


def test_an_example_of_no_token_is_dropped_and_counted() -> None:
    ledger = Ledger()
    nothing = dataclasses.replace(short(targets="", options=("", "yes")), inputs="")
    form = PromptFormat(separator="")
    assert encode([nothing], TOKENIZER, form, Lengths(), ledger) == []
    assert [one.read for one in encode_options([nothing, short()], TOKENIZER, form, Lengths(), ledger)] == [short()]
    assert ledger.dropped["encode", "rte", "prompt and target hold no token"] == 2
