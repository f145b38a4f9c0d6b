"""Matrix products by oneDNN, where they are faster than torch's own.

Takes nothing, gives a context in which linear layers in float32 on a CPU run through oneDNN. On some processors (AMD's
with AVX-512) torch's default library runs at half the rate of oneDNN, which is in the same wheel. Sums are rounded
otherwise, so log-probabilities move by about 1e-4. Read next: `rank.py`.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

WORTH = 1.5
"""How much faster oneDNN must be. It is about 1.0 on most processors and 1.8 to 2.3 on AMD's with AVX-512, so that the
answer, which moves numbers, does not hang on timing noise."""
SHAPE = (512, 768, 768)
ROUNDS = 4


class _OneDnnLinear(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.linear and not kwargs and _is_plain(*args):
            source, weight, bias = (*args, None)[:3]
            return torch.ops.mkldnn._linear_pointwise(source, weight, bias, "none", [], "")
        return func(*args, **(kwargs or {}))


def _is_plain(source: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    return all(
        part is None or (part.dtype == torch.float32 and part.device.type == "cpu" and part.numel() > 0)
        for part in (source, weight, bias)
    )


@contextlib.contextmanager
def onednn_linear() -> Generator[None, None, None]:
    """Inside, linear layers in float32 on a CPU run through oneDNN; without gradients."""
    with _OneDnnLinear():
        yield


def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies at least `WORTH` times as fast as torch's own way; tried once in a process."""
    return _probe(torch.get_num_threads())


@functools.cache
def _probe(threads: int) -> bool:
    rows, inner, columns = SHAPE
    source, weight = torch.ones(rows, inner), torch.ones(columns, inner)
    try:
        with torch.inference_mode():
            times = [(_seconds(source, weight), _seconds_onednn(source, weight)) for _ in range(ROUNDS)]
    except (RuntimeError, AttributeError, NotImplementedError):
        return False  # the operation is torch's own business: a build or release may lack it
    # The first round warms up. CPU time, and the shortest: what else the machine does only adds.
    default, onednn = (min(column) for column in zip(*times[1:], strict=True))
    return default > WORTH * onednn


def _seconds(source: torch.Tensor, weight: torch.Tensor) -> float:
    started = time.process_time()
    functional.linear(source, weight)
    return time.process_time() - started


def _seconds_onednn(source: torch.Tensor, weight: torch.Tensor) -> float:
    with onednn_linear():
        return _seconds(source, weight)
