"""The files of `openflan score`, and agreement with lm-evaluation-harness through them."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from tokenizers import normalizers

from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ConfigError, ModelError, SourceError
from openflan.models import load
from openflan.scoring.rank import OptionScores, score
from openflan.scoring.requests import TextRequest, answers, encode_requests, read_requests, write_answers

from .conftest import byte_tokenizer, tiny


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


def test_a_byte_order_mark_is_no_part_of_the_first_request(tmp_path):
    path = lines(tmp_path, {"id": "a", "inputs": "x", "options": ["y"]})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_requests(path) == [TextRequest("a", "x", ("y",))]


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


def test_a_request_without_scores_says_why():
    records = answers([TextRequest("a", "x", ("y",))], [OptionScores("a", (), "97 tokens, the model reads 96")])
    assert records == [{"id": "a", "error": "97 tokens, the model reads 96"}]


@pytest.fixture
def run_score(llama, monkeypatch, tmp_path):
    """`openflan score` with a tiny model: the exit code, what it printed on stdout, and on stderr."""
    from typer.testing import CliRunner

    from openflan.cli.app import app

    monkeypatch.setattr(load, "load_model", lambda name: llama)

    def run(*arguments, records):
        path = str(lines(tmp_path, *records))
        return CliRunner().invoke(app, ["score", "--model", "x", "--requests", path, *arguments])

    return run


QUESTIONS = [
    {"id": "long", "inputs": "x" * 97, "options": ["y"]},
    {"id": "fine", "inputs": "Is it?", "options": ["yes", "no", "yes"]},
]


def test_requests_that_do_not_fit_are_refused_all_at_once(run_score):
    found = run_score(records=[*QUESTIONS, QUESTIONS[0] | {"id": "other"}])
    assert found.exit_code == 1 and not found.stdout
    assert isinstance(found.exception, ModelError)
    assert [problem.where for problem in found.exception.problems] == ["long", "other"]
    assert "--skip" in str(found.exception)


def test_or_skipped_and_counted(run_score):
    found = run_score("--skip", "--memory", "1", "--batch-tokens", "50", records=QUESTIONS)
    assert found.exit_code == 0
    long, fine = map(json.loads, found.stdout.splitlines())
    assert "97 tokens" in long["error"]
    assert fine["logprobs"][0] == fine["logprobs"][2]
    assert "not scored: 1 (97 tokens" in found.stderr and "long" in found.stderr
    assert "an option has the tokens of another" in found.stderr
    assert "with one row per option" in found.stderr


def test_a_request_without_a_token_is_named_and_may_be_skipped_too(run_score, llama, monkeypatch):
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Strip()  # to it white space alone is nothing
    monkeypatch.setattr(load, "load_model", lambda name: dataclasses.replace(llama, tokenizer=tokenizer))
    blank = {"id": "blank", "inputs": " ", "options": [" ", "yes"]}
    records = [{"id": "fine", "inputs": "Is it? ", "options": ["yes", "no"]}, blank]
    assert [problem.where for problem in run_score(records=records).exception.problems] == ["blank"]
    fine, skipped = map(json.loads, run_score("--skip", records=records).stdout.splitlines())
    assert "at least one token" in skipped["error"] and len(fine["logprobs"]) == 2


def test_a_store_is_a_folder(run_score, tmp_path):
    (tmp_path / "store").write_text("")
    found = run_score("--store", str(tmp_path / "store"), records=QUESTIONS)
    assert isinstance(found.exception, ConfigError) and "is a file" in str(found.exception)


def test_values_that_are_not_finite_fail_but_lose_nothing(run_score, llama):
    weight = llama.model.get_input_embeddings().weight
    (token,) = llama.tokenizer("~").input_ids
    kept = weight[token].clone()
    try:
        with torch.no_grad():
            weight[token] = torch.nan
        found = run_score(records=[{"id": 1, "inputs": "A~", "options": ["y"]}, QUESTIONS[1]])
    finally:
        with torch.no_grad():
            weight[token] = kept
    assert found.exit_code == 1
    bad, fine = map(json.loads, found.stdout.splitlines())
    assert "not finite" in bad["error"] and len(fine["logprobs"]) == 3


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
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen3", "opt"])
def test_agreement_with_the_harness_on_random_models(architecture, monkeypatch):
    lm = tiny(architecture)
    monkeypatch.setitem(globals(), "PAIRS", [pair for pair in PAIRS if len("".join(pair).encode()) < 95])
    requests = [TextRequest(index, inputs, (option,)) for index, (inputs, option) in enumerate(PAIRS)]
    encoded, merged = encode_requests(lm, requests)
    expected, _ = harness(lm, PAIRS)
    assert merged == 0
    costs = []
    for one, value in zip(score(lm, encoded, strict=True, report=costs.append), expected, strict=True):
        assert abs(one.sums[0] - value) <= 1e-4
    assert costs[-1].engine == "trees" and costs[-1].tokens < costs[-1].row_per_option_tokens / 2
