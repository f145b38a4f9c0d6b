"""Scoring side by side with lm-evaluation-harness: same requests, same model, same core, in one run.

    python benchmarks/scoring.py                    # the tables of docs/performance.md: half an hour on one core
    python benchmarks/scoring.py --only few-shot-25  # one of them
    python benchmarks/scoring.py --quick            # a few minutes; prints, and writes nothing

Times are CPU seconds of this process, pinned to one core, from texts to log-probabilities, tokenization included; each
is the median over rounds in which all engines take turns. Every engine has seen the model before: openflan checks a
model once in a process (two prompts, scored both ways), which is start-up. The models are random: what is measured
does not depend on what they know. Read `scoring_workload.py` for them and for the requests.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from measure import ROOT, Machine, conditions, cpu_seconds, forget_peak, mebibytes, pin, write_section
from scoring_workload import Item, Words, build_model, workload

from openflan.models.load import LanguageModel, load_model
from openflan.scoring import gemm
from openflan.scoring.plan import make_plan
from openflan.scoring.rank import ScoringCost, score
from openflan.scoring.requests import TextRequest, encode_requests

PACKAGES = ("torch", "transformers", "lm_eval", "tokenizers")
BATCHES = (1, 4, 8, 16)
"""Of lm-eval, the fastest of which is compared with."""


@dataclass(frozen=True)
class Case:
    """One table: a model and a workload."""

    title: str
    model: str
    examples: int
    shots: int
    rounds: int
    against_float64: int
    """So many prompts are compared with float64."""
    per_prefix: int | None = None
    sweep: int = 2
    """Examples on which lm-eval's batch size is chosen."""
    harness_onednn: bool = False
    """A row for lm-eval with oneDNN as well."""


CASES = {
    "zero-shot-S": Case("Zero-shot, model S", "S", 16, 0, 3, 12, harness_onednn=True),
    "zero-shot-M": Case("Zero-shot, model M", "M", 4, 0, 3, 4),
    "few-shot-2": Case(
        "Few-shot, model S, 2 examples for each set of exemplars", "S", 4, 5, 3, 3, per_prefix=2, sweep=1
    ),
    "few-shot-25": Case(
        "Few-shot, model S, 25 examples for each set of exemplars", "S", 25, 5, 1, 2, per_prefix=25, sweep=1
    ),
}
QUICK = Case("Zero-shot, model S (quick)", "S", 4, 0, 3, 4, sweep=1)
MEMORY = "memory"


@dataclass
class Engine:
    """One row: what to run, and what it took."""

    name: str
    run: Callable[[], list[list[float]]]
    seconds: list[float] = field(default_factory=list)
    sums: list[list[float]] = field(default_factory=list)
    tokens: str = ""


def requests(items: list[Item]) -> list[TextRequest]:
    return [TextRequest(index, item.inputs, item.options) for index, item in enumerate(items)]


def ours(lm: LanguageModel, items: list[Item], costs: list[ScoringCost]) -> list[list[float]]:
    encoded, _ = encode_requests(lm, requests(items))
    return [list(one.sums) for one in score(lm, encoded, report=costs.append)]


def harness(lm: LanguageModel, items: list[Item], batch: int) -> list[list[float]]:
    from lm_eval.models.huggingface import HFLM

    other = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch, device=lm.device.type)
    pairs = [SimpleNamespace(args=(item.inputs, option)) for item in items for option in item.options]
    values = iter(other.loglikelihood(pairs, disable_tqdm=True))
    return [[next(values)[0] for _ in item.options] for item in items]


@contextlib.contextmanager
def products(onednn: bool | None) -> Iterator[None]:
    """oneDNN in our engine always, or never; None leaves the choice to its probe."""
    probe = gemm.onednn_is_faster
    if onednn is not None:
        gemm.onednn_is_faster = lambda: onednn
    try:
        yield
    finally:
        gemm.onednn_is_faster = probe


def floor_seconds(lm: LanguageModel, items: list[Item], machine: Machine, onednn: bool) -> float:
    """Unique tokens through the body, scored positions through the head, attention to what each token sees."""
    encoded, _ = encode_requests(lm, requests(items))
    plan = make_plan(encoded, pass_tokens=1024, kept_tokens=1 << 20)
    model: Any = lm.model
    head = model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    pairs = float((plan.positions + 1).sum())
    attention = 4 * model.config.hidden_size * model.config.num_hidden_layers * pairs
    products = 2.0 * len(plan.token_ids) * body + 2.0 * len(set(plan.asked_at.tolist())) * head
    return products / (machine.onednn if onednn else machine.default) / 1e9 + attention / machine.attention / 1e9


def alone(model: Any, lm: LanguageModel, items: list[Item]) -> list[list[list[float]]]:
    """Log-probability of each option token by transformers' own forward pass, each text by itself."""
    encoded, _ = encode_requests(lm, requests(items))
    found: list[list[list[float]]] = []
    for request in encoded:
        found.append([])
        for option in request.option_ids:
            ids = torch.tensor([request.prompt_ids + option[:-1]])
            with torch.inference_mode():
                logits = model(ids, logits_to_keep=len(option)).logits[0].log_softmax(-1)
            found[-1].append([logits[k, token].item() for k, token in enumerate(option)])
    return found


def agreement(lm: LanguageModel, folder: Path, items: list[Item]) -> str:
    """A sentence on how far values are from float64: ours, and the same model's own in float32 without any batching."""
    from transformers import AutoModelForCausalLM

    expected = alone(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval(), lm, items)
    encoded, _ = encode_requests(lm, requests(items))
    found: dict[str, list[list[list[float]]]] = {"the model alone in float32": alone(lm.model, lm, items)}
    for name, onednn in (("openflan", False), ("openflan with oneDNN", True)):
        with products(onednn):
            found[name] = [[list(option) for option in one.logprobs] for one in score(lm, encoded)]
    said: list[str] = []
    for name, logprobs in found.items():
        pairs = [
            (option, wanted)
            for some, all_wanted in zip(logprobs, expected, strict=True)
            for option, wanted in zip(some, all_wanted, strict=True)
        ]
        token = max(abs(a - b) for option, wanted in pairs for a, b in zip(option, wanted, strict=True))
        total = max(abs(sum(option) - sum(wanted)) for option, wanted in pairs)
        said.append(f"{name} {token:.1e} for a token, {total:.1e} for a sum")
    return f"Largest difference from float64 over {len(pairs)} options: {'; '.join(said)}."


def measured(case: Case, folder: Path, words: Words) -> str:
    items = workload(words, case.examples, shots=case.shots, seed=1, per_prefix=case.per_prefix)
    lm = load_model(str(folder), device="cpu")
    some = workload(words, case.sweep, shots=case.shots, seed=2)
    sweep = {batch: cpu_seconds(lambda batch=batch: harness(lm, some, batch))[1] for batch in BATCHES}
    batch = min(sweep, key=lambda size: sweep[size])
    costs: list[ScoringCost] = []

    def with_products(onednn: bool) -> list[list[float]]:
        with products(onednn):
            return ours(lm, items, costs)

    def harness_onednn() -> list[list[float]]:
        with gemm.onednn_linear():
            return harness(lm, items, batch)

    engines = [
        Engine(f"lm-eval HFLM, batch {batch}", lambda: harness(lm, items, batch)),
        Engine("openflan", lambda: with_products(False)),
        Engine("openflan, oneDNN", lambda: with_products(True)),
    ]
    if case.harness_onednn:
        engines.insert(1, Engine(f"lm-eval HFLM, batch {batch}, oneDNN", harness_onednn))
    with products(False):
        ours(lm, some, [])  # lm-eval has seen the model by now; we check it the first time
    for _ in range(case.rounds):
        for engine in engines:
            engine.sums, seconds = cpu_seconds(engine.run)
            engine.seconds.append(seconds)
            print(f"  {engine.name}: {seconds:.2f} s", file=sys.stderr, flush=True)
    machine = Machine.measured()
    cost = costs[-1]
    base = engines[0]
    rows = [
        "| engine | CPU s, median | all rounds | x lm-eval | tokens computed | a sum differs by | floor, s | reached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for engine in engines:
        median = statistics.median(engine.seconds)
        difference = max(
            abs(a - b) for one, two in zip(engine.sums, base.sums, strict=True) for a, b in zip(one, two, strict=True)
        )
        floor = floor_seconds(lm, items, machine, "oneDNN" in engine.name)
        mine = engine.name.startswith("openflan")
        tokens = f"{cost.tokens:,}" if mine else f"{harness_tokens(lm, items):,} + padding"
        rounds = " ".join(f"{seconds:.2f}" for seconds in engine.seconds)
        rows.append(
            f"| {engine.name} | {median:.2f} | {rounds} | {statistics.median(base.seconds) / median:.2f} | {tokens} | "
            f"{difference:.1e} | {floor:.2f} | {floor / median:.0%} |"
        )
    said = agreement(lm, folder, items[:: max(1, len(items) // case.against_float64)][: case.against_float64])
    options = sum(len(item.options) for item in items)
    swept = ", ".join(f"{size}: {seconds:.2f}" for size, seconds in sweep.items())
    return "\n".join(
        [
            f"### {case.title}",
            "",
            f"{len(items)} prompts, {options} options; {cost.tokens:,} tokens computed, of which the floor is "
            f"{cost.floor_tokens:,}; {cost.row_per_option_tokens:,} with one row per option. lm-eval's batch sizes on "
            f"{len(some)} other prompts, s: {swept}. GFLOP/s after the last round: torch's products "
            f"{machine.default:.0f}, oneDNN {machine.onednn:.0f}, attention {machine.attention:.0f}.",
            "",
            *rows,
            "",
            said,
            "",
        ]
    )


def harness_tokens(lm: LanguageModel, items: list[Item]) -> int:
    """Tokens lm-eval feeds: one text for each distinct prompt + option without its last token."""
    encoded, _ = encode_requests(lm, requests(items))
    return sum(map(len, {r.prompt_ids + option[:-1] for r in encoded for option in r.option_ids}))


# Peak memory: each engine in a process of its own, above what the loaded model takes.


def memory_of(engine: str, folder: Path, shots: int) -> None:
    """Prints MiB over the loaded model; run in a process of its own."""
    items = workload(Words(0), 2 if shots else 4, shots=shots, seed=1)
    lm = load_model(str(folder), device="cpu")
    from lm_eval.models.huggingface import HFLM  # loaded on both sides, so that its size is not counted

    _ = HFLM
    for parameter in lm.model.parameters():  # weights are mapped files: all of them in memory before counting
        parameter.data = parameter.data.clone()
    gc.collect()
    forget_peak()  # so far it is that of loading
    before = mebibytes("VmRSS")
    if engine == "openflan":
        ours(lm, items, [])
    else:
        harness(lm, items, 8)
    print(json.dumps(mebibytes("VmHWM") - before))


def memory(folder: Path) -> str:
    rows = [
        "### Peak memory over the loaded model, model S",
        "",
        "Each in its own process, MiB of resident memory.",
        "",
        "| requests | lm-eval HFLM, batch 8 | openflan | x less |",
        "|---|---|---|---|",
    ]
    for title, shots in (("zero-shot, 20 prompts", 0), ("few-shot, 10 prompts", 5)):
        found: list[float] = []
        for engine in ("lm-eval", "openflan"):
            command = [
                sys.executable,
                __file__,
                "--memory-of",
                engine,
                "--folder",
                str(folder),
                "--shots",
                str(shots),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.strip().splitlines()[-1]))
        rows.append(f"| {title} | {found[0]:.0f} | {found[1]:.0f} | {found[0] / found[1]:.1f} |")
    return "\n".join([*rows, ""])


def described() -> str:
    """The conditions, and what openflan itself would choose on this machine."""
    taken = "takes" if gemm.onednn_is_faster() else "does not take"
    return f"{conditions(PACKAGES)} openflan's own probe {taken} oneDNN on this machine."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four examples, model S only; writes nothing")
    parser.add_argument("--only", choices=[*CASES, MEMORY], action="append", help="sections to measure; all of them")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="core to be pinned to")
    parser.add_argument("--models", type=Path, default=ROOT / "runs" / "benchmark-models", help="where models are made")
    parser.add_argument("--memory-of", choices=["lm-eval", "openflan"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shots", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    pin(given.core)
    if given.memory_of:
        memory_of(given.memory_of, given.folder, given.shots)
        return
    words = Words(0)

    def folder(size: str) -> Path:
        return build_model(given.models / size, size, words)

    if given.quick:
        print(described(), measured(QUICK, folder("S"), words), memory(folder("S")), sep="\n\n")
        return
    for key in given.only or [*CASES, MEMORY]:
        print(key, file=sys.stderr, flush=True)
        case = CASES.get(key)
        text = measured(case, folder(case.model), words) if case else memory(folder("S"))
        print(text, flush=True)
        write_section(key, f"{text}\n{described()}")


if __name__ == "__main__":
    main()
