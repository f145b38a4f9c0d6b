"""The word-level tokenizer."""

import random
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from openflan.world.text import STAGES, document
from openflan.world.tokenizer import EOS, build_tokenizer, counted_words, tokens, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@cache
def tokenizer() -> "PreTrainedTokenizerFast":
    return build_tokenizer(vocabulary(documents=4000))


def ids_of(text: str) -> list[int]:
    ids = tokenizer()(text)["input_ids"]
    assert isinstance(ids, list)
    return ids


def test_round_trip_up_to_case_and_spaces_before_punctuation() -> None:
    rng = random.Random(1)
    known = tokenizer().get_vocab()
    texts = [document(rng, rng.choice(STAGES)).text for _ in range(300)]
    texts = [text for text in texts if all(token in known for token in tokens(text))]
    assert len(texts) > 200
    for text in texts:
        decoded = str(tokenizer().decode(ids_of(text), skip_special_tokens=False))
        assert decoded.startswith(EOS)
        assert tokens(decoded)[1:] == tokens(text)
        assert "\n " not in decoded
        assert " \n" not in decoded


def test_the_look_up_and_the_module_split_alike() -> None:
    text = 'Tom said: "I am (maybe) in the kitchen."\n\n- yes / no | a = b; so! <eos> *'
    assert tokenizer().convert_ids_to_tokens(ids_of(text))[1:] == tokens(text)


def test_exactly_one_start_token_and_the_three_special_ids() -> None:
    ids = ids_of("Tom is here.\nSue is there.")
    assert ids[0] == tokenizer().bos_token_id == tokenizer().eos_token_id == 1
    assert ids.count(1) == 1
    assert (tokenizer().pad_token_id, tokenizer().unk_token_id) == (0, 2)
    assert ids_of("Tom flummoxes Sue.").count(2) == 1


def test_it_reloads_from_its_folder(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer().save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Where is Tom?\nTom is in the park."
    assert reloaded(text)["input_ids"] == ids_of(text)
    assert re.sub(r" (?=[.?])", "", reloaded.decode(ids_of(text), skip_special_tokens=True)) == text.lower()


@pytest.mark.slow
def test_the_vocabulary_is_small_and_pretraining_uses_all_of_it() -> None:
    entries = vocabulary()
    assert len(entries) < 1024
    assert len(entries) % 32 == 0
    assert len(set(entries)) == len(entries)
    seen = counted_words(60_000)
    unused = {
        entry for entry in entries if not entry.startswith("<") and entry not in '\n"*=|/;!()-:' and not seen[entry]
    }
    assert not unused
