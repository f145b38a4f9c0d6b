"""Accelerators as data, and this machine's processor as measured.

Takes `8xH200` or `cpu`, gives `Hardware` and how many. Imports torch only to measure.
"""

import dataclasses
import os
import re
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from openflan.errors import ConfigError, Problem, nearest

HARDWARE = Path(__file__).with_name("hardware.toml")
Precision = Literal["float32", "bfloat16"]
CPU = "cpu"
ROUNDS, ROUND_TOKENS = 5, 256
"""Rounds of timing at least, each short enough that other work on the machine leaves some of them alone."""
_GPUS = re.compile(r"(?:(\d+)\s*[x*×]\s*)?(\S+)", re.IGNORECASE)


class Range(NamedTuple):
    """A number that is not known well."""

    low: float
    expected: float
    high: float

    def times(self, factor: float) -> "Range":
        return Range(self.low * factor, self.expected * factor, self.high * factor)

    def plus(self, other: "Range") -> "Range":
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One kind of device; `hardware.toml` says what each number is."""

    name: str
    title: str
    source: str
    bfloat16: float
    float32: float
    memory_gib: float
    bandwidth: float
    link: float
    network: float
    per_node: int
    watts: float
    share: Range
    share_source: str

    def peak(self, precision: Precision) -> float:
        """FLOP/s."""
        return self.bfloat16 if precision == "bfloat16" else self.float32


def known_hardware() -> dict[str, Hardware]:
    """All devices of `hardware.toml`, by name."""
    table = tomllib.loads(HARDWARE.read_text(encoding="utf-8"))
    return {name: Hardware(name=name, **(entry | {"share": Range(*entry["share"])})) for name, entry in table.items()}


def parse_gpus(text: str) -> tuple[int, Hardware]:
    """How many of which device: "8xH200", "A100-80", "cpu". Raises ConfigError naming the nearest names."""
    known = {name.lower(): hardware for name, hardware in known_hardware().items()}
    match = _GPUS.fullmatch(text.strip())
    name = match[2].lower() if match else text
    if match is None or name not in known:
        raise ConfigError(Problem("--gpus", f"{text!r}: no such hardware", nearest(name, known)))
    number = int(match[1] or 1)
    if number < 1 or (name == CPU and number != 1):
        raise ConfigError(Problem("--gpus", f"{text!r}: expected one or more devices, and of cpu one"))
    return number, known[name]


def measured_cpu(hardware: Hardware, tokens: int, inputs: int, outputs: int, *, seconds: float = 1.0) -> Hardware:
    """This machine's processor: the FLOP/s of a linear layer's three products, and its memory.

    The layer reads [tokens, inputs] and gives [tokens, outputs]; its output and the gradients of its input and weight
    are computed with torch's threads, each precision for about half of `seconds`, and the fastest round counts.
    """
    import torch

    tokens = min(tokens, ROUND_TOKENS)

    def rate(dtype: torch.dtype) -> float:
        x, w = torch.ones(tokens, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype)
        gradient = torch.ones(tokens, outputs, dtype=dtype)
        best, until, rounds = float("inf"), time.perf_counter() + seconds / 2, 0
        while rounds < ROUNDS or time.perf_counter() < until:
            rounds += 1
            started = time.perf_counter()
            torch.nn.functional.linear(x, w)
            torch.mm(gradient, w)
            torch.mm(gradient.T, x)
            best = min(best, time.perf_counter() - started)
        return 6 * tokens * inputs * outputs / best

    return dataclasses.replace(
        hardware,
        title=f"this machine's processor, {torch.get_num_threads()} threads",
        float32=rate(torch.float32),
        bfloat16=rate(torch.bfloat16),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
    )
