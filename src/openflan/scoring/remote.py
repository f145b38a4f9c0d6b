"""Rank classification and generation through an endpoint, text in and numbers out.

Takes a `RemoteModel` (see `connect`) and `RemoteRequest`s, gives `Answered`. Every answer is kept as it comes, so the
same command goes on after a kill or a dead endpoint. Read next: `echo.py`, `matching.py`, then `studies/remote.py`.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from openflan.artifacts import fingerprint
from openflan.errors import ModelError, Problem
from openflan.models.remote import Endpoint, RefusedError, RemoteSettings, UnansweredError
from openflan.scoring.echo import Echo, lay, shared_border
from openflan.scoring.generate import Ended, before_stop
from openflan.scoring.store import Journal, Record

ENGINE = "remote-1"
"""Part of the journal's keys: changes whenever an answer may."""
TOLERANCE_NATS = 0.25
"""How far two log-probabilities of one token may lie apart when an endpoint is tried out: half precision and company
in a batch move them by up to an eighth."""
PROBES = (
    "Where is the book? The book is in the",
    "Once upon a time there was a little",
    "one two three four five six seven eight",
)
PROBE_CANDIDATES = 5
"""Next tokens asked for in trying out an endpoint; none allows fewer."""
ROUNDING_NATS = 1e-3
"""A log-probability may lie above 0 by so much."""
PROBE_COMPARISONS = 3
PROBE_RETRIES = 3
TOO_LONG = "inputs longer than the endpoint's context"
FEW_REFUSED = 20
"""Requests refused before it matters that they are more than those answered."""

Way = Literal["echo", "prompt_logprobs"]
"""How an endpoint is asked for a prompt's log-probabilities: OpenAI's way, and vLLM's own."""
WAYS: tuple[Way, ...] = ("echo", "prompt_logprobs")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteRequest:
    """One prompt as text, with the options to score after it or none to have it continued."""

    id: str
    prompts: tuple[str, ...]
    """The whole prompt, then shorter ones: the first that fits the endpoint's context is asked."""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteScores:
    """Log-probability in nats of each token of each option, in the request's order; tokens are the endpoint's."""

    id: str
    prompt: int
    """Which of the request's prompts was asked."""
    logprobs: tuple[tuple[float, ...], ...]
    merged: bool
    """A token spans the join of prompt and option: all options are scored from the last border before it."""


@dataclass(frozen=True, slots=True)
class RemoteText:
    """What an endpoint wrote after a prompt, and why it ended."""

    id: str
    prompt: int
    text: str
    ended: Ended
    """"stop" also where the endpoint only says that the text ended, which most do for the end token too."""
    num_tokens: int | None
    """As the endpoint counts them; None where it does not."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A request without a usable answer."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RemoteUsage:
    """What answers took, those from the journal included; tries that failed and the trying out are not in it."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    uncounted: int = 0
    """Requests whose tokens the endpoint did not report."""

    def __add__(self, other: "RemoteUsage") -> "RemoteUsage":
        return RemoteUsage(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def cost(self, settings: RemoteSettings) -> float | None:
        """By the prices of the settings, in their currency; None where they name none."""
        if settings.input_price is None and settings.output_price is None:
            return None
        read, written = settings.input_price or 0.0, settings.output_price or 0.0
        return (self.input_tokens * read + self.output_tokens * written) / 1e6

    def words(self, settings: RemoteSettings) -> str:
        """ "1,200 requests, 310,220 tokens read, 1,200 written, cost 0.62"."""
        said = f"{self.requests:,} requests, {self.input_tokens:,} tokens read, {self.output_tokens:,} written"
        if self.uncounted:
            said += f" ({self.uncounted:,} requests not counted by the endpoint)"
        cost = self.cost(settings)
        return said if cost is None else f"{said}, cost {cost:,.4g}"


Answer = TypeVar("Answer", RemoteScores, RemoteText)


@dataclass(frozen=True, slots=True)
class Answered(Generic[Answer]):
    """What came of requests, in the order given."""

    answers: list[Answer]
    skipped: list[Skipped]
    usage: RemoteUsage


@dataclass(slots=True)
class RemoteModel:
    """An endpoint that has been tried out."""

    endpoint: Endpoint
    way: Way | None
    """How it gives a prompt's log-probabilities; None where it does not, or none are wanted."""
    why: str = ""
    """Why options are not ranked."""
    length_key: str = field(default="max_tokens")
    """What the endpoint calls the bound of an answer's length: newer chat models have another name for it."""

    @property
    def settings(self) -> RemoteSettings:
        return self.endpoint.settings

    def identity(self) -> list[Any]:
        """What its answers depend on, for keys."""
        return [ENGINE, self.settings.base_url, self.settings.model, self.settings.api, self.way, self.settings.context]


# Trying out


def connect(endpoint: Endpoint, *, ranks: bool) -> RemoteModel:
    """The endpoint's model, with what it can do; nothing is asked where no options are to be ranked.

    Some servers take the request for a prompt's log-probabilities and answer without them (llama.cpp's, issue 27174),
    or with those of other positions. So they are checked against what the endpoint itself says of the next token:
    its log-probability as a continuation must be the one it has as the end of a longer prompt.

    Raises ModelError where the settings ask for log-probabilities and none come, and where the endpoint refuses all.
    """
    settings = endpoint.settings
    if not ranks:
        return RemoteModel(endpoint, None, "no options to rank")
    if settings.scoring == "generation" or settings.api == "chat":
        setting = 'scoring = "generation"' if settings.scoring == "generation" else 'api = "chat"'
        return RemoteModel(endpoint, None, f"the settings say {setting}")
    reasons: list[str] = []
    for way in WAYS:
        remote = RemoteModel(endpoint, way)
        wrong = _wrong(remote)
        if wrong is None:
            return remote
        reasons.append(f"{way}: {wrong}")
    why = f"it gives no usable log-probabilities of a prompt ({'; '.join(reasons)})"
    if settings.scoring == "logprobs":
        raise ModelError(
            Problem(
                f"{settings.model} at {settings.base_url}",
                why,
                'scoring = "generation" matches written answers to the options instead; that is no rank classification',
            )
        )
    log.warning(
        "%s: %s; options are NOT ranked, its written answers are matched to them instead", settings.base_url, why
    )
    return RemoteModel(endpoint, None, why)


def _wrong(remote: RemoteModel) -> str | None:
    """What is wrong with the log-probabilities an endpoint gives of a prompt; None where they hold."""
    unread: list[str] = []
    compared = 0
    for text in PROBES:
        try:
            first = _echo(
                remote, text, candidates=PROBE_CANDIDATES, retries=min(remote.settings.retries, PROBE_RETRIES)
            )
        except RefusedError as refusal:
            # A refused name is about the model; anything else that is refused may be about the way of asking.
            if refusal.concerns_all or remote.settings.model in refusal.said:
                raise remote.endpoint.problem(refusal) from refusal
            return f"refused with {refusal}"
        except UnansweredError as error:
            # Some servers fall over at what they do not offer; any other status may be about the moment.
            if error.status != 500:
                raise
            return str(error)
        except UnusableError as error:
            unread.append(str(error))
            continue
        given = [value for value in first.echo.logprobs if value is not None]
        if any(not math.isfinite(value) for value in given):
            return f"a token of a prompt has the log-probability {next(v for v in given if not math.isfinite(v))}"
        if len(set(given)) < 2:
            return f"all tokens of a prompt have the log-probability {given[0]:g}" if given else "they are empty"
        for piece, expected in first.candidates:
            found = _as_prompt(remote, text, piece)
            if found is None:
                continue
            if abs(found - expected) > TOLERANCE_NATS:
                return (
                    f"after {text!r} the token {piece!r} has {expected:.3f} nats as the next one, "
                    f"but {found:.3f} as the end of a prompt"
                )
            compared += 1
            if compared >= PROBE_COMPARISONS:
                return None
    if len(unread) == len(PROBES):
        return unread[0]
    if not compared:
        log.warning("%s: no next token could be read back, its log-probabilities are unproven", remote.settings.url)
    return None


def _as_prompt(remote: RemoteModel, text: str, piece: str) -> float | None:
    """The log-probability of `piece` as the end of a prompt; None where it is not one token there."""
    if not piece.strip() or not piece.isascii():
        return None
    try:
        echo = _echo(remote, text + piece).echo
    except (UnusableError, RefusedError):
        return None
    return echo.logprobs[-1] if echo.starts[-1] == len(text) else None


# Asking


class UnusableError(Exception):
    """An answer came and cannot be used."""


@dataclass(frozen=True, slots=True)
class _Read:
    echo: Echo
    candidates: list[tuple[str, float]]
    """Next tokens after the text, with their log-probabilities."""
    usage: RemoteUsage


def score(
    remote: RemoteModel,
    requests: Sequence[RemoteRequest],
    *,
    moved: str = " ",
    store: Path | None = None,
    report: Callable[[int], None] | None = None,
) -> Answered[RemoteScores]:
    """Log-probabilities of every option, from an endpoint that gives a prompt's. `report` gets the number answered.

    Options are scored from where `inputs` without its ending characters of `moved` ends, as by the local scorer, or
    from the last token border before it that all options share.

    Raises ModelError for ids used twice, and where the endpoint fails for good; finished answers are in `store`.
    """
    assert remote.way is not None

    def ask(request: RemoteRequest, prompt: str) -> tuple[Record, RemoteUsage]:
        read = {option: _echo(remote, prompt + option) for option in dict.fromkeys(request.options)}
        join = len(prompt.rstrip(moved))
        border = shared_border([one.echo for one in read.values()], join)
        if border is None:
            raise UnusableError("no token stands before the options, so their first has no log-probability")
        first = next(iter(read.values())).echo
        logprobs = {option: _tail(one.echo, border) for option, one in read.items()}
        usage = sum((one.usage for one in read.values()), RemoteUsage())
        start = first.starts[border]
        record = {
            "logprobs": [logprobs[option] for option in request.options],
            "merged": start is not None and start < join,
        }
        return record, usage

    def made(request: RemoteRequest, record: Record) -> RemoteScores:
        return RemoteScores(request.id, record["prompt"], tuple(map(tuple, record["logprobs"])), record["merged"])

    return _each(remote, requests, ask, made, [moved], store, report)


def generate(
    remote: RemoteModel,
    requests: Sequence[RemoteRequest],
    *,
    max_new_tokens: int,
    stops: Sequence[str],
    store: Path | None = None,
    report: Callable[[int], None] | None = None,
) -> Answered[RemoteText]:
    """What the endpoint writes after each prompt at temperature 0. `report` gets the number answered.

    Raises ModelError for ids used twice, and where the endpoint fails for good; finished answers are in `store`.
    """
    wanted = [stop for stop in stops if stop]

    def ask(request: RemoteRequest, prompt: str) -> tuple[Record, RemoteUsage]:
        found, usage = _written(remote, prompt, max_new_tokens, wanted)
        choice = _choice(found)
        whole = _text(choice)
        text = before_stop(whole, wanted)
        ended = "stop" if len(text) < len(whole) else _ended(choice)
        num_tokens = None if usage.uncounted else usage.output_tokens
        return {"text": text, "ended": ended, "num_tokens": num_tokens}, usage

    def made(request: RemoteRequest, record: Record) -> RemoteText:
        return RemoteText(request.id, record["prompt"], record["text"], record["ended"], record["num_tokens"])

    return _each(remote, requests, ask, made, [max_new_tokens, wanted], store, report)


def _each(
    remote: RemoteModel,
    requests: Sequence[RemoteRequest],
    ask: Callable[[RemoteRequest, str], tuple[Record, RemoteUsage]],
    made: Callable[[RemoteRequest, Record], Answer],
    key: Sequence[Any],
    store: Path | None,
    report: Callable[[int], None] | None,
) -> Answered[Answer]:
    """Every request asked, several at a time, or read from the journal; the first lasting failure stops all."""
    counts = Counter(request.id for request in requests)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ModelError([Problem(name, "id used by two requests") for name in twice])
    journal = Journal(store)
    keys = [fingerprint([*remote.identity(), *key, request.prompts, request.options]) for request in requests]
    found: dict[int, Record] = {i: record for i, one in enumerate(keys) if (record := journal.get(one)) is not None}
    skipped: dict[int, str] = {}

    def work(index: int) -> None:
        record = _answer(remote, requests[index], ask)
        if isinstance(record, str):
            skipped[index] = record
        else:
            journal.put(keys[index], record)
            found[index] = record

    missing = [index for index in range(len(requests)) if index not in found]
    if report is not None and found:
        report(len(found))
    pool = ThreadPoolExecutor(remote.settings.concurrency, thread_name_prefix="openflan-remote")
    try:
        for future in as_completed([pool.submit(work, index) for index in missing]):
            future.result()
            if len(skipped) >= FEW_REFUSED and len(skipped) > len(found):
                index, reason = next(iter(skipped.items()))
                raise ModelError(f"most requests get no usable answer, {requests[index].id}: {reason}")
            if report is not None:
                report(len(found) + len(skipped))
    except BaseException as error:
        remote.endpoint.stop()
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        if isinstance(error, ModelError):
            raise _stopped(error, len(found), len(requests), store) from error
        raise
    pool.shutdown()
    usage = sum((RemoteUsage(*record["usage"]) for record in found.values()), RemoteUsage())
    return Answered(
        [made(requests[index], found[index]) for index in sorted(found)],
        [Skipped(requests[index].id, skipped[index]) for index in sorted(skipped)],
        usage,
    )


def _answer(
    remote: RemoteModel,
    request: RemoteRequest,
    ask: Callable[[RemoteRequest, str], tuple[Record, RemoteUsage]],
) -> Record | str:
    """The record of the first of a request's prompts that fits, or why there is none."""
    for place, prompt in enumerate(request.prompts):
        try:
            record, usage = ask(request, prompt)
        except RefusedError as refusal:
            if refusal.too_long:
                continue
            if refusal.concerns_all:
                raise remote.endpoint.problem(refusal) from refusal
            return f"refused with {refusal}"
        except UnusableError as error:
            return str(error)
        return {**record, "prompt": place, "usage": list(astuple(usage))}
    return TOO_LONG


def _stopped(error: ModelError, done: int, total: int, store: Path | None) -> ModelError:
    kept = (
        f"they are kept in {store}, and the same command goes on from there"
        if store is not None
        else "they are lost: a store folder would keep them"
    )
    where = Problem("stopped", f"{done:,} of {total:,} requests were answered", kept)
    return ModelError([*(error.problems or [Problem("endpoint", str(error))]), where])


# One request


def _echo(remote: RemoteModel, text: str, *, candidates: int = 1, retries: int | None = None) -> _Read:
    """The text's tokens with their log-probabilities, as the endpoint gives them."""
    # Temperature 1 leaves log-probabilities as they are, on servers that apply it to them too. One token is the least
    # that every server writes: some take 0 for "no bound".
    payload = {
        "model": remote.settings.model,
        "prompt": text,
        "max_tokens": 1,
        "temperature": 1,
        "logprobs": candidates,
    }
    payload |= {"echo": True} if remote.way == "echo" else {"prompt_logprobs": 0}
    found = remote.endpoint.post("/completions", payload, names=[text], retries=retries)
    usage = _usage(found)
    _check_context(remote.settings, usage.input_tokens)
    choice = _choice(found)
    given = choice.get("logprobs")
    listed: dict[str, Any] = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    written: list[Any] = listed.get("tokens") or []
    values: list[Any] = listed.get("token_logprobs") or []
    if remote.way == "prompt_logprobs":
        entries = choice.get("prompt_logprobs")
        if not isinstance(entries, list) or not entries:
            raise UnusableError("the answer holds no prompt_logprobs")
        tokens, logprobs = _of_prompt(cast("list[Any]", entries))
        starts = lay(text, tokens)
    else:
        if not written or len(written) != len(values):
            raise UnusableError("the answer holds no log-probabilities of the prompt")
        tokens, logprobs, starts = _of_echo(text, choice, written, values, listed.get("text_offset"), usage)
    if starts is None:
        raise UnusableError("the tokens of the answer do not add up to the text that was sent")
    tops: list[Any] = listed.get("top_logprobs") or []
    top = cast("dict[str, Any]", tops[-1]) if tops and isinstance(tops[-1], dict) else {}
    after = (
        [*zip(written[-1:], values[-1:], strict=False)] if len(written) > len(tokens) or remote.way != "echo" else []
    )
    best = [(str(piece), float(value)) for piece, value in {**dict(after), **top}.items() if _number(value) is not None]
    return _Read(Echo(tuple(tokens), tuple(logprobs), starts), best, usage)


def _of_echo(
    text: str, choice: Mapping[str, Any], tokens: Sequence[Any], values: Sequence[Any], offsets: Any, usage: RemoteUsage
) -> tuple[list[str | None], list[float | None], tuple[int | None, ...] | None]:
    """Tokens, values and starts of what belongs to the text: the last entry may be the token written after it."""
    likely = min(1, usage.output_tokens)
    for written in (likely, 1 - likely):
        number = len(tokens) - written
        pieces = [str(token) for token in tokens[:number]]
        starts = lay(text, pieces)
        # Where the tokens' own text does not tell, the server's offsets may, if they end where the text does.
        if starts is None and written and _closes(text, choice, tokens, offsets):
            starts = tuple(
                at if at > before else None for before, at in zip([-1, *offsets], offsets[:-1], strict=False)
            )
        if starts is not None:
            return list(pieces), [_number(value) for value in values[:number]], starts
    return [], [], None


def _closes(text: str, choice: Mapping[str, Any], tokens: Sequence[Any], offsets: Any) -> bool:
    """Whether the server's account of where tokens begin fits the text it was sent."""
    if not isinstance(offsets, list) or not all(isinstance(at, int) for at in cast("list[Any]", offsets)):
        return False
    places = cast("list[int]", offsets)
    in_order = len(places) == len(tokens) and places == sorted(places)
    return in_order and places[0] == 0 and places[-1] == len(text) and str(choice.get("text", "")).startswith(text)


def _of_prompt(entries: Sequence[Any]) -> tuple[list[str | None], list[float | None]]:
    """Tokens and log-probabilities of vLLM's list: of each token a mapping whose first entry is the token itself."""
    tokens: list[str | None] = []
    logprobs: list[float | None] = []
    for entry in entries:
        chosen: Any = next(iter(cast("dict[str, Any]", entry).values()), None) if isinstance(entry, dict) else None
        fields = cast("dict[str, Any]", chosen) if isinstance(chosen, dict) else {}
        piece = fields.get("decoded_token")
        tokens.append(None if not fields else str(piece or ""))
        logprobs.append(_number(fields.get("logprob")))
    return tokens, logprobs


def _tail(echo: Echo, border: int) -> list[float]:
    """The log-probabilities from a border on. Raises UnusableError where one is missing or no log-probability."""
    found: list[float] = []
    for token, value in zip(echo.tokens[border:], echo.logprobs[border:], strict=True):
        if value is None:
            raise UnusableError(f"the token {token!r} of an option has no log-probability")
        if not math.isfinite(value) or value > ROUNDING_NATS:
            raise UnusableError(f"the token {token!r} of an option has the log-probability {value}")
        found.append(min(value, 0.0))
    return found


def _written(
    remote: RemoteModel, prompt: str, max_new_tokens: int, stops: Sequence[str]
) -> tuple[Mapping[str, Any], RemoteUsage]:
    settings = remote.settings
    chat = settings.api == "chat"
    asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    payload: dict[str, Any] = {"model": settings.model, **asked, "temperature": 0}
    if stops:
        payload["stop"] = list(stops)
    path = "/chat/completions" if chat else "/completions"
    sent = remote.length_key  # requests under way together learn of another key one after the other
    try:
        found = remote.endpoint.post(path, {**payload, sent: max_new_tokens}, names=[prompt])
    except RefusedError as refusal:
        if "max_completion_tokens" not in refusal.said or sent == "max_completion_tokens":
            raise
        remote.length_key = "max_completion_tokens"
        found = remote.endpoint.post(path, {**payload, remote.length_key: max_new_tokens}, names=[prompt])
    usage = _usage(found)
    _check_context(settings, usage.input_tokens + max_new_tokens)
    return found, usage


def _check_context(settings: RemoteSettings, tokens: int) -> None:
    """The endpoint may read more than it is meant to, or cut a text in silence: its own count tells."""
    if settings.context is not None and tokens > settings.context:
        raise RefusedError(413, f"{tokens} tokens, the settings allow {settings.context}", "context_length_exceeded")


def _choice(found: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = found.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise UnusableError("the answer holds no choice")
    return cast("dict[str, Any]", choices[0])


def _text(choice: Mapping[str, Any]) -> str:
    message = choice.get("message")
    text = cast("dict[str, Any]", message).get("content") if isinstance(message, dict) else choice.get("text")
    return text if isinstance(text, str) else ""


def _ended(choice: Mapping[str, Any]) -> Ended:
    reason = choice.get("finish_reason")
    if reason == "length":
        return "length"
    if reason not in ("stop", "eos", "eos_token", None):
        raise UnusableError(f"the endpoint ended its answer with {reason!r}")
    # vLLM tells which stop text it met, and none for the end token.
    return (
        "eos" if reason in ("eos", "eos_token") or ("stop_reason" in choice and not choice["stop_reason"]) else "stop"
    )


def _usage(found: Mapping[str, Any]) -> RemoteUsage:
    given = found.get("usage")
    usage = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(read, int):
        return RemoteUsage(1, 0, 0, 1)
    return RemoteUsage(1, read, written if isinstance(written, int) else 0, 0)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
