"""Rank classification: the log-probability of every token of every option.

Takes `ScoreRequest`s (one prompt, its options, in ids), gives `OptionScores` in nats. An option's score is the sum over
its tokens (FLAN's rule, after the T5 library's rank classification); per-token values come back so that any other
normalisation can be made of them. Read next: `forward.py`, then `evaluation/metrics.py`.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from openflan.errors import ModelError, Problem
from openflan.scoring.forward import HEAD_POSITIONS, Readout, inference, readout
from openflan.scoring.store import CHUNK_ITEMS, in_chunks

if TYPE_CHECKING:
    from openflan.encoding.encode import EncodedOptions
    from openflan.models.load import LanguageModel

BATCH_TOKENS = 8192
ENGINE = "padded-1"
"""Part of the store's key: changes whenever the numbers may."""

Ids = tuple[int, ...]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One prompt and the options to score after it. Every id sequence has at least one token."""

    id: str
    prompt_ids: Ids
    option_ids: tuple[Ids, ...]


@dataclass(frozen=True, slots=True)
class OptionScores:
    """Log-probability in nats of each token of each option, in the request's order."""

    id: str
    logprobs: tuple[tuple[float, ...], ...]

    @property
    def sums(self) -> tuple[float, ...]:
        """The log-probability of each option."""
        return tuple(math.fsum(tokens) for tokens in self.logprobs)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The number of tokens of each option."""
        return tuple(map(len, self.logprobs))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringCost:
    """What scoring took, against a scorer that feeds prompt and option again for each option."""

    requests: int = 0
    """Answered so far, from the store or computed."""
    stored: int = 0
    """Of these, read from the store; nothing below counts them."""
    options: int = 0
    tokens: int = 0
    """Fed to the model, padding left out."""
    padding: int = 0
    positions: int = 0
    """Where the head was applied."""
    row_per_option_tokens: int = 0

    def __add__(self, other: "ScoringCost") -> "ScoringCost":
        return ScoringCost(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})

    def __str__(self) -> str:
        saved = f" ({self.row_per_option_tokens / self.tokens:.1f}x fewer)" if self.tokens else ""
        return (
            f"{self.requests:,} requests ({self.stored:,} from the store), {self.options:,} options scored: "
            f"{self.tokens:,} tokens computed, {self.row_per_option_tokens:,} with one row per option{saved}"
        )


def requests_of(encoded: "Iterable[EncodedOptions]") -> list[ScoreRequest]:
    """One request for each encoded example, named "task row_id template"."""
    return [ScoreRequest(f"{e.task} {e.row_id} {e.template}", e.prompt_ids, e.option_ids) for e in encoded]


def score(
    lm: "LanguageModel",
    requests: Sequence[ScoreRequest],
    *,
    store: Path | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_requests: int = CHUNK_ITEMS,
    report: Callable[[ScoringCost], None] | None = None,
) -> list[OptionScores]:
    """The scores of each request, in the order given; logits are float32 before the log-softmax.

    Requests are taken in the order of their tokens, so that texts with a common beginning meet in one chunk, and every
    chunk is computed on its own: a `store` left by a killed run changes nothing but the time. `report` gets the running
    cost after each chunk.

    Raises ModelError for ids used twice, for an empty prompt or option, for text beyond the model's context, and where
    the model gives a value that is not finite.
    """
    if lm.prefix_ids:
        requests = [ScoreRequest(r.id, lm.prefix_ids + r.prompt_ids, r.option_ids) for r in requests]
    _check(requests, lm.context)
    if not requests:
        return []
    order = sorted(range(len(requests)), key=lambda i: (requests[i].prompt_ids, requests[i].option_ids, requests[i].id))
    ordered = [requests[i] for i in order]
    cost = ScoringCost()
    scores: dict[str, OptionScores] = {}
    with inference(lm.model):
        model = readout(lm.model, ordered[0].prompt_ids + ordered[0].option_ids[0][:-1])

        def compute(chunk: Sequence[ScoreRequest]) -> list[dict[str, Any]]:
            nonlocal cost
            found, spent = _score_chunk(model, chunk, batch_tokens)
            cost += spent
            return [{"id": one.id, "logprobs": one.logprobs} for one in found]

        def content(request: ScoreRequest) -> list[Any]:
            return [request.id, request.prompt_ids, request.option_ids]

        key = [ENGINE, lm.identity, str(next(lm.model.parameters()).dtype), batch_tokens]
        chunks = in_chunks(ordered, compute, key=key, content=content, folder=store, chunk_items=chunk_requests)
        for records, stored in chunks:
            for record in records:
                scores[record["id"]] = OptionScores(record["id"], tuple(map(tuple, record["logprobs"])))
            cost += ScoringCost(requests=len(records), stored=len(records) if stored else 0)
            if report is not None:
                report(cost)
    log.info("score  %s", cost)
    return [scores[request.id] for request in requests]


def _check(requests: Sequence[ScoreRequest], context: int | None) -> None:
    problems: list[Problem] = []
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            problems.append(Problem(request.id, "id used by two requests"))
        seen.add(request.id)
        if not request.prompt_ids or not request.option_ids or not all(request.option_ids):
            problems.append(Problem(request.id, "the prompt and every option need at least one token"))
        elif context is not None:
            length = len(request.prompt_ids) + max(map(len, request.option_ids)) - 1
            if length > context:
                problems.append(Problem(request.id, f"{length} tokens, the model reads {context}"))
    if problems:
        raise ModelError(problems)


@dataclass(slots=True)
class _Sequence:
    """A text to feed, and what is read off it: at position p, the log-probability of token t goes to place s."""

    ids: Ids
    wanted: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])


def _plan(requests: Sequence[ScoreRequest]) -> list[_Sequence]:
    """The texts to feed, longest first; places count every option token of every request in order.

    An option's last token is only predicted, never fed. A text that begins another is read off that other one, so
    single-token options cost nothing beyond their prompt.
    """
    texts = sorted({r.prompt_ids + option[:-1] for r in requests for option in r.option_ids}, reverse=True)
    hosts: dict[Ids, _Sequence] = {}
    host = _Sequence(())
    for text in texts:  # from the last, so that a text follows the longest one it begins
        if host.ids[: len(text)] != text:
            host = _Sequence(text)
        hosts[text] = host
    place = 0
    for request in requests:
        start = len(request.prompt_ids) - 1
        for option in request.option_ids:
            wanted = hosts[request.prompt_ids + option[:-1]].wanted
            wanted.extend((start + k, token, place + k) for k, token in enumerate(option))
            place += len(option)
    distinct = {id(sequence): sequence for sequence in hosts.values()}.values()
    return sorted(distinct, key=lambda sequence: (-len(sequence.ids), sequence.ids))


def _batches(sequences: Sequence[_Sequence], batch_tokens: int) -> Iterable[Sequence[_Sequence]]:
    start = 0
    while start < len(sequences):
        size = max(1, batch_tokens // len(sequences[start].ids))
        yield sequences[start : start + size]
        start += size


def _score_chunk(
    model: Readout, requests: Sequence[ScoreRequest], batch_tokens: int
) -> tuple[list[OptionScores], ScoringCost]:
    sequences = _plan(requests)
    values = np.full(sum(len(option) for r in requests for option in r.option_ids), np.nan, np.float32)
    padding = positions = 0
    for batch in _batches(sequences, batch_tokens):
        padding += sum(len(batch[0].ids) - len(sequence.ids) for sequence in batch)
        positions += _score_batch(model, batch, values)
    scores = _unflatten(requests, values)
    cost = ScoringCost(
        options=sum(len(r.option_ids) for r in requests),
        tokens=sum(len(sequence.ids) for sequence in sequences),
        padding=padding,
        positions=positions,
        row_per_option_tokens=sum(len(r.prompt_ids) + len(o) - 1 for r in requests for o in r.option_ids),
    )
    return scores, cost


def _score_batch(model: Readout, batch: Sequence[_Sequence], values: npt.NDArray[np.float32]) -> int:
    """Fills in the places this batch is read for; gives the number of positions the head was applied at."""
    import torch

    longest = len(batch[0].ids)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        mask[row, : len(sequence.ids)] = 1
    hidden = model.body(ids.to(model.device), mask.to(model.device)).flatten(0, 1)

    wanted = np.array(
        [(row * longest + position, token, place) for row, s in enumerate(batch) for position, token, place in s.wanted]
    )
    wanted = wanted[np.argsort(wanted[:, 0], kind="stable")]
    scored, which = np.unique(wanted[:, 0], return_inverse=True)
    for start in range(0, len(scored), HEAD_POSITIONS):
        at = torch.as_tensor(scored[start : start + HEAD_POSITIONS], device=hidden.device)
        logits = model.head(hidden[at])  # [M, V]
        some = slice(*np.searchsorted(which, [start, start + HEAD_POSITIONS]))
        rows = torch.as_tensor(which[some] - start, device=hidden.device)
        tokens = torch.as_tensor(wanted[some, 1], device=hidden.device)
        nats = logits[rows, tokens] - logits.logsumexp(-1)[rows]
        values[wanted[some, 2]] = nats.cpu().numpy()
    return len(scored)


def _unflatten(requests: Sequence[ScoreRequest], values: npt.NDArray[np.float32]) -> list[OptionScores]:
    scores: list[OptionScores] = []
    problems: list[Problem] = []
    place = 0
    for request in requests:
        logprobs: list[tuple[float, ...]] = []
        for option in request.option_ids:
            logprobs.append(tuple(values[place : place + len(option)].tolist()))
            place += len(option)
        if not all(math.isfinite(value) for tokens in logprobs for value in tokens):
            problems.append(Problem(request.id, "the model gave a log-probability that is not finite"))
        scores.append(OptionScores(request.id, tuple(logprobs)))
    if problems:
        raise ModelError(problems)
    return scores
