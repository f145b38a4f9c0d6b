"""One forward pass over token ids, with the head applied only where a token is scored.

Takes a loaded model, gives a `Readout`. Read next: `rank.py`.
"""

import inspect
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.int64]

HEAD_VALUES = 1 << 22
"""Logits that exist at one time: 16 MB in float32, so that they are read again while still in a cache."""
FEWEST_POSITIONS, MOST_POSITIONS = 64, 512
SUMMED_POSITIONS = 16
"""The log-sum-exp makes a copy of its argument, which is to stay in a cache as well."""
PROBED = 8
"""Tokens on which body and head are tried."""
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
    module: Any
    """What `body` calls."""
    whole: bool = False
    """The module is the whole model: the body gives logits, the head nothing new."""


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


def token_nats(model: Readout, hidden: "Tensor", rows: Array, tokens: Array) -> "npt.NDArray[np.float32]":
    """[K] the log-probability of each of `tokens` [K] at each of `rows` [K] of `hidden` [M, H]; rows are in order.

    The head runs once for each of M, however many tokens are asked for there; the log-softmax is float32.
    """
    import torch

    found = np.empty(len(rows), np.float32)
    start, step = 0, FEWEST_POSITIONS if hidden.device.type == "cpu" else MOST_POSITIONS
    while start < len(hidden):
        logits = model.head(hidden[start : start + step])  # [at most step, V]
        total = torch.cat([part.logsumexp(-1) for part in logits.split(SUMMED_POSITIONS)])
        some = slice(*np.searchsorted(rows, (start, start + len(logits))))
        at = torch.from_numpy(rows[some] - start).to(logits.device)
        nats = logits[at, torch.from_numpy(tokens[some]).to(logits.device)] - total[at]
        found[some] = nats.cpu().numpy()
        start += len(logits)
        step = min(max(HEAD_VALUES // logits.shape[1], FEWEST_POSITIONS), MOST_POSITIONS)
    return found


def readout(model: Any, probe_ids: tuple[int, ...]) -> Readout:
    """The model's body and head, proven on `probe_ids` to make the model's own logits.

    Some architectures do more after the head (scale, softcap) and wrappers do more before the body (soft prompts).
    Where the halves do not add up, the whole model is the body and the head passes on what it gets: slower, but right.
    """
    import torch

    device = next(model.parameters()).device
    whole = Readout(whole_logits(model), lambda logits: logits.float(), device, model, whole=True)
    halves = _halves(model, device)
    if halves is None:
        log.warning("%s: body and head not told apart; scoring with full logits", type(model).__name__)
        return whole
    ids = torch.tensor([probe_ids[:PROBED]], device=device)
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

    return Readout(states, lambda hidden: head(hidden).float(), device, body)


def whole_logits(model: Any) -> "Callable[[Tensor, Tensor], Tensor]":
    """The model as (ids [B, T], attention mask [B, T]) -> logits [B, T, V]."""
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
