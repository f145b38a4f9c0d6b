"""One forward pass over token ids, with the head applied only where a token is scored.

Takes a loaded model, gives a `Readout`. Read next: `rank.py`.
"""

import inspect
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

HEAD_POSITIONS = 512
"""Positions whose logits exist at one time: with 150k words these take 300 MB."""
log = logging.getLogger(__name__)

# B = sequences in the batch, T = tokens of the longest, H = hidden size, M = scored positions, V = vocabulary.


@dataclass(frozen=True, slots=True)
class Readout:
    """The two halves of a causal language model."""

    body: "Callable[[Tensor, Tensor], Tensor]"
    """(ids [B, T], attention mask [B, T]) -> [B, T, H]"""
    head: "Callable[[Tensor], Tensor]"
    """[M, H] -> logits [M, V] in float32"""
    device: Any


@contextmanager
def inference(model: Any) -> Generator[None]:
    """No gradients, no dropout; the model's mode is as before afterwards."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def readout(model: Any, probe_ids: tuple[int, ...]) -> Readout:
    """The model's body and head, proven on `probe_ids` to make the model's own logits.

    Some architectures do more after the head (scale, softcap) and wrappers do more before the body (soft prompts).
    Where the halves do not add up, the whole model is the body and the head passes on what it gets: slower, but right.
    """
    import torch

    device = next(model.parameters()).device
    whole = Readout(_whole(model), lambda logits: logits.float(), device)
    halves = _halves(model, device)
    if halves is None:
        log.warning("%s: body and head not told apart; scoring with full logits", type(model).__name__)
        return whole
    ids = torch.tensor([probe_ids[:32]], device=device)
    mask = torch.ones_like(ids)
    logits = whole.body(ids, mask)[0]
    expected, got = logits.float(), halves.head(halves.body(ids, mask)[0])
    # The same operations on the same numbers: a softcap far from its bound moves logits by little more than rounding.
    tolerance = 16 * torch.finfo(logits.dtype).eps * expected.abs().max()
    if expected.shape != got.shape or (expected - got).abs().max() > tolerance:
        log.warning("%s: body and head alone give other logits; scoring with full logits", type(model).__name__)
        return whole
    return halves


def _halves(model: Any, device: Any) -> Readout | None:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    body, head = getattr(inner, "base_model", inner), inner.get_output_embeddings()
    if body is inner or head is None:
        return None
    accepted = accepted_arguments(body)

    def states(ids: "Tensor", mask: "Tensor") -> "Tensor":
        return body(**_inputs(accepted, ids, mask)).last_hidden_state

    return Readout(states, lambda hidden: head(hidden).float(), device)


def _whole(model: Any) -> "Callable[[Tensor, Tensor], Tensor]":
    accepted = accepted_arguments(model)

    def logits(ids: "Tensor", mask: "Tensor") -> "Tensor":
        # A soft prompt's own positions come first and are no part of the text.
        return model(**_inputs(accepted, ids, mask)).logits[:, -ids.shape[1] :]

    return logits


def accepted_arguments(module: Any) -> frozenset[str]:
    """The names a module's forward pass takes: position ids, say, are not known to all."""
    return frozenset(inspect.signature(module.forward).parameters)


def _inputs(accepted: frozenset[str], ids: "Tensor", mask: "Tensor") -> dict[str, Any]:
    # Position ids that start anew are read as packing where no mask is given, so both always go in together.
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    wanted = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
    return {name: value for name, value in wanted.items() if name in accepted}
