"""Which way a model takes many examples at once, found by trying on the model itself.

Takes a model, gives a `Packing`. Nothing is known by name: an architecture may use attention in ways its interface does
not tell (a recurrent layer, a bias on distances, positions it counts itself). Read next: `packed_forward.py`.

T = tokens of the batch tried, S = its segments (examples), H = hidden size, K = target tokens, V = vocabulary.
"""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from openflan.encoding.pack import PackedRow
from openflan.errors import ModelError
from openflan.models.load import context_length, weights_dtype
from openflan.models.packed_forward import PackedBatch, Way, attending, collate, target_logits

IN_ORDER: dict[str, tuple[Way, ...]] = {
    "cpu": ("ragged", "padded", "block_mask"),
    "cuda": ("ragged", "block_mask", "padded"),
}
"""The cheapest way first, by device. On a CPU products of like-long examples cost less than whole rows under a mask; on
CUDA few large forward passes are preferred, which has not been measured."""
TRIED_LENGTHS = (7, 12, 5)
"""Tokens of the examples whose gradients are compared."""
LAST = 12
"""Tokens of the example that stands at the far end of the longest row."""
FLOAT32, LOW_PRECISION = (1e-4, 1e-3), (5e-2, 0.5)
"""Relative differences allowed of logits and of gradients. In low precision two right ways of the same model differ
by a fifth in gradient where its attention is sharp; what tells there is that no gradient leaves an example."""

DONE = {
    "ragged": "examples share rows without padding",
    "block_mask": "examples share rows under a mask, which is slower",
    "padded": "examples are not packed: those of like length share a padded forward pass, which is slower",
    "alone": "examples are not packed: every one takes a forward pass of its own, which is slowest",
}


@dataclass(frozen=True, slots=True)
class Packing:
    """The way to go, and why not a cheaper one."""

    way: Way
    model: str
    """The architecture's name."""
    refused: Mapping[Way, str] = field(default_factory=dict[Way, str])
    """The reason against each cheaper way, in the order tried."""
    difference: float = 0.0
    """The largest relative difference to examples alone that was found the way taken, of logits or gradients."""

    def __str__(self) -> str:
        reasons = "".join(f"not {way}: {reason}; " for way, reason in self.refused.items())
        return f"{self.model}: {reasons}{DONE[self.way]}"


def packing_of(model: PreTrainedModel, longest: int = 0, ways: Sequence[Way] | None = None) -> Packing:
    """The cheapest way in which examples together get the logits and gradients they get alone.

    longest: tokens of the longest packed row to come. A window, a chunk or the precision of far positions may matter
    there only, so rows that long are tried too; 0 tries short ones alone. ways: those to try, in order, default what is
    cheapest on the model's device; where none is right it is "alone".

    Call it under the autocast that the model will compute under, where there is one. Costs a few forward and backward
    passes of at most 24 tokens and two forward passes of `longest`; no parameter gets a gradient, and the weights stay
    as they are.
    Raises ModelError where the model does not run even on one example.
    """
    name = type(model).__name__
    context = context_length(model.config)
    batch = collate(_rows_tried(model, tuple(min(length, context) for length in TRIED_LENGTHS)), model.device)
    far = collate(_far_row(model, longest), model.device) if longest > sum(TRIED_LENGTHS) else None
    most = _tolerances(model)
    refused: dict[Way, str] = {}
    with _evaluated(model):
        try:
            alone = _Found.of(model, batch, "alone")
            far_alone = None if far is None else _logits_of(model, far, "alone")
        except Exception as error:
            raise ModelError(f"{name} does not run on an example alone: {_said(error)}") from error
        for way in IN_ORDER.get(model.device.type, IN_ORDER["cuda"]) if ways is None else ways:
            try:
                reason, difference = _Found.of(model, batch, way).against(alone, batch, most)
                if reason is None and far is not None and far_alone is not None:
                    distant = _relative(_logits_of(model, far, way), far_alone)
                    reason, difference = _other("logits in long rows", distant, most[0]), max(difference, distant)
            except Exception as error:  # an architecture can fail in any way here, and each of them is an answer
                reason, difference = _said(error), 0.0
            if reason is None:
                return Packing(way, name, refused, difference)
            refused[way] = reason
    return Packing("alone", name, refused)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a model makes of the examples tried, one way."""

    logits: Tensor
    """[K, V]"""
    gradients: Tensor
    """[S, T, H]: of each example's loss with respect to each token's embedding"""

    @staticmethod
    def of(model: PreTrainedModel, batch: PackedBatch, way: Way) -> "_Found":
        with torch.enable_grad(), _nudged(model, batch) as nudges, attending(model, way):
            logits = target_logits(model, batch, way).float()
            losses = functional.cross_entropy(logits, batch.labels, reduction="none")
            of_target = batch.segments.owners[batch.target_positions]
            gradients = [
                torch.autograd.grad(losses[of_target == segment].sum(), nudges, retain_graph=True)[0]
                for segment in range(len(batch.segments.lengths))
            ]
        return _Found(logits.detach(), torch.stack(gradients).float())

    def against(self, alone: "_Found", batch: PackedBatch, most: tuple[float, float]) -> tuple[str | None, float]:
        """The reason why these are not what examples get alone, or None; and the largest relative difference."""
        segments = torch.arange(len(batch.segments.lengths), device=batch.segments.device)
        others = batch.segments.owners[None] != segments[:, None]
        leaked = float(self.gradients[others].abs().max())
        if leaked != 0.0:  # a value that is no number too
            return f"examples see each other (gradient {leaked:.1e} where none may be)", leaked
        logits, gradients = _relative(self.logits, alone.logits), _relative(self.gradients, alone.gradients)
        reason = _other("logits", logits, most[0]) or _other("gradients", gradients, most[1])
        return reason, max(logits, gradients)


def _logits_of(model: PreTrainedModel, batch: PackedBatch, way: Way) -> Tensor:
    with torch.no_grad():
        return target_logits(model, batch, way).float()


def _other(what: str, difference: float, most: float) -> str | None:
    # Written so that a difference that is no number is too large.
    return (
        None if difference <= most else f"examples get other {what} than alone (relative difference {difference:.1e})"
    )


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def _tolerances(model: PreTrainedModel) -> tuple[float, float]:
    exact = weights_dtype(model) == torch.float32 and not torch.is_autocast_enabled(model.device.type)
    return FLOAT32 if exact else LOW_PRECISION


@contextlib.contextmanager
def _evaluated(model: PreTrainedModel) -> Generator[None, None, None]:
    """No dropout inside the block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextlib.contextmanager
def _nudged(model: PreTrainedModel, batch: PackedBatch) -> Generator[list[Tensor], None, None]:
    """A list that gets a tensor [T, H] of zeros when the model embeds: what is added to each token's embedding.

    Its gradient is that of the embeddings, in whatever rows a way puts the tokens; the batch's ids are all different.
    """
    vocabulary = int(batch.input_ids.max()) + 1
    tokens = torch.zeros(vocabulary, dtype=torch.long, device=batch.input_ids.device)
    tokens[batch.input_ids[0]] = torch.arange(batch.input_ids.shape[1], device=tokens.device)
    nudges: list[Tensor] = []

    def nudge(_embedding: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
        if not nudges:
            shape = (batch.input_ids.shape[1], output.shape[-1])
            nudges.append(torch.zeros(shape, dtype=output.dtype, device=output.device, requires_grad=True))
        return output + nudges[0][tokens[given[0]]]

    hook = model.get_input_embeddings().register_forward_hook(nudge)
    try:
        yield nudges
    finally:
        hook.remove()


def _rows_tried(model: PreTrainedModel, lengths: tuple[int, ...]) -> list[PackedRow]:
    """One row of random examples, no token twice; all but each example's first token are targets."""
    size, words = sum(lengths), int(cast(Any, model.config).get_text_config().vocab_size)
    if words < size:
        raise ModelError(f"{type(model).__name__} has a vocabulary of {words}: at least {size} are needed to try it")
    ids = np.random.default_rng(0).permutation(words)[:size].astype(np.int32)
    starts = np.cumsum((0, *lengths[:-1]))
    targets = np.concatenate([np.arange(at, at + n - 1) for at, n in zip(starts, lengths, strict=True)])
    return [_row(ids, lengths, targets)]


def _far_row(model: PreTrainedModel, longest: int) -> list[PackedRow]:
    """One row of a long random example and a short one; the last tokens of both are targets."""
    words = int(cast(Any, model.config).get_text_config().vocab_size)
    ids = np.random.default_rng(1).integers(0, words, longest).astype(np.int32)
    long = longest - LAST
    targets = np.concatenate([np.arange(long - LAST, long - 1), np.arange(long, longest - 1)])
    return [_row(ids, (long, LAST), targets)]


def _row(ids: np.ndarray[Any, Any], lengths: tuple[int, ...], targets: np.ndarray[Any, Any]) -> PackedRow:
    places = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    names = tuple(f"tried {n}" for n in range(len(lengths)))
    return PackedRow(ids, places, np.array(lengths, np.int32), targets.astype(np.int32), ids[targets + 1], names)


def _said(error: Exception) -> str:
    return f"it does not run so: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"
