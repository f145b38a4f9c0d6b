"""One forward pass over token ids, with the head applied only where a token is scored.

Takes a loaded model, gives a `Readout`. Read next: `rank.py`.
"""

import inspect
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.int64]

POSITIONS = 512
"""The head is applied at so many positions at a time, where there are as many: its matrix is read, and laid out anew
for the product, once for all of them."""
PIECE_VALUES = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Logits that exist at one time; on a CPU they are read again while still in a cache."""
FEWEST_POSITIONS = 64
"""The same where the head gives all logits of a position or none."""
SUMMED_VALUES = 1 << 18
"""The log-sum-exp makes a copy of its argument, which is to stay in a cache as well."""
PROBED = 8
"""Tokens on which body and head are tried."""
CHANGES = ("_forward_hooks", "_forward_pre_hooks", "forward")
"""What makes a module do something else than its class, where it has any of these."""
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window_size", "local_attention")
"""What configurations call the number of tokens that a layer looks back."""
TURNED_BY_LENGTH = ("longrope", "dynamic")
"""Kinds of rotary positions that depend on the longest text of a batch."""
log = logging.getLogger(__name__)

# B = sequences in the batch, T = tokens of the longest, H = hidden size, M = scored positions, K = tokens asked for,
# V = vocabulary.


@dataclass(frozen=True, slots=True)
class Readout:
    """The two halves of a causal language model."""

    body: "Callable[[Tensor, Tensor], Tensor]"
    """(ids [B, T], attention mask [B, T]) -> [B, T, H]"""
    head: "Callable[[Tensor], Iterator[Tensor]]"
    """[M, H] -> logits in float32, piece by piece of the vocabulary: [M, V1], [M, V2], ..."""
    positions: int
    """M is not to be larger."""
    device: Any
    module: Any
    """What `body` calls."""
    whole: bool = False
    """The module is the whole model: the body gives logits, the head nothing new."""


def window_of(model: Any) -> int | None:
    """The fewest tokens that some layer looks back, as far as the configuration tells; None where all see all."""
    config = _text_config(model)
    if set(getattr(config, "layer_types", None) or ("unknown",)) == {"full_attention"}:
        return None
    windows = [getattr(config, name, None) for name in WINDOWS]
    return min((window for window in windows if isinstance(window, int) and window > 0), default=None)


def turned_beyond(model: Any) -> int | None:
    """The number of tokens beyond which a text changes the positions of those it is batched with; None for never."""
    config = _text_config(model)
    given: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    kinds: list[dict[str, Any]] = [given, *(one for one in given.values() if isinstance(one, dict))]
    borders = [
        one.get("original_max_position_embeddings") or config.max_position_embeddings
        for one in kinds
        if one.get("rope_type") in TURNED_BY_LENGTH
    ]
    return min(borders, default=None)


def _text_config(model: Any) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


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


class HeadReader:
    """Reads log-probabilities off hidden states that come in small groups, such as those of one pass.

    The head is applied when enough have come: at few positions its product takes half as long again for each.
    """

    def __init__(self, model: Readout, values: "npt.NDArray[np.float32]") -> None:
        """`values` [all K] is filled in."""
        self.positions = 0
        """The head was, or is still to be, applied at so many."""
        self._model, self._values = model, values
        self._hidden: list[Tensor] = []
        self._asked: list[tuple[Array, Array, Array]] = []
        self._waiting = 0

    def add(self, hidden: "Tensor", rows: Array, tokens: Array, places: Array) -> None:
        """At each of `rows` [K] of `hidden` [M, H], in order, one of `tokens` [K] is asked for: for `places` [K]."""
        if self._waiting + len(hidden) > self._model.positions:
            self.read()
        self._hidden.append(hidden)
        self._asked.append((rows + self._waiting, tokens, places))
        self._waiting += len(hidden)
        self.positions += len(hidden)

    def read(self) -> None:
        """Fills in what has come so far."""
        import torch

        if not self._hidden:
            return
        rows, tokens, places = (np.concatenate(parts) for parts in zip(*self._asked, strict=True))
        self._values[places] = token_nats(self._model, torch.cat(self._hidden), rows, tokens)
        self._hidden, self._asked, self._waiting = [], [], 0


def token_nats(model: Readout, hidden: "Tensor", rows: Array, tokens: Array) -> "npt.NDArray[np.float32]":
    """[K] the log-probability of each of `tokens` [K] at each of `rows` [K] of `hidden` [M, H]; rows are in order.

    The head runs once for each of M, however many tokens are asked for there; the log-softmax is float32.
    """
    import torch

    found = np.empty(len(rows), np.float32)
    for start in range(0, len(hidden), model.positions):
        part = hidden[start : start + model.positions]
        some = slice(*np.searchsorted(rows, (start, start + len(part))))
        at, asked = (torch.from_numpy(array[some]).to(part.device) for array in (rows - start, tokens))
        sums: list[Tensor] = []
        nats = torch.empty(len(at), dtype=torch.float32, device=part.device)
        first = 0
        for logits in model.head(part):
            sums.append(_log_sum_exp(logits))
            here = ((asked >= first) & (asked < first + logits.shape[1])).nonzero().squeeze(1)
            nats[here] = logits[at[here], asked[here] - first]
            first += logits.shape[1]
        found[some] = (nats - torch.stack(sums).logsumexp(0)[at]).cpu().numpy()
    return found


def _log_sum_exp(logits: "Tensor") -> "Tensor":
    """[M] of logits [M, V].

    By the log-softmax of the largest, which takes half the time of torch's `logsumexp` on a CPU.
    """
    import torch

    rows = max(SUMMED_VALUES // logits.shape[1], 1)
    found = torch.cat([part.amax(-1) - part.log_softmax(-1).amax(-1) for part in logits.split(rows)])
    # A piece of nothing but -inf, say, has no log-softmax.
    return found if bool(found.isfinite().all()) else logits.logsumexp(-1)


def readout(model: Any, probe_ids: tuple[int, ...]) -> Readout:
    """The model's body and head, proven on `probe_ids` to make the model's own logits.

    Some architectures do more after the head (scale, softcap) and wrappers do more before the body (soft prompts).
    Where the halves do not add up, the whole model is the body and the head passes on what it gets: slower, but right.
    """
    import torch

    device = next(model.parameters()).device
    whole = Readout(whole_logits(model), lambda logits: _pieces(logits, device), FEWEST_POSITIONS, device, model, True)
    halves = _halves(model, device)
    if halves is None:
        log.warning("%s: body and head not told apart; scoring with full logits", type(model).__name__)
        return whole
    ids = torch.tensor([probe_ids[:PROBED]], device=device)
    mask = torch.ones_like(ids)
    logits = whole.body(ids, mask)[0]
    expected, got = logits.float(), torch.cat([*halves.head(halves.body(ids, mask)[0])], -1)
    # Nearly the same operations on the same numbers: a softcap far from its bound moves logits by little more than
    # rounding.
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

    if _is_plain(head):
        return Readout(states, lambda hidden: _products(head, hidden), POSITIONS, device, body)
    return Readout(states, lambda hidden: _pieces(head(hidden), device), FEWEST_POSITIONS, device, body)


def _is_plain(head: Any) -> bool:
    """Whether a linear layer is its matrix and bias and nothing more."""
    from torch import nn

    return type(head) is nn.Linear and not any(vars(head).get(name) for name in CHANGES)


def _products(head: Any, hidden: "Tensor") -> "Iterator[Tensor]":
    """The head of `hidden` [M, H], so many entries of the vocabulary at a time that the logits stay in a cache."""
    from torch.nn import functional

    columns = max(PIECE_VALUES[hidden.device.type] // len(hidden) // 64, 1) * 64
    for start in range(0, len(head.weight), columns):
        bias = None if head.bias is None else head.bias[start : start + columns]
        yield functional.linear(hidden, head.weight[start : start + columns], bias).float()


def _pieces(logits: "Tensor", device: Any) -> "Iterator[Tensor]":
    """Logits [M, V] in pieces of the same size."""
    for piece in logits.split(max(PIECE_VALUES[device.type] // len(logits), 1), -1):
        yield piece.float()


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
    wanted: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if not bool(mask[:, 0].all()):  # padding on the right leaves the model's own, which not all models count from 0
        wanted["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return {name: value for name, value in wanted.items() if name in accepted}
