"""A language model behind an OpenAI-compatible endpoint: what to know of it, and a client that waits and retries.

Takes `remote:MODEL@URL` or a recipe's `[remote.NAME]`, gives an `Endpoint` that posts JSON. No torch, no tokenizer.
Read next: `scoring/remote.py`.
"""

import contextlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from openflan.catalog.load import validated
from openflan.errors import ConfigError, ModelError, Problem, nearest
from openflan.seeding import derive

if TYPE_CHECKING:
    import httpx

REMOTE_PREFIX = "remote:"
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
PATIENCE_SECONDS = 600.0
"""A server that asks for a longer pause than this is given up on."""
PERMANENT_5XX = {501, 505}
RETRIED_4XX = {408, 409, 425, 429}
SPENT_QUOTA = "insufficient_quota"
CHARS_KEPT = 300
"""Of what a server says in an error."""

_NAME = re.compile(r"remote:(?P<model>.+)@(?P<url>https?://[^\s?]+)(?:\?(?P<query>.*))?")
_TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size)|max(imum)?[ _](model|sequence|context)[ _]len|"
    r"(prompt|input|request)\w* (is|are) too (long|large)|too many (input |prompt )?tokens|longer than the max",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
log = logging.getLogger(__name__)

Positive = Annotated[float, Field(gt=0)]


class RemoteSettings(BaseModel):
    """One endpoint and how it may be used; a recipe's `[remote.NAME]`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    url: str
    """Up to and with the version: "http://127.0.0.1:8000/v1"."""
    model: str
    """As the endpoint calls it."""
    api: Literal["completions", "chat"] = "completions"
    """"chat": each prompt goes as one user message, which only suits generation."""
    scoring: Literal["auto", "logprobs", "generation"] = "auto"
    """How options are chosen. "logprobs": rank classification, or an error; "generation": a written answer is matched
    to the options; "auto": the first where an endpoint gives log-probabilities of prompts, else the second, by name."""
    templates: Literal["direct", "completion"] = "direct"
    """Which kind of template asks it; the second is an untuned model's own style."""
    context: Annotated[int, Field(ge=1)] | None = None
    """The most tokens of prompt and answer together, by the endpoint's own count; null leaves it to the endpoint."""
    key_env: str | None = None
    """The environment variable that holds the key. The key itself stands nowhere else."""
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    """Requests under way at one time."""
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    timeout_seconds: Positive = 120
    retries: Annotated[int, Field(ge=0)] = 6
    """Further tries of one request after a time-out, a broken connection, 429 or 5xx."""
    input_price: Annotated[float, Field(ge=0)] | None = None
    """Per million tokens read."""
    output_price: Annotated[float, Field(ge=0)] | None = None
    """Per million tokens written."""

    @model_validator(mode="after")
    def _checked(self) -> "RemoteSettings":
        # Checked here and not in the fields' types, since pydantic shows a field's value: it may be a key put amiss.
        problems: list[str] = []
        if self.key_env is not None and not _VARIABLE.fullmatch(self.key_env):
            problems.append("key_env is the NAME of an environment variable (capital letters), never the key itself")
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
            (host or "").encode("idna")  # what would fail only once the host is looked up
        except ValueError:
            parts, host = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not host:
            problems.append("url is no http:// or https:// address")
        elif "@" in parts.netloc or parts.query or parts.fragment:
            problems.append(
                "url holds no user, password, query or fragment; a key belongs in the environment, see key_env"
            )
        if self.api == "chat" and self.scoring == "logprobs":
            problems.append(
                'api = "chat" gives no log-probabilities of a prompt; scoring must be "generation" or "auto"'
            )
        if not self.model.strip():
            problems.append("model is empty")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def base_url(self) -> str:
        return self.url.rstrip("/")

    def content(self) -> dict[str, Any]:
        """What answers depend on, as plain data; how fast and at what price they come is left out."""
        kept = self.model_dump(mode="json", include={"model", "api", "scoring", "templates", "context"})
        return {"url": self.base_url, **kept}


def is_remote(name: str) -> bool:
    """Whether a model's name means an endpoint."""
    return name.startswith(REMOTE_PREFIX)


def remote_settings(name: str) -> RemoteSettings:
    """The settings a model's name spells out: `remote:MODEL@URL`, then `?key=value&…` with keys of a `[remote.NAME]`.

    Raises ConfigError with every problem.
    """
    matched = _NAME.fullmatch(name)
    if matched is None:
        raise ConfigError(
            Problem("model", "an endpoint is written remote:MODEL@URL", "remote:gpt2@http://127.0.0.1:8000/v1")
        )
    query = parse_qsl(matched["query"] or "", keep_blank_values=True)
    table = {**dict(query), "model": matched["model"], "url": matched["url"]}
    return validated(RemoteSettings, table, "model", ConfigError)


class RefusedError(Exception):
    """The endpoint will not answer this request, however often it is sent."""

    def __init__(self, status: int, said: str, code: str = "") -> None:
        super().__init__(f"{status}: {said}" if said else str(status))
        self.status, self.said, self.code = status, said, code

    @property
    def too_long(self) -> bool:
        """The text does not fit the model's context."""
        known = self.code in ("context_length_exceeded", "exceed_context_size_error")
        return known or (self.status in (400, 413, 422) and _TOO_LONG.search(self.said) is not None)

    @property
    def concerns_all(self) -> bool:
        """It is about the key, the quota, the address or the model: every other request would be refused too."""
        return self.status in (401, 402, 403, 404, 405, 501) or self.code == SPENT_QUOTA


class UnansweredError(ModelError):
    """All tries of a request came to nothing."""

    def __init__(self, problem: Problem, status: int | None) -> None:
        super().__init__(problem)
        self.status = status
        """Of the last try's answer; None where there was none."""


class StoppedError(Exception):
    """Another request has failed for good, so this one is not waited for."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """One try that came to nothing and may be tried again."""

    what: str
    status: int | None = None
    pause_seconds: float = 0.0
    """As the server asks."""


class Endpoint:
    """A client for one endpoint, for several threads at once. A context manager: leaving it closes the connections."""

    def __init__(self, settings: RemoteSettings) -> None:
        """Opens nothing yet. Raises ModelError without the `remote` extra, ConfigError where the key is missing or the
        url's host can be none."""
        try:
            import httpx
        except ImportError as error:
            raise ModelError("a remote model needs httpx: pip install 'openflan[remote]'") from error
        try:
            httpx.URL(settings.base_url)
        except httpx.InvalidURL as error:
            raise ConfigError(Problem("url", str(error))) from error
        self.settings = settings
        self._key = _key(settings.key_env)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(
            max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency, keepalive_expiry=30
        )
        self._client = httpx.Client(headers=headers, timeout=settings.timeout_seconds, limits=limits)
        self._stopped = threading.Event()
        self._requests, self._tokens = _Pace(settings.requests_per_minute), _Pace(settings.tokens_per_minute)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Wakes every waiting request, which then raises `StoppedError`."""
        self._stopped.set()

    def post(self, path: str, payload: Mapping[str, Any], *, names: Sequence[str], retries: int | None = None) -> Any:
        """The JSON object the endpoint answers with. `names` name the request: its pauses are derived from them.

        Tried again after time-outs, broken connections, 408, 409, 425, 429 and 5xx, with pauses that double and honour
        Retry-After. Raises RefusedError for other answers, UnansweredError when all tries are spent, and StoppedError
        after `stop`.
        """
        tries = 1 + (self.settings.retries if retries is None else retries)
        estimate, attempt = _estimate(payload), 0
        while True:
            self._sleep(max(self._requests.reserve(1), self._tokens.reserve(estimate)))
            found = self._try(path, payload)
            if not isinstance(found, _Failure):
                self._tokens.reserve(_total_tokens(found, estimate) - estimate)
                return found
            attempt += 1
            if attempt >= tries or found.pause_seconds > PATIENCE_SECONDS:
                break
            log.info("%s: %s; trying again", self.settings.base_url, found.what)
            self._sleep(max(found.pause_seconds, backoff(attempt - 1, names)))
        asked = (
            f"; it asks for a pause of {found.pause_seconds:,.0f} s" if found.pause_seconds > PATIENCE_SECONDS else ""
        )
        said = f"no answer after {attempt} {'try' if attempt == 1 else 'tries'}: {found.what}{asked}"
        raise UnansweredError(Problem(self.settings.base_url, said), found.status)

    def _try(self, path: str, payload: Mapping[str, Any]) -> "dict[str, Any] | _Failure":
        import httpx

        try:
            response = self._client.post(f"{self.settings.base_url}{path}", json=payload)
        except httpx.TimeoutException:
            return _Failure(f"nothing came within {self.settings.timeout_seconds:g} s")
        except (httpx.TransportError, RuntimeError) as error:
            if self._stopped.is_set():  # a client closed in mid-air raises RuntimeError
                raise StoppedError from error
            return _Failure(self._safe(str(error) or type(error).__name__))
        if response.is_success:
            found: Any = None
            with contextlib.suppress(ValueError):
                found = response.json()
            if isinstance(found, dict) and not cast("dict[str, Any]", found).get("error"):
                return cast("dict[str, Any]", found)
            return _Failure("it answered with something that is no JSON answer", response.status_code)
        said, code = _said(self._safe(response.text))
        refusal = RefusedError(response.status_code, said, code)
        transient = response.status_code in RETRIED_4XX or response.status_code >= 500
        # A spent quota comes as 429 too, and no waiting fills it.
        if not transient or response.status_code in PERMANENT_5XX or code == SPENT_QUOTA or refusal.too_long:
            raise refusal
        return _Failure(f"it answered {refusal}", response.status_code, _asked_pause(response))

    def problem(self, refusal: RefusedError) -> ModelError:
        """What a refusal means to whoever chose the endpoint."""
        settings, hint = self.settings, ""
        if refusal.status in (401, 403):
            hint = (
                f"check the key in ${settings.key_env}"
                if settings.key_env
                else "set key_env to the name of the environment variable that holds the key"
            )
        elif refusal.status in (400, 404):
            served = self.models()
            if served and settings.model not in served:
                hint = f"models it serves: {nearest(settings.model, served).removeprefix('known: ')}"
            elif refusal.status == 404:
                hint = f"url usually ends in /v1, and the endpoint must offer {_path(settings.api)}"
        elif refusal.status in (405, 501):
            other = "chat" if settings.api == "completions" else "completions"
            hint = f'perhaps it offers {_path(other)} only: api = "{other}"'
        return ModelError(Problem(f"{settings.model} at {settings.base_url}", f"refused with {refusal}", hint))

    def models(self) -> list[str]:
        """The names the endpoint says it serves; none where it does not tell."""
        import httpx

        try:
            found: Any = self._client.get(f"{self.settings.base_url}/models", timeout=10).json()
            return [str(one["id"]) for one in found["data"]]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, RuntimeError):
            return []

    def _safe(self, text: str) -> str:
        """Some servers repeat the key they refuse."""
        return text.replace(self._key, "***") if self._key else text

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds) if seconds > 0 else self._stopped.is_set():
            raise StoppedError


def _path(api: str) -> str:
    return "/chat/completions" if api == "chat" else "/completions"


def backoff(attempt: int, names: Sequence[str]) -> float:
    """Seconds before the try after `attempt` (from 0): doubling, with a share derived from the request's names.

    >>> backoff(0, ["a"]) == backoff(0, ["a"]) != backoff(0, ["b"])
    True
    """
    share = derive(0, "retry", *names, attempt) / 2**64
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**attempt) * (0.5 + 0.5 * share)


class _Pace:
    """Spaces out what is sent so that any minute holds no more than its share; None sets no bound."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._free_at = 0.0
        self._lock = threading.Lock()

    def reserve(self, amount: float) -> float:
        """Seconds to wait before that much may be sent; a negative amount gives back."""
        if not self._seconds_each:
            return 0.0
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now) if amount > 0 else self._free_at
            self._free_at = start + amount * self._seconds_each
            return start - now


def _estimate(payload: Mapping[str, Any]) -> float:
    """Tokens a request will cost, roughly: put right once the endpoint has counted."""
    written = payload.get("max_tokens") or payload.get("max_completion_tokens") or 0
    return len(str(payload.get("prompt") or payload.get("messages"))) / 4 + written


def _total_tokens(found: Mapping[str, Any], estimate: float) -> float:
    """As the endpoint counts, or else the estimate."""
    usage = found.get("usage")
    total = cast("dict[str, Any]", usage).get("total_tokens") if isinstance(usage, dict) else None
    return float(total) if isinstance(total, int | float) else estimate


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(Problem("key_env", f"the environment variable {variable} is not set", f"export {variable}=…"))
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(Problem("key_env", f"{variable} holds characters that cannot stand in a header"))
    return key


def _said(body: str) -> tuple[str, str]:
    """A server's words and its code for an error, from the several shapes these have."""
    said: Any = body
    code: Any = ""
    with contextlib.suppress(ValueError):
        found: Any = json.loads(body)
        for key in ("error", "detail", "message"):
            if isinstance(found, dict) and key in found:
                said = cast("dict[str, Any]", found)[key]
                break
        if isinstance(said, dict):
            fields = cast("dict[str, Any]", said)
            code = fields.get("code") if isinstance(fields.get("code"), str) else fields.get("type", "")
            said = fields.get("message", fields)
    return " ".join(str(said).split())[:CHARS_KEPT], str(code or "")


def _asked_pause(response: "httpx.Response") -> float:
    """Seconds by Retry-After, which is a number or a date; 0 without one."""
    asked = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    return 0.0
