"""Settings that keep no secret, and a client that waits, retries and gives up for the right reasons."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from openflan.errors import ConfigError, ModelError
from openflan.models.load import load_model
from openflan.models.remote import (
    Endpoint,
    RefusedError,
    RemoteSettings,
    StoppedError,
    UnansweredError,
    backoff,
    remote_settings,
)
from tests.conftest import Serving

SECRET = "sk-proj-0123456789abcdefGHIJ"
PAYLOAD = {"model": "toy", "prompt": "a b", "max_tokens": 1}


def settings(serving: Serving, **changes: object) -> RemoteSettings:
    return RemoteSettings.model_validate({"url": serving.url, "model": "toy", "retries": 2} | changes)


def test_a_name_spells_out_all_settings() -> None:
    found = remote_settings(
        "remote:org/m@v1@http://127.0.0.1:8000/v1/?concurrency=3&scoring=generation&input_price=0.5"
    )
    assert (found.model, found.base_url) == ("org/m@v1", "http://127.0.0.1:8000/v1")
    assert (found.concurrency, found.scoring, found.input_price) == (3, "generation", 0.5)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("remote:gpt2", "remote:MODEL@URL"),
        ("remote:gpt2@localhost:8000", "remote:MODEL@URL"),
        ("remote:gpt2@http://a/v1?concurency=3", "did you mean concurrency"),
        ("remote:gpt2@http://a/v1?concurrency=0", "greater than or equal to 1"),
        ("remote:gpt2@http://me:word@a/v1", "no user, password"),
        ("remote:gpt2@http://a:nonsense/v1", "no http:// or https:// address"),
        ("remote:gpt2@http://exa_mple..com/v1", "no http:// or https:// address"),
        ("remote:gpt2@http://a/v1?api=chat&scoring=logprobs", "no log-probabilities"),
    ],
)
def test_a_wrong_name_is_explained(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        remote_settings(name)


def test_a_host_that_can_be_none_is_refused_before_it_is_looked_up() -> None:
    with pytest.raises(ConfigError, match="hostname"):
        Endpoint(remote_settings("remote:gpt2@http://☃.com/v1"))


def test_a_key_put_where_its_variables_name_belongs_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="NAME of an environment variable") as error:
        remote_settings(f"remote:gpt2@http://a/v1?key_env={SECRET}")
    assert SECRET not in str(error.value)


def test_what_answers_depend_on_holds_neither_speed_nor_price_nor_key() -> None:
    slow = RemoteSettings(url="http://a/v1", model="m")
    fast = RemoteSettings(url="http://a/v1/", model="m", concurrency=64, key_env="KEY", input_price=2, retries=0)
    assert slow.content() == fast.content()
    for changed in ({"model": "n"}, {"url": "http://b/v1"}, {"scoring": "generation"}, {"context": 5}):
        assert RemoteSettings.model_validate(slow.model_dump() | changed).content() != slow.content()


def test_an_endpoint_is_no_model_to_load() -> None:
    with pytest.raises(ModelError, match="has no weights"):
        load_model("remote:gpt2@http://127.0.0.1:1/v1")


# The key


def test_the_key_comes_from_the_environment_and_shows_nowhere(
    toy: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    toy.set(key=SECRET)
    monkeypatch.setenv("TOY_KEY", SECRET)
    with Endpoint(settings(toy, key_env="TOY_KEY")) as endpoint:
        assert endpoint.post("/completions", PAYLOAD, names=["a"])["choices"]
        assert SECRET not in repr(endpoint)
    toy.set(key="another")  # the server repeats the key it refuses
    with Endpoint(settings(toy, key_env="TOY_KEY")) as endpoint, pytest.raises(RefusedError, match="401") as error:
        endpoint.post("/completions", PAYLOAD, names=["a"])
    assert "check the key in $TOY_KEY" in str(endpoint.problem(error.value))
    assert "Incorrect API key" in str(error.value)
    assert SECRET not in str(error.value) + caplog.text


def test_a_missing_key_is_named_by_its_variable(toy: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOY_KEY", raising=False)
    with pytest.raises(ConfigError, match="TOY_KEY is not set"):
        Endpoint(settings(toy, key_env="TOY_KEY"))
    monkeypatch.setenv("TOY_KEY", "schlüssel")
    with pytest.raises(ConfigError, match="TOY_KEY holds characters") as error:
        Endpoint(settings(toy, key_env="TOY_KEY"))
    assert "schlüssel" not in str(error.value)
    toy.set(key=SECRET)
    with Endpoint(settings(toy)) as endpoint, pytest.raises(RefusedError) as refused:
        endpoint.post("/completions", PAYLOAD, names=["a"])
    assert "set key_env" in str(endpoint.problem(refused.value))


# Trying again


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(toy: Serving, status: int) -> None:
    toy.set(statuses=[status])
    with Endpoint(settings(toy)) as endpoint:
        assert endpoint.post("/completions", PAYLOAD, names=["a"])["choices"]
    assert len(toy.asked()) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 501])
def test_what_will_not_pass_is_asked_once(toy: Serving, status: int) -> None:
    toy.set(statuses=[status] * 5, message="no such thing")
    with Endpoint(settings(toy)) as endpoint, pytest.raises(RefusedError, match=f"{status}: no such thing"):
        endpoint.post("/completions", PAYLOAD, names=["a"])
    assert len(toy.asked()) == 1


def test_a_spent_quota_is_not_waited_for(toy: Serving) -> None:
    toy.set(statuses=[429] * 5, code="insufficient_quota", message="check your plan")
    with Endpoint(settings(toy)) as endpoint, pytest.raises(RefusedError, match="check your plan") as error:
        endpoint.post("/completions", PAYLOAD, names=["a"])
    assert len(toy.asked()) == 1 and error.value.concerns_all


def test_retry_after_is_honoured(toy: Serving) -> None:
    toy.set(statuses=[429], retry_after="1.2")
    with Endpoint(settings(toy)) as endpoint:
        endpoint.post("/completions", PAYLOAD, names=["a"])
    first, second = (one["at"] for one in toy.asked())
    assert 1.2 <= second - first < 2
    toy.set(statuses=[503] * 5, retry_after="Wed, 21 Oct 2099 07:28:00 GMT", message="down")
    with Endpoint(settings(toy)) as endpoint, pytest.raises(UnansweredError, match=r"after 1 try.*asks for a pause"):
        endpoint.post("/completions", PAYLOAD, names=["a"])


def test_tries_end(toy: Serving) -> None:
    toy.set(statuses=[500] * 5, message="out of memory")
    with (
        Endpoint(settings(toy, retries=1)) as endpoint,
        pytest.raises(UnansweredError, match="2 tries: it answered 500: out"),
    ):
        endpoint.post("/completions", PAYLOAD, names=["a"])
    assert len(toy.asked()) == 2


def test_nobody_home_and_nobody_answering_are_told_apart(toy: Serving) -> None:
    nowhere = settings(toy, url="http://127.0.0.1:9/v1", retries=0)
    with Endpoint(nowhere) as endpoint, pytest.raises(UnansweredError, match=r"127\.0\.0\.1:9.*refused"):
        endpoint.post("/completions", PAYLOAD, names=["a"])
    toy.set(slow_seconds=1)
    with (
        Endpoint(settings(toy, retries=0, timeout_seconds=0.2)) as endpoint,
        pytest.raises(UnansweredError, match=r"nothing came within 0\.2 s"),
    ):
        endpoint.post("/completions", PAYLOAD, names=["a"])


def test_pauses_double_and_hang_on_names_only() -> None:
    assert [0.25 * 2**n <= backoff(n, ["a"]) <= 0.5 * 2**n for n in range(6)] == [True] * 6
    assert backoff(3, ["a"]) == backoff(3, ["a"]) != backoff(3, ["b"])
    assert backoff(30, ["a"]) <= 60


def test_a_stop_wakes_who_waits(toy: Serving) -> None:
    toy.set(statuses=[503], retry_after="60")
    with Endpoint(settings(toy)) as endpoint, ThreadPoolExecutor() as pool:
        waiting = pool.submit(endpoint.post, "/completions", PAYLOAD, names=["a"])
        while len(toy.asked()) < 1:
            time.sleep(0.01)
        endpoint.stop()
        with pytest.raises(StoppedError):
            waiting.result(timeout=30)


# Limits


def test_requests_keep_to_their_rate(toy: Serving) -> None:
    with Endpoint(settings(toy, requests_per_minute=600)) as endpoint, ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda i: endpoint.post("/completions", PAYLOAD, names=[str(i)]), range(5)))
    times = sorted(one["at"] for one in toy.asked())
    assert times[-1] - times[0] >= 4 * 0.1 - 0.05


def test_tokens_keep_to_their_rate_by_the_endpoints_own_count(toy: Serving) -> None:
    # 5 tokens a request by the server's count, so that 5 requests and 4 pauses take 20 tokens of 3,000 a minute.
    with Endpoint(settings(toy, tokens_per_minute=3000)) as endpoint:
        for i in range(5):
            endpoint.post("/completions", {**PAYLOAD, "prompt": "a b c"}, names=[str(i)])
    times = [one["at"] for one in toy.asked()]
    assert 4 * 5 * 60 / 3000 - 0.05 <= times[-1] - times[0] < 1


# What a refusal means


def test_an_unknown_model_is_answered_with_those_served(toy: Serving) -> None:
    with Endpoint(settings(toy, model="toys")) as endpoint:
        with pytest.raises(RefusedError) as error:
            endpoint.post("/completions", {**PAYLOAD, "model": "toys"}, names=["a"])
        assert "did you mean toy?" in str(endpoint.problem(error.value))


@pytest.mark.parametrize(
    ("refusal", "too_long"),
    [
        (RefusedError(400, "This model's maximum context length is 2048 tokens. However, you requested 3000"), True),
        (RefusedError(400, "the request exceeds the available context size", "exceed_context_size_error"), True),
        (RefusedError(400, "Requested tokens (700) exceed context window of 512"), True),
        (RefusedError(400, "x", "context_length_exceeded"), True),
        (RefusedError(422, "prompt is too long"), True),
        (RefusedError(400, "logprobs must be at most 5"), False),
        (RefusedError(404, "no model with such a context length"), False),
    ],
)
def test_a_text_beyond_the_context_is_told_by_the_servers_words(refusal: RefusedError, too_long: bool) -> None:
    assert refusal.too_long is too_long
