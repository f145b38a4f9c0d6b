"""What the GPU benchmarks share: shapes, random models, what a device is, and the file a measurement leaves.

Each script starts one process for each engine, so that peak memory is that engine's own, and writes one JSON file;
`table.py` makes the table of docs/performance.md from those. `--tiny` runs all of it on a CPU within seconds: its
numbers mean nothing, and it writes them down as tiny.
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# Scripts import this module first (its name sorts before theirs), so that they find what lies one folder up.
sys.path.insert(0, str(Path(__file__).parents[1]))

from scoring_workload import Words, make_tokenizer

from openflan.models.load import LanguageModel
from openflan.studies.hardware import known_hardware

FOLDER = Path(__file__).parents[2] / "runs" / "gpu"
"""Where measurements are kept unless --out says otherwise."""
PACKAGES = ("openflan", "torch", "transformers", "trl", "lm-eval", "flash-attn")
CONTEXT = 4096
SEED = 0


@dataclass(frozen=True)
class Shape:
    """A Llama of random weights, of the shape of a known model."""

    like: str
    config: dict[str, int]
    tied: bool = True


SHAPES = {
    "0.5B": Shape(
        "Qwen2.5-0.5B",
        {
            "vocab_size": 151_936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
        },
    ),
    "1B": Shape(
        "Llama-3.2-1B",
        {
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
        },
    ),
    "1.5B": Shape(
        "Qwen2.5-1.5B",
        {
            "vocab_size": 151_936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
        },
    ),
    "tiny": Shape(
        "nothing",
        {
            "vocab_size": 1000,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
    ),
}
_PLANNED = {
    name: known_hardware()[key].bfloat16 / 1e12
    for name, key in (("H100", "H100"), ("H200", "H200"), ("A100", "A100-80"))
}
PEAK_TERAFLOPS = {"H100 PCIe": 756.0, "L40S": 362.0, "B200": 2250.0} | _PLANNED
"""Dense bfloat16, by the makers' data sheets; the first key found in the device's name counts."""


def random_model(size: str, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """The model of that shape; equal seeds give equal weights on one kind of device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape, tokenizer = SHAPES[size], _tokenizer(size == "tiny")
    config = LlamaConfig(
        **shape.config,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=shape.tied,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(SEED)
    with device:
        model = LlamaForCausalLM(config).to(dtype)
    return LanguageModel(f"random {size}", model, tokenizer, None, CONTEXT, f"random {size} {SEED}")


@functools.cache
def _tokenizer(tiny: bool) -> Any:
    return make_tokenizer(Words(SEED), 1000 if tiny else 32_000, texts=20 if tiny else 1500, seed=SEED)


def weights(model: Any) -> tuple[int, int]:
    """(of the body's matrices, of the head)"""
    body = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    return body, model.get_output_embeddings().weight.numel()


def needed_operations(model: Any, lengths: list[int], targets: int) -> float:
    """Of one forward and backward pass over examples of those lengths, with logits at `targets` positions.

    Six for each weight and token (of the head: target), and causal attention within each example.
    """
    body, head = weights(model)
    config = model.config
    attention = 6 * config.hidden_size * config.num_hidden_layers * sum(n * n for n in lengths)
    return 6.0 * body * sum(lengths) + 6.0 * head * targets + attention


def peak_teraflops(given: float | None, device: torch.device) -> float | None:
    """Of the device in bfloat16; None where it is unknown."""
    if given is not None or device.type != "cuda":
        return given
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_TERAFLOPS.items() if key in name), None)


def clock() -> float:
    """Seconds, when all that was sent to the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def forget_peak() -> None:
    """Peak memory is counted anew from here."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mebibytes() -> float | None:
    """Of device memory in use since `forget_peak`, the model included; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None


def attention_of_peers() -> str:
    """What transformers' models compute attention with here: FlashAttention where it is installed, else SDPA."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa"


def circumstances() -> dict[str, Any]:
    """Date, device and versions."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    cuda = torch.cuda.is_available()
    device = {
        "name": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "count": torch.cuda.device_count() if cuda else 0,
        "gibibytes": torch.cuda.get_device_properties(0).total_memory / 2**30 if cuda else None,
    }
    return {"date": datetime.date.today().isoformat(), "device": device, "versions": versions}


def arguments(description: str) -> argparse.ArgumentParser:
    """The options every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [size for size in SHAPES if size != "tiny"]
    parser.add_argument("--shape", choices=sizes, default="1B", help="of the model")
    parser.add_argument("--rounds", type=int, default=3, help="times each engine is measured, after one warm-up")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the JSON file")
    parser.add_argument("--peak-teraflops", type=float, help="of the device in bfloat16, where it is not known here")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape on the CPU, to see that the script runs")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser


def device_of(given: argparse.Namespace) -> torch.device:
    """The GPU; the CPU with --tiny, and nowhere else."""
    if not given.tiny and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: these benchmarks need one; --tiny only tries the script on a CPU")
    return torch.device("cpu" if given.tiny else "cuda")


def run_engines(
    name: str,
    given: argparse.Namespace,
    engines: dict[str, str],
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    launchers: dict[str, list[str]] | None = None,
) -> Path:
    """Let each engine (key, and the name it is shown by) be measured by a process of its own; write what all found.

    launchers: what starts an engine's process instead of plain Python. With --tiny `measure` runs in this process.
    """
    found: dict[str, Any] = {}
    for key, shown in engines.items():
        print(f"{name}: {shown}", file=sys.stderr, flush=True)
        launcher = (launchers or {}).get(key)
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            if given.tiny and launcher is None:
                its = measure(argparse.Namespace(**vars(given) | {"engine": key}))
                found[key] = {"name": shown} | its
                continue
            command = [*(launcher or [sys.executable]), *sys.argv, "--engine", key, "--result", str(result)]
            done = subprocess.run(command, stdout=sys.stderr, check=False)
            if done.returncode:  # out of memory, or a library that is not here: the others are measured all the same
                found[key] = {"name": shown, "failed": f"exit status {done.returncode}"}
            else:
                found[key] = {"name": shown} | json.loads(result.read_text(encoding="utf-8"))
    size = "tiny" if given.tiny else given.shape
    setting = {k: v for k, v in vars(given).items() if k not in ("out", "engine", "result", "peak_teraflops")}
    record = {"format": 1, "benchmark": name, "shape": size, "tiny": given.tiny, "setting": setting, "engines": found}
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{name}-{size}.json"
    path.write_text(json.dumps(record | circumstances(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(path)
    if all("failed" in engine for engine in found.values()):
        raise SystemExit(f"{name}: every engine failed")
    return path


def command(
    name: str,
    parser: argparse.ArgumentParser,
    engines: Callable[[argparse.Namespace], dict[str, str]],
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    launchers: Callable[[argparse.Namespace], dict[str, list[str]]] = lambda given: {},
) -> None:
    """What every script's `main` does: measure one engine where it was started for that, else start all."""
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR)
    device_of(given)
    if given.engine:
        found = measure(given)
        if int(os.environ.get("RANK", "0")) == 0:
            given.result.write_text(json.dumps(found), encoding="utf-8")
    else:
        run_engines(name, given, engines(given), measure, launchers(given))


def rounds_of(run: Callable[[], float], rounds: int) -> list[float]:
    """What `run` gives, so many times, after one warm-up."""
    run()
    return [run() for _ in range(rounds)]
