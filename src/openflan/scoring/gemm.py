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

WORTH = 1.3
"""How much faster oneDNN must be: far from what timing noise does, and from what changes nothing (1.0)."""
SHAPE = (512, 384, 1024)
ROUNDS = 5


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
            default = _seconds(lambda: functional.linear(source, weight))
            with onednn_linear():
                onednn = _seconds(lambda: functional.linear(source, weight))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False  # the operation is torch's own business: a build or release may lack it
    return default > WORTH * onednn


def _seconds(product: Callable[[], Any]) -> float:
    """The shortest of some runs: what the machine does between them only adds."""
    product()
    times: list[float] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        product()
        times.append(time.perf_counter() - started)
    return min(times)
