"""Rank classification: the log-probability of every token of every option.

Takes `ScoreRequest`s (one prompt, its options, in ids), gives `OptionScores` in nats. An option's score is the sum over
its tokens (FLAN's rule, after the T5 library's rank classification); per-token values come back, so that the other
normalisations are made of the same pass. Read next: `plan.py`, then `tree.py`.
"""

import contextlib
import itertools
import logging
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openflan.encoding.boundary import unknown_token
from openflan.errors import ModelError, Problem
from openflan.scoring import padded
from openflan.scoring.forward import Readout, inference, readout, turned_beyond
from openflan.scoring.padded import Nats, Spent, score_padded
from openflan.scoring.plan import chunk_borders, make_plan, unique_tokens
from openflan.scoring.store import in_chunks

if TYPE_CHECKING:
    from openflan.encoding.encode import EncodedOptions
    from openflan.models.load import LanguageModel
    from openflan.scoring.tree import TreeCheck, TreeScorer

CHUNK_REQUESTS = 512
"""A killed run loses at most the work on these."""
NOISE_NATS = {"torch.float32": 4e-4, "torch.float16": 0.03, "torch.bfloat16": 0.25}
"""Two options closer than this may change places between two correct engines: each sum is right to half of it."""

Ids = tuple[int, ...]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One prompt and the options to score after it. Every id sequence has at least one token."""

    id: str
    prompt_ids: Ids
    option_ids: tuple[Ids, ...]


@dataclass(frozen=True, slots=True)
class UnconditionalRequest(ScoreRequest):
    """The options of another request after a context that says nothing of them; for `pmi` and nothing else."""


@dataclass(frozen=True, slots=True)
class OptionScores:
    """Log-probability in nats of each token of each option, in the request's order."""

    id: str
    logprobs: tuple[tuple[float, ...], ...]
    problem: str = ""
    """Why there are none, where bad requests are skipped."""

    @property
    def sums(self) -> tuple[float, ...]:
        """The log-probability of each option."""
        return tuple(math.fsum(tokens) for tokens in self.logprobs)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The number of tokens of each option."""
        return tuple(map(len, self.logprobs))

    @property
    def per_token(self) -> tuple[float, ...]:
        """Nats for each option's token, on average."""
        return tuple(total / number for total, number in zip(self.sums, self.tokens, strict=True))

    def per_byte(self, options: Sequence[str]) -> tuple[float, ...]:
        """Nats for each UTF-8 byte of the options' texts, on average."""
        sizes = [len(option.encode()) for option in options]
        return tuple(total / size for total, size in zip(self.sums, sizes, strict=True))

    def pmi(self, unconditional: "OptionScores") -> tuple[float, ...]:
        """Pointwise mutual information of prompt and option: how much likelier the prompt makes each option, in nats.

        `unconditional` are the scores of this request's `UnconditionalRequest`. Source: Holtzman et al. 2021.
        """
        if (self.id, self.tokens) != (unconditional.id, unconditional.tokens):
            raise ModelError(f"{self.id}: unconditional scores are those of other options ({unconditional.id})")
        return tuple(total - alone for total, alone in zip(self.sums, unconditional.sums, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringCost:
    """What scoring took, against a scorer that feeds prompt and option again for each option."""

    engine: str = ""
    """How: "trees", or "padded texts" and why; with oneDNN where that multiplied."""
    requests: int = 0
    """Answered so far, from the store or computed."""
    ties: int = 0
    """Of these, where two different options are exactly as likely and likelier than the rest: the first one counts."""
    close: int = 0
    """Of these, where the two likeliest options differ by less than the numeric noise."""
    stored: int = 0
    """Of these, read from the store; nothing below counts them."""
    options: int = 0
    tokens: int = 0
    """Fed to the model, padding left out."""
    padding: int = 0
    positions: int = 0
    """Where the head was applied."""
    row_per_option_tokens: int = 0
    floor_tokens: int = 0
    """Of all requests, stored ones too, with nothing computed twice."""

    def __add__(self, other: "ScoringCost") -> "ScoringCost":
        return ScoringCost(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def __str__(self) -> str:
        said = f"{self.requests:,} requests ({self.stored:,} from the store), {self.options:,} options scored"
        if self.tokens:
            ratio = self.row_per_option_tokens / self.tokens
            floor = "" if self.stored else f" (floor {self.floor_tokens:,})"
            said += f" as {self.engine}: {self.tokens:,} tokens computed{floor}"
            said += f", {self.row_per_option_tokens:,} with one row per option ({ratio:.1f}x fewer)"
        return f"{said}; {self.ties:,} ties, {self.close:,} more within numeric noise"


def requests_of(encoded: "Iterable[EncodedOptions]") -> list[ScoreRequest]:
    """One request for each encoded example, named by it."""
    return [ScoreRequest(e.read.id, e.prompt_ids, e.option_ids) for e in encoded]


def unconditional_requests(requests: Iterable[ScoreRequest], context_ids: Ids) -> list[UnconditionalRequest]:
    """The same options after `context_ids`: the BOS, say, or a bare "Answer:"."""
    return [UnconditionalRequest(request.id, context_ids, request.option_ids) for request in requests]


def score(
    lm: "LanguageModel",
    requests: Sequence[ScoreRequest],
    *,
    store: Path | None = None,
    strict: bool = False,
    skip: bool = False,
    batch_tokens: int | None = None,
    kept_bytes: int | None = None,
    chunk_requests: int = CHUNK_REQUESTS,
    report: Callable[[ScoringCost], None] | None = None,
) -> list[OptionScores]:
    """The scores of each request, in the order given; logits are float32 before the log-softmax.

    Every token that requests share is computed once (see `plan.py`). A model that cannot be scored so is scored by
    padded batches, with a warning that says why. Requests are taken in the order of their tokens, and every chunk is
    computed on its own: a `store` left by a killed run changes nothing but the time. `report` gets the running cost
    after each chunk.

    strict: torch's own matrix products in any case, see `gemm.py`. batch_tokens: in one pass through the model.
    kept_bytes: keys and values of shared beginnings kept at one time.

    Raises ModelError for ids used twice, and for requests that have an empty prompt or option, do not fit the model's
    context, have a token it does not know or get a value that is not finite; with `skip` these get an `OptionScores`
    that names the problem instead.
    """
    problems = request_problems(requests, lm)
    if lm.prefix_ids:
        requests = [ScoreRequest(r.id, lm.prefix_ids + r.prompt_ids, r.option_ids) for r in requests]
    if problems and not skip:
        raise ModelError(problems)
    repeated = [problem for problem in problems if problem.what == REPEATED]
    if repeated:
        raise ModelError(repeated)
    bad = {problem.where: problem.what for problem in problems}
    good = [request for request in requests if request.id not in bad]
    scores = _score_all(lm, good, store, strict, batch_tokens, kept_bytes, chunk_requests, report) if good else {}
    infinite = [Problem(name, INFINITE) for name, one in scores.items() if not _is_finite(one)]
    if infinite and not skip:
        raise ModelError(infinite)
    bad |= {problem.where: problem.what for problem in infinite}
    return [OptionScores(r.id, (), bad[r.id]) if r.id in bad else scores[r.id] for r in requests]


REPEATED = "id used by two requests"
INFINITE = "the model gave a log-probability that is not finite"


def request_problems(requests: Sequence[ScoreRequest], lm: "LanguageModel") -> list[Problem]:
    """What keeps requests, as they are before a soft prompt is put before them, from being scored by the model."""
    context, known = lm.context - len(lm.prefix_ids), lm.known_tokens
    problems: list[Problem] = []
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            problems.append(Problem(request.id, REPEATED))
        seen.add(request.id)
        if not request.prompt_ids or not request.option_ids or not all(request.option_ids):
            problems.append(Problem(request.id, "the prompt and every option need at least one token"))
        elif (length := _longest(request)) > context:
            problems.append(Problem(request.id, f"{length} tokens, the model reads {context}"))
        elif what := unknown_token(itertools.chain(request.prompt_ids, *request.option_ids), known):
            problems.append(Problem(request.id, what))
    return problems


def _longest(request: ScoreRequest) -> int:
    """Tokens fed for the longest option, whose last token is only predicted."""
    return len(request.prompt_ids) + max(map(len, request.option_ids)) - 1


def _is_finite(scores: OptionScores) -> bool:
    return all(math.isfinite(value) for tokens in scores.logprobs for value in tokens)


def _score_all(
    lm: "LanguageModel",
    requests: Sequence[ScoreRequest],
    store: Path | None,
    strict: bool,
    batch_tokens: int | None,
    kept_bytes: int | None,
    chunk_requests: int,
    report: Callable[[ScoringCost], None] | None,
) -> dict[str, OptionScores]:
    order = sorted(range(len(requests)), key=lambda i: (requests[i].prompt_ids, requests[i].option_ids, requests[i].id))
    ordered = [requests[i] for i in order]
    scores: dict[str, OptionScores] = {}
    dtype = str(lm.dtype)
    with inference(lm.model), contextlib.ExitStack() as stack:
        accelerated = not strict and _accelerate(lm, stack)
        engine = _engine(lm, ordered, batch_tokens, kept_bytes, stack)
        cost = ScoringCost(engine=engine.name + " with oneDNN" * accelerated, floor_tokens=unique_tokens(ordered))

        def compute(chunk: Sequence[ScoreRequest]) -> list[dict[str, Any]]:
            nonlocal cost
            values, spent = engine.score(chunk)
            cost += ScoringCost(
                options=sum(len(r.option_ids) for r in chunk),
                tokens=spent.tokens,
                padding=spent.padding,
                positions=spent.positions,
                row_per_option_tokens=sum(len(r.prompt_ids) + len(o) - 1 for r in chunk for o in r.option_ids),
            )
            return [
                record if all(None not in tokens for tokens in record["logprobs"]) else again(request)
                for request, record in zip(chunk, _records(chunk, values), strict=True)
            ]

        def again(request: ScoreRequest) -> dict[str, Any]:
            # Attention multiplies what it masks by zero, and zero times infinity is not a number: a request may have
            # caught it from a neighbour in the same tree.
            return _records([request], engine.score([request])[0])[0]

        def content(request: ScoreRequest) -> list[Any]:
            return [request.id, request.prompt_ids, request.option_ids]

        key = [engine.key, lm.identity, dtype, lm.model.device.type, accelerated]
        borders = chunk_borders(ordered, chunk_requests)
        done = 0
        for records, stored in in_chunks(ordered, compute, key=key, content=content, folder=store, borders=borders):
            for request, record in zip(ordered[done:], records, strict=False):
                one = _option_scores(record)
                scores[one.id] = one
                tie, near = _undecided(request, one, NOISE_NATS.get(dtype, 0.0))
                cost += ScoringCost(requests=1, stored=int(stored), ties=int(tie), close=int(near))
            done += len(records)
            if report is not None:
                report(cost)
    log.info("score  %s", cost)
    return scores


@dataclass(frozen=True, eq=False, slots=True)
class _Engine:
    name: str
    """For people."""
    key: list[Any]
    """For the store: what the numbers depend on."""
    score: Callable[[Sequence[ScoreRequest]], tuple[Nats, Spent]]


def _accelerate(lm: "LanguageModel", stack: contextlib.ExitStack) -> bool:
    from openflan.scoring.gemm import onednn_is_faster, onednn_linear

    if lm.model.device.type != "cpu" or str(lm.dtype) != "torch.float32" or not onednn_is_faster():
        return False
    stack.enter_context(onednn_linear())
    return True


def _engine(
    lm: "LanguageModel",
    requests: Sequence[ScoreRequest],
    batch_tokens: int | None,
    kept_bytes: int | None,
    stack: contextlib.ExitStack,
) -> _Engine:
    """Trees where they are right for this model and these requests; `stack` puts the model back as it was."""
    from openflan.scoring import tree

    model, check, scorer = _set_up(lm, requests[0].prompt_ids + requests[0].option_ids[0][:-1])
    reason, longest = check.reason, max(map(_longest, requests))
    if check.window is not None and longest > check.window:
        reason = f"{lm.name}: its sliding window of {check.window} tokens is shorter than a text of {longest}"
    turned = turned_beyond(lm.model)
    if turned is not None and longest > turned:
        reason = f"{lm.name}: a text of more than {turned} tokens changes the positions of those beside it"
        batch_tokens = 1
    if scorer is None or reason is not None:
        return _padded_engine(lm, model, batch_tokens, str(reason))
    log.debug("%s: %s", lm.name, check)
    stack.enter_context(scorer.ready(lm.model))
    pass_tokens = batch_tokens or tree.PASS_TOKENS.get(lm.model.device.type, tree.PASS_TOKENS["cpu"])
    kept_tokens = (tree.KEPT_BYTES if kept_bytes is None else kept_bytes) // check.token_bytes

    def as_trees(chunk: Sequence[ScoreRequest]) -> tuple[Nats, Spent]:
        return scorer.score(make_plan(chunk, pass_tokens=pass_tokens, kept_tokens=kept_tokens))

    return _Engine("trees", [tree.NAME, pass_tokens, kept_tokens, check.pruned], as_trees)


def _set_up(lm: "LanguageModel", probe_ids: tuple[int, ...]) -> "tuple[Readout, TreeCheck, TreeScorer | None]":
    """What was found out about a model the first time it was asked, on this device and in this precision."""
    from openflan.scoring import tree

    where = (lm.device, lm.dtype)
    found = _FOUND.get(lm)
    if found is None or found[0] != where:
        model = readout(lm.model, probe_ids)
        found = _FOUND[lm] = (where, model, *tree.set_up_tree(lm, model))
    return found[1:]


_FOUND: "weakref.WeakKeyDictionary[LanguageModel, tuple[Any, Readout, TreeCheck, TreeScorer | None]]" = (
    weakref.WeakKeyDictionary()
)


def _padded_engine(lm: "LanguageModel", model: Readout, batch_tokens: int | None, reason: str) -> _Engine:
    log.warning("%s is scored by padded texts, which takes several times as long: %s", lm.name, reason)
    size = batch_tokens or padded.BATCH_TOKENS
    return _Engine(f"padded texts ({reason})", [padded.NAME, size], lambda chunk: score_padded(model, chunk, size))


def _records(requests: Sequence[ScoreRequest], values: Nats) -> list[dict[str, Any]]:
    """What the store keeps: null stands for a value that is not finite."""
    plain: list[float | None] = values.tolist()
    if not np.isfinite(values).all():
        plain = [value if value is not None and math.isfinite(value) else None for value in plain]
    records: list[dict[str, Any]] = []
    place = 0
    for request in requests:
        logprobs: list[list[float | None]] = []
        for option in request.option_ids:
            logprobs.append(plain[place : place + len(option)])
            place += len(option)
        records.append({"id": request.id, "logprobs": logprobs})
    return records


def _option_scores(record: dict[str, Any]) -> OptionScores:
    options: list[list[float | None]] = record["logprobs"]
    return OptionScores(
        record["id"], tuple(tuple(math.nan if value is None else value for value in tokens) for tokens in options)
    )


def _undecided(request: ScoreRequest, scores: OptionScores, noise: float) -> tuple[bool, bool]:
    """Whether the two likeliest of the distinct options are exactly as likely, or else closer than the noise."""
    best = sorted(dict(zip(request.option_ids, scores.sums, strict=True)).values())[-2:]
    margin = best[1] - best[0] if len(best) == 2 else math.inf
    return margin == 0, 0 < margin < noise
