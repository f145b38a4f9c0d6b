"""Scoring by padded batches of whole texts: slower than trees, and right for every causal language model.

Takes `ScoreRequest`s, gives the log-probability of each option token. Read next: `tree.py`, which is preferred.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from openflan.scoring.forward import HeadReader, Readout

if TYPE_CHECKING:
    from openflan.scoring.rank import ScoreRequest

BATCH_TOKENS = 8192
NAME = "padded-3"
"""Part of the store's key: changes whenever the numbers may."""

Ids = tuple[int, ...]
Nats = npt.NDArray[np.float32]


@dataclass(slots=True)
class TextRead:
    """A text to feed, and what is read off it: at position p, the log-probability of token t goes to place s."""

    ids: Ids
    wanted: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])


@dataclass(frozen=True, slots=True)
class Spent:
    """What scoring some requests took, in tokens fed, padding fed and positions the head was applied at."""

    tokens: int
    padding: int
    positions: int


def score_padded(model: Readout, requests: "Sequence[ScoreRequest]", batch_tokens: int) -> tuple[Nats, Spent]:
    """[K] nats of all option tokens of all requests in order."""
    texts = texts_to_read(requests)
    values = np.full(sum(len(option) for r in requests for option in r.option_ids), np.nan, np.float32)
    reader = HeadReader(model, values)
    padding = 0
    for batch in _batches(texts, batch_tokens):
        padding += sum(len(batch[0].ids) - len(text.ids) for text in batch)
        _read_batch(model, batch, reader)
    reader.read()
    return values, Spent(sum(len(text.ids) for text in texts), padding, reader.positions)


def texts_to_read(requests: "Sequence[ScoreRequest]") -> list[TextRead]:
    """The texts to feed, longest first; places count every option token of every request in order.

    An option's last token is only predicted, never fed. A text that begins another is read off that other one, so
    single-token options cost nothing beyond their prompt.
    """
    texts = sorted({r.prompt_ids + option[:-1] for r in requests for option in r.option_ids}, reverse=True)
    hosts: dict[Ids, TextRead] = {}
    host = TextRead(())
    for text in texts:  # from the last, so that a text follows the longest one it begins
        if host.ids[: len(text)] != text:
            host = TextRead(text)
        hosts[text] = host
    place = 0
    for request in requests:
        start = len(request.prompt_ids) - 1
        for option in request.option_ids:
            wanted = hosts[request.prompt_ids + option[:-1]].wanted
            wanted.extend((start + k, token, place + k) for k, token in enumerate(option))
            place += len(option)
    distinct = {id(text): text for text in hosts.values()}.values()
    return sorted(distinct, key=lambda text: (-len(text.ids), text.ids))


def _batches(texts: Sequence[TextRead], batch_tokens: int) -> Iterable[Sequence[TextRead]]:
    start = 0
    while start < len(texts):
        size = max(1, batch_tokens // len(texts[start].ids))
        yield texts[start : start + size]
        start += size


def _read_batch(model: Readout, batch: Sequence[TextRead], reader: HeadReader) -> None:
    """Hands the hidden states on that this batch is read for."""
    import torch

    longest = len(batch[0].ids)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, text in enumerate(batch):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        mask[row, : len(text.ids)] = 1
    hidden = model.body(ids.to(model.device), mask.to(model.device)).flatten(0, 1)
    wanted = np.array(
        [(row * longest + position, token, place) for row, s in enumerate(batch) for position, token, place in s.wanted]
    )
    wanted = wanted[np.argsort(wanted[:, 0], kind="stable")]
    scored, which = np.unique(wanted[:, 0], return_inverse=True)
    read = hidden[torch.from_numpy(scored).to(hidden.device)]
    reader.add(read, which, wanted[:, 1], wanted[:, 2])
