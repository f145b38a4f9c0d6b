"""The files of `openflan score`, and agreement with lm-evaluation-harness through them."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import SourceError
from openflan.scoring.rank import OptionScores, score
from openflan.scoring.requests import TextRequest, answers, encode_requests, read_requests, write_answers

from .conftest import tiny


def lines(tmp_path, *records):
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records), encoding="utf-8")
    return path


def test_requests_are_read_in_order(tmp_path):
    path = lines(
        tmp_path,
        {"id": "b", "inputs": "Zwei \u2028 Zeilen", "options": [" ja", "nein"]},
        "",
        {"id": 7, "inputs": "", "options": ["x"]},
    )
    assert read_requests(path) == [
        TextRequest("b", "Zwei \u2028 Zeilen", (" ja", "nein")),
        TextRequest(7, "", ("x",)),
    ]


def test_every_malformed_line_is_reported_with_its_number(tmp_path):
    path = lines(
        tmp_path,
        {"id": "a", "inputs": "x", "options": ["y"]},
        "{nonsense",
        {"id": "b", "inputs": "x"},
        {"id": "c", "inputs": 3, "options": []},
        {"id": "d", "inputs": "x", "options": ["y", ""], "label": 1},
        "[1]",
        {"id": "a", "inputs": "x", "options": ["y"]},
        {"id": True, "inputs": "x", "options": "yes"},
    )
    with pytest.raises(SourceError) as error:
        read_requests(path)
    found = {int(problem.where.rsplit(":", 1)[1]): problem.what for problem in error.value.problems}
    assert list(found) == [2, 3, 4, 5, 6, 7, 8]
    assert "options: field required" in found[3]
    assert "inputs" in found[4] and "options" in found[4]
    assert "options.1" in found[5] and "label" in found[5]
    assert "used in line 1" in found[7]
    assert "id" in found[8] and "options" in found[8]


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        read_requests(tmp_path / "none.jsonl")
    with pytest.raises(SourceError, match="no request"):
        read_requests(lines(tmp_path, ""))


def test_answers_carry_what_any_normalisation_needs(tmp_path):
    requests = [TextRequest(3, "é", ("né", "no"))]
    records = answers(requests, [OptionScores("3", ((-0.5, -0.25), (-1.0,)))])
    assert records == [{"id": 3, "logprobs": [-0.75, -1.0], "tokens": [2, 1], "bytes": [3, 2]}]
    write_answers(tmp_path / "out.jsonl", records)
    assert json.loads((tmp_path / "out.jsonl").read_text()) == records[0]


def test_inputs_and_options_are_joined_as_given(llama):
    encoded, merged = encode_requests(llama, [TextRequest("a", "Is it? ", ("yes", "no"))])
    letters = llama.tokenizer.convert_ids_to_tokens([*encoded[0].prompt_ids, *encoded[0].option_ids[1]])
    assert "".join(letters) == "IsĠit?Ġno"
    # The space that ended the inputs is scored with the options.
    assert [len(option) for option in encoded[0].option_ids] == [4, 3]
    assert merged == 0


# Agreement with lm-evaluation-harness 0.4.13

PAIRS = [
    (inputs, option)
    for inputs, options in [
        ("Once upon a time", [", there was a little girl", " there", "!", " a"]),
        ("The dog was sad because ", ["he lost his ball.", "it", "He"]),
        ("The dog was sad because", [" he lost his ball.", " it was raining outside and he could not play", " he"]),
        ("Lily said:\n", ['"Hello!"', "yes", "no"]),
        ("Lily said: \n ", ["yes", "no"]),
        ("Question: is the sky blue?\nOPTIONS:\n- yes\n- no\nAnswer:", [" yes", " no", "yes"]),
        ("Tom and Mia went to the café — “naïve”", [" déjà vu", "…", " 日本", " 🙂 ok"]),
        ("A" * 30, ["A", "AAAA", "B"]),
        ("", ["Once upon a time", "The", "yes"]),
        ("One day,  two   spaces", ["  here", " here", "\there"]),
        ("He has 3 apples and 4 pears. In all he has", [" 7", " 7 fruits", " seven", " 12,5"]),
        ("x", ["y", " y", "\n\nNext"]),
        ("The big red ball " * 20, ["rolled away.", "was", "is"]),
    ]
    for option in options
]


def harness(lm, pairs, **settings):
    from lm_eval.models.huggingface import HFLM

    other = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=4, device="cpu", **settings)
    return [
        value for value, _ in other.loglikelihood([SimpleNamespace(args=pair) for pair in pairs], disable_tqdm=True)
    ], other


def assert_agreement(lm, settings):
    requests = [TextRequest(index, inputs, (option,)) for index, (inputs, option) in enumerate(PAIRS)]
    encoded, merged = encode_requests(lm, requests)
    expected, other = harness(lm, PAIRS, **settings)
    compared = 0
    for one, request, (inputs, option), value in zip(score(lm, encoded), encoded, PAIRS, expected, strict=True):
        if inputs:
            context_ids, option_ids = other._encode_pair(inputs, option)
            if (tuple(context_ids), tuple(option_ids)) != (request.prompt_ids, *request.option_ids):
                continue
        compared += 1
        assert abs(one.sums[0] - value) / one.tokens[0] <= 1e-4, (inputs, option)
    # What is left out has a token across the join: there the harness slices by length and scores other tokens.
    assert compared >= len(PAIRS) - merged
    assert compared >= 35
    return expected


@pytest.mark.slow
@pytest.mark.reference
def test_agreement_with_the_harness_on_a_pretrained_model(stories_lm):
    assert stories_lm.tokenizer("a").input_ids[0] == stories_lm.tokenizer.bos_token_id
    default = assert_agreement(stories_lm, {})
    # By default the harness adds this tokenizer's BOS, and so do we; without it the numbers are others.
    bare = dataclasses.replace(stories_lm, prompt_format=PromptFormat(bos="never"))
    without = assert_agreement(bare, {"add_bos_token": False})
    assert torch.tensor(default).sub(torch.tensor(without)).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_agreement_with_the_harness_on_random_models(architecture, monkeypatch):
    lm = tiny(architecture)
    monkeypatch.setitem(globals(), "PAIRS", [pair for pair in PAIRS if len("".join(pair).encode()) < 95])
    requests = [TextRequest(index, inputs, (option,)) for index, (inputs, option) in enumerate(PAIRS)]
    encoded, merged = encode_requests(lm, requests)
    expected, _ = harness(lm, PAIRS)
    assert merged == 0
    for one, value in zip(score(lm, encoded), expected, strict=True):
        assert abs(one.sums[0] - value) / one.tokens[0] <= 1e-4
