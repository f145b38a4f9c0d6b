"""What the benchmarks share: CPU seconds, GFLOP/s of the machine, peak memory, and sections of docs/performance.md."""

import datetime
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from openflan.artifacts import write_text
from openflan.scoring import gemm

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"


def pin(core: int) -> None:
    """This process on one core, with one thread."""
    os.sched_setaffinity(0, {core})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)


def cpu_seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    found = run()
    return found, time.process_time() - started


def rate(run: Callable[[], Any], operations: float) -> float:
    """Operations a second, the median of five."""
    run()
    return operations / statistics.median(cpu_seconds(run)[1] for _ in range(5))


@dataclass(frozen=True)
class Machine:
    """GFLOP/s in float32 on this core."""

    default: float
    onednn: float
    attention: float

    @staticmethod
    def measured() -> "Machine":
        a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
        q = torch.randn(1, 6, 512, 64)
        with torch.inference_mode():
            default = rate(lambda: functional.linear(a, b), 2 * 1024**3)
            with gemm.onednn_linear():
                onednn = rate(lambda: functional.linear(a, b), 2 * 1024**3)
            attention = rate(lambda: functional.scaled_dot_product_attention(q, q, q), 4 * 6 * 64 * 512**2)
        return Machine(default / 1e9, onednn / 1e9, attention / 1e9)


def mebibytes(what: str) -> float:
    """Resident memory of this process: "VmRSS" now, "VmHWM" at its peak."""
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) / 1024


def forget_peak() -> None:
    """The peak of resident memory is counted anew from here."""
    Path("/proc/self/clear_refs").write_text("5")


def conditions(packages: Sequence[str]) -> str:
    """Date, processor, versions and allocator, as a table's last line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    processor = next(named, platform.processor())
    vector = torch.backends.cpu.get_cpu_capability()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    allocator = {key: value for key, value in os.environ.items() if key.startswith("MALLOC_") or key == "LD_PRELOAD"}
    return (
        f"{datetime.date.today().isoformat()}; one core of {processor} ({vector}), float32; {versions}, "
        f"Python {platform.python_version()}; memory allocator settings: {allocator or 'none (glibc as it comes)'}."
    )


def write_section(key: str, text: str) -> None:
    """Put `text` between the marks of that name in docs/performance.md."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN.format(key), 1)
    after = rest.split(END.format(key), 1)[1]
    write_text(PAGE, f"{before}{BEGIN.format(key)}\n{text}\n{END.format(key)}{after}")
