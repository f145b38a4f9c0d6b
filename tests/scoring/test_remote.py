"""Scores and texts through a real server process: the numbers are the model's, and what cannot be had is said."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openflan.errors import ModelError
from openflan.models.load import WORLD_FOLDER, LanguageModel, load_model, save_model
from openflan.models.remote import Endpoint, RemoteSettings
from openflan.scoring import generate as local_generate
from openflan.scoring import rank
from openflan.scoring.remote import (
    TOO_LONG,
    Answered,
    RemoteRequest,
    RemoteScores,
    RemoteText,
    RemoteUsage,
    connect,
    generate,
    score,
)
from openflan.scoring.requests import TextRequest, encode_requests, score_remotely
from tests.conftest import Serving
from tests.endpoint import toy_logprob

from .conftest import tiny

REQUESTS = [
    RemoteRequest("a", ("Is it so?\n",), ("yes", "no", "it is not possible to tell")),
    RemoteRequest("b", ("Is it so? Answer:",), (" yes", " no")),
    RemoteRequest("c", ("Is it so? Answer: ",), ("yes", "no")),
    RemoteRequest("d", ("the word is posit",), ("ive", " of", "s")),
    RemoteRequest("e", ("one option",), (" yes", " yes")),
]


def settings(serving: Serving, **changes: Any) -> RemoteSettings:
    return RemoteSettings.model_validate({"url": serving.url, "model": "toy", "retries": 1} | changes)


def scored(
    serving: Serving, requests: list[RemoteRequest] = REQUESTS, store: Path | None = None, **changes: Any
) -> Any:
    with Endpoint(settings(serving, **changes)) as endpoint:
        return score(connect(endpoint, ranks=True), requests, store=store)


def written(serving: Serving, requests: list[RemoteRequest], store: Path | None = None, **changes: Any) -> Any:
    with Endpoint(settings(serving, **changes)) as endpoint:
        remote = connect(endpoint, ranks=False)
        return generate(remote, requests, max_new_tokens=3, stops=["\n\n"], store=store)


# What the numbers are


def test_scores_are_the_models_own_from_the_join_on(toy: Serving) -> None:
    found: Answered[RemoteScores] = scored(toy)
    assert [one.id for one in found.answers] == ["a", "b", "c", "d", "e"] and not found.skipped
    a, b, c, d, e = found.answers
    assert a.logprobs[:2] == ((pytest.approx(toy_logprob("\n", "yes")),), (pytest.approx(toy_logprob("\n", "no")),))
    assert [len(tokens) for tokens in a.logprobs] == [1, 1, 6]
    # A space that ends the prompt goes to the option, so b and c are the same question.
    assert b.logprobs == c.logprobs == ((pytest.approx(toy_logprob(":", " yes")),), (toy_logprob(":", " no"),))
    assert not any(one.merged for one in (a, b, c, e))
    # "positive" is one token, so all options of d are scored from the token before it on.
    assert d.merged and d.logprobs[1] == (
        pytest.approx(toy_logprob(" is", " posit")),
        pytest.approx(toy_logprob(" posit", " of")),
    )
    assert e.logprobs[0] == e.logprobs[1]
    assert found.usage == RemoteUsage(11, found.usage.input_tokens, 11, 0)


@pytest.mark.parametrize("fault", [{"bos": False}, {"offsets_only": True}, {"echo": False}], ids=str)
def test_ways_of_telling_tokens_give_the_same_scores(toy: Serving, fault: dict[str, Any]) -> None:
    """Without the BOS in the list, by offsets alone, and by vLLM's prompt_logprobs."""
    expected = scored(toy).answers
    toy.set(**fault)
    assert scored(toy).answers == expected
    asked = [one for one in toy.asked() if one["path"] == "/v1/completions"]
    assert any("prompt_logprobs" in one for one in asked) == ("echo" in fault)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random Llama over bytes and words, whose tokens span joins, and the micro-world's model."""
    lm = tiny("llama")
    lm.tokenizer.add_tokens(["positive", "posit", ": ", "\n\n", "b:"])
    folder = tmp_path_factory.mktemp("models") / "random"
    lm.model.resize_token_embeddings(len(lm.tokenizer))
    save_model(lm, folder, None)
    return {"random": folder, "small": WORLD_FOLDER / "small"}


@pytest.fixture(scope="module")
def serving(models: dict[str, Path]) -> Iterator[Serving]:
    serving = Serving(*map(str, models.values()))
    yield serving
    serving.stop()


QUESTIONS = {
    "random": [
        ("Q: is it?", (" yes", " no")),
        ("Q: posit", ("ive", "ion", "s")),
        ("ab", (": yes", ":no", "cd")),
        ("spaces  ", ("yes", "é😀", "😀")),
        ("lines\n", ("yes", "\n\nno")),
        ("é", ("é", "e")),
    ],
    "small": [
        ("The key is in the park. Is the key in the park?\nOPTIONS:\n- yes\n- no\n", ("yes", "no")),
        ("Where is the key?", (" in the park", " in the hall", " park")),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "small"])
def test_scores_equal_the_local_scorers(name: str, models: dict[str, Path], serving: Serving) -> None:
    lm = load_model(str(models[name]), device="cpu")
    texts = [TextRequest(i, inputs, options) for i, (inputs, options) in enumerate(QUESTIONS[name])]
    encoded, merged = encode_requests(lm, texts)
    expected = rank.score(lm, encoded)
    found = score_remotely(f"remote:{name}@{serving.url}", texts, store=None, report=lambda done: None)
    for one, other, text in zip(found.scores, expected, texts, strict=True):
        assert one.tokens == other.tokens, text
        for logprobs, wanted in zip(one.logprobs, other.logprobs, strict=True):
            assert logprobs == pytest.approx(wanted, abs=1e-4), text
    assert found.merged == merged
    assert name == "small" or merged >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "small"])
def test_generations_equal_the_local_ones(name: str, models: dict[str, Path], serving: Serving) -> None:
    lm: LanguageModel = load_model(str(models[name]), device="cpu")
    prompts = [inputs for inputs, _ in QUESTIONS[name]]
    ids = [tuple(lm.tokenizer(prompt).input_ids) for prompt in prompts]
    requests = [local_generate.GenerationRequest(str(i), one) for i, one in enumerate(ids)]
    expected = local_generate.generate(lm, requests, max_new_tokens=8, stops=["\n\n"])
    with Endpoint(settings(serving, model=name)) as endpoint:
        asked = [RemoteRequest(str(i), (prompt,)) for i, prompt in enumerate(prompts)]
        found = generate(connect(endpoint, ranks=False), asked, max_new_tokens=8, stops=["\n\n"])
    for one, other in zip(found.answers, expected, strict=True):
        assert (one.text, one.num_tokens) == (other.text, other.num_tokens)
        assert (one.ended == "length") == (other.ended == "length")  # "stop" or "eos" this server does not tell


# What a server may say instead


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("none", "no log-probabilities of the prompt"),
        ("generated", "do not add up to the text"),
        ("zeros", "have the log-probability 0"),
        ("shifted", "nats as the next one, but"),
        ("not finite", "has the log-probability nan"),
        ("mangled", "do not add up to the text"),
    ],
)
def test_log_probabilities_that_are_none_are_refused_or_replaced_by_name(
    toy: Serving, fault: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    toy.set(prompt_logprobs=fault)
    with pytest.raises(ModelError, match=why):
        scored(toy, scoring="logprobs")
    with Endpoint(settings(toy)) as endpoint:
        remote = connect(endpoint, ranks=True)
    assert remote.way is None and why in remote.why
    assert "options are NOT ranked" in caplog.text


def test_settings_may_want_no_ranking(toy: Serving) -> None:
    with Endpoint(settings(toy, scoring="generation")) as endpoint:
        assert connect(endpoint, ranks=True).way is None
    with Endpoint(settings(toy, api="chat")) as endpoint:
        assert "chat" in connect(endpoint, ranks=True).why
    assert toy.asked() == []


def test_a_server_that_falls_over_at_the_question_counts_as_without_answer(toy: Serving) -> None:
    toy.set(statuses=[500] * 8, message="logprobs is not supported")
    with Endpoint(settings(toy)) as endpoint:
        assert "logprobs is not supported" in connect(endpoint, ranks=True).why
    # Being busy says nothing about what a server can do.
    toy.set(statuses=[503] * 8)
    with Endpoint(settings(toy)) as endpoint, pytest.raises(ModelError, match="503"):
        connect(endpoint, ranks=True)


def test_a_name_the_server_does_not_list_is_no_reason_to_give_up(toy: Serving) -> None:
    # llama.cpp's server answers to any name, and older ones refuse `echo`.
    toy.set(statuses=[400, 400], message="Only no echo is supported")
    with Endpoint(settings(toy, model="anything")) as endpoint:
        assert "Only no echo" in connect(endpoint, ranks=True).why


def test_a_wrong_model_or_address_is_said_at_once(toy: Serving) -> None:
    with pytest.raises(ModelError, match="did you mean toy"):
        scored(toy, model="toi")
    with pytest.raises(ModelError, match="must offer /completions"):
        scored(toy, url=toy.url.removesuffix("/v1"))


# Single requests without a score


def test_text_without_a_token_in_front_is_skipped_with_its_id(toy: Serving) -> None:
    toy.set(bos=False)
    found = scored(toy, [RemoteRequest("bare", ("",), ("yes", "no")), REQUESTS[0]])
    assert [one.id for one in found.skipped] == ["bare"] and "no token stands before" in found.skipped[0].reason
    assert [one.id for one in found.answers] == ["a"]
    texts = [TextRequest("bare", "", ("yes", "no")), TextRequest(2, "Is it so?", (" yes",))]
    scores = score_remotely(f"remote:toy@{toy.url}", texts, store=None, report=lambda done: None).scores
    assert "no token stands before" in scores[0].problem and not scores[0].logprobs
    assert scores[1].sums and not scores[1].problem


def test_values_that_are_no_log_probabilities_are_skipped(toy: Serving) -> None:
    with Endpoint(settings(toy)) as endpoint:
        remote = connect(endpoint, ranks=True)
        toy.set(prompt_logprobs="not finite")  # from the fifth token on, once it has been tried out
        found = score(remote, [REQUESTS[0], RemoteRequest("short", ("Q\n",), ("yes", "no"))])
    assert [one.id for one in found.answers] == ["short"]
    assert "has the log-probability nan" in found.skipped[0].reason


def test_a_prompt_too_long_is_asked_in_its_shorter_forms(toy: Serving) -> None:
    long = "word " * 500
    requests = [
        RemoteRequest("fits", (f"{long}\nIs it?\n", "Is it?\n"), ("yes", "no")),
        RemoteRequest("never", (long + "\n", long + "\n\n"), ("yes", "no")),
    ]
    found = scored(toy, requests)
    assert [(one.id, one.prompt) for one in found.answers] == [("fits", 1)]
    assert [(one.id, one.reason) for one in found.skipped] == [("never", TOO_LONG)]


def test_a_context_of_the_settings_holds_by_the_endpoints_count(toy: Serving) -> None:
    requests = [RemoteRequest("a", ("one two three four five six", "one two three", "one"))]
    assert written(toy, requests, context=9).answers[0].prompt == 1
    assert written(toy, requests, context=10).answers[0].prompt == 0
    assert written(toy, requests, context=4).skipped[0].reason == TOO_LONG


def test_a_single_refusal_is_a_skip_and_many_are_an_error(toy: Serving) -> None:
    toy.set(statuses=[400], message="against our policy")
    found = written(toy, [RemoteRequest("bad", ("x",)), RemoteRequest("good", ("y",))], concurrency=1)
    assert [one.id for one in found.answers] == ["good"]
    assert found.skipped[0].reason == "refused with 400: against our policy"
    toy.set(statuses=[400] * 100, message="against our policy")
    with pytest.raises(ModelError, match="most requests get no usable answer"):
        written(toy, [RemoteRequest(str(i), (f"x{i}",)) for i in range(100)])


def test_ids_are_used_once(toy: Serving) -> None:
    with pytest.raises(ModelError, match="a: id used by two"):
        scored(toy, [REQUESTS[0], REQUESTS[0]])


# Written answers


def test_texts_end_at_stops_ends_and_lengths(toy: Serving) -> None:
    found: Answered[RemoteText] = written(toy, [RemoteRequest(str(i), (f"so word{i}",)) for i in range(40)])
    ends = {one.ended for one in found.answers}
    assert ends == {"stop", "length"}
    assert all("\n\n" not in one.text for one in found.answers)
    assert all(one.num_tokens == 3 for one in found.answers if one.ended == "length")


def test_chat_endpoints_are_asked_by_message(toy: Serving) -> None:
    toy.set(completions=False, length_key="max_completion_tokens")
    requests = [RemoteRequest(str(i), (f"so word{i}",)) for i in range(9)]
    with pytest.raises(ModelError, match="must offer /completions"):
        written(toy, requests)
    toy.set(completions=False, length_key="max_completion_tokens")
    found = written(toy, requests, api="chat", concurrency=8)
    assert len(found.answers) == len(requests)
    assert not found.skipped
    assert any(one.text for one in found.answers)
    assert {"role": "user", "content": "so word0"} in [one["messages"][0] for one in toy.asked()]


# Losing nothing


def test_several_requests_are_under_way_and_no_more_than_said(toy: Serving) -> None:
    requests = [RemoteRequest(str(i), (f"word{i}",)) for i in range(40)]
    written(toy, requests, concurrency=4)
    assert 2 <= toy.most_under_way() <= 4
    toy.set()
    alone = written(toy, requests, concurrency=1)
    assert toy.most_under_way() == 1
    assert alone == written(toy, requests, concurrency=16)


def test_answers_are_kept_and_bought_once(toy: Serving, tmp_path: Path) -> None:
    first = scored(toy, store=tmp_path)
    assert len([one for one in toy.asked() if one["prompt"].startswith("Is it so")]) == 7
    toy.set()
    assert scored(toy, store=tmp_path) == first
    assert not [one for one in toy.asked() if one["prompt"].startswith("Is it so")]
    # Another question, or another way of asking, is not answered from what is kept.
    changed = [RemoteRequest("a", ("Is it so!\n",), REQUESTS[0].options)]
    scored(toy, changed, store=tmp_path)
    assert len([one for one in toy.asked() if one["prompt"].startswith("Is it so!")]) == 3
    written(toy, [RemoteRequest("a", ("x",))], store=tmp_path, context=100)
    toy.set()
    written(toy, [RemoteRequest("a", ("x",))], store=tmp_path)
    assert len(toy.asked()) == 1


def test_a_line_cut_short_is_asked_again(toy: Serving, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = scored(toy, store=tmp_path)
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert scored(toy, store=tmp_path) == first
    assert "1 lines cannot be read" in caplog.text
    caplog.clear()
    assert scored(toy, store=tmp_path) == first
    toy.set()
    scored(toy, store=tmp_path)
    assert not [one for one in toy.asked() if one["prompt"].startswith("Is it so")]


def test_an_endpoint_that_dies_leaves_what_it_answered(tmp_path: Path) -> None:
    requests = [RemoteRequest(str(i), (f"word{i} so",)) for i in range(30)]
    mortal = Serving("toy")
    try:
        mortal.set(die_after=12)
        with pytest.raises(ModelError) as error:
            written(mortal, requests, store=tmp_path, retries=0, concurrency=2)
    finally:
        mortal.stop()
    told = str(error.value)
    assert "12 of 30 requests were answered" in told or "11 of 30 requests were answered" in told
    assert f"kept in {tmp_path}, and the same command goes on" in told
    lines = [line for line in (tmp_path / "journal.jsonl").read_text().split("\n") if line]
    assert len(lines) in (11, 12)


def test_without_a_store_the_loss_is_said(toy: Serving) -> None:
    toy.set(statuses=[503] * 9)
    with pytest.raises(ModelError, match=r"0 of 1 requests were answered \(they are lost"):
        written(toy, [RemoteRequest("a", ("x",))], retries=0)


def test_costs_are_those_of_the_answers() -> None:
    usage = RemoteUsage(3, 2_000_000, 1_000, 0) + RemoteUsage(1, 0, 0, 1)
    priced = RemoteSettings(url="http://a/v1", model="m", input_price=0.5, output_price=2)
    assert usage.cost(priced) == pytest.approx(1.002)
    assert usage.words(priced) == (
        "4 requests, 2,000,000 tokens read, 1,000 written (1 requests not counted by the endpoint), cost 1.002"
    )
    assert usage.cost(RemoteSettings(url="http://a/v1", model="m")) is None
