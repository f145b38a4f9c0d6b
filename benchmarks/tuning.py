"""Tuning side by side with TRL's SFTTrainer: same rows, same model, same core, in one run.

    pip install -e '.[bench]'
    python benchmarks/tuning.py                    # the tables of docs/performance.md: an hour on one slow core
    python benchmarks/tuning.py --only tuning-S    # one of them
    python benchmarks/tuning.py --quick            # minutes; prints, and writes nothing

Every engine tunes one epoch of the same examples with AdamW (torch's fused one), one optimizer step for each packed
row of at most 1,024 tokens (padded: each 8 examples), in float32, without gradient checkpointing. Times are CPU seconds
of the whole epoch, loading and saving left out; each is the median over rounds in which all engines take turns. Every
section runs in a process of its own, pinned to one core, and all engines of a section share its allocator settings.
The models are random: what is measured does not depend on what they know. Read `tuning_workload.py` for the examples.
"""

import argparse
import dataclasses
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from measure import ROOT, Machine, conditions, cpu_seconds, forget_peak, mebibytes, pin, write_section
from scoring_workload import Words, build_model
from tuning_engines import (
    BFD,
    OURS,
    PADDED,
    Epoch,
    Setting,
    agreement,
    fitting,
    openflan_epoch,
    sft_trainer,
    trl_epoch,
)
from tuning_workload import TEMPLATES, examples, invented_task, rows

from openflan.encoding.encode import Encoded, encode
from openflan.encoding.pack import PackedRow, pack
from openflan.encoding.prompt_format import Lengths, PromptFormat
from openflan.ledger import Ledger
from openflan.models.load import LanguageModel, load_model
from openflan.rendering.render import options_block, read_columns, render
from openflan.sources.read import Row

PACKAGES = ("torch", "transformers", "trl", "datasets", "tokenizers", "openflan")
BLOCK = 1024
"""Examples our mixture encodes and packs together."""
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_TOP_PAD_": "67108864"}
"""glibc keeps freed memory: large temporaries cost no page faults, which would slow TRL more than us."""
SETTING = Setting()
ENGINES: dict[str, Callable[[LanguageModel, Sequence[Encoded]], Epoch]] = {
    PADDED: lambda lm, encoded: trl_epoch(lm, encoded, SETTING, packing=False),
    BFD: lambda lm, encoded: trl_epoch(lm, encoded, SETTING, packing=True),
    OURS: lambda lm, encoded: openflan_epoch(lm, encoded, SETTING),
}


@dataclass(frozen=True)
class Case:
    """One table of times."""

    title: str
    model: str
    examples: int
    compared: int
    """So many examples' loss and gradient are compared with those of an example at a time."""
    allocator: dict[str, str]
    engines: tuple[str, ...] = tuple(ENGINES)


CASES = {
    "tuning-S": Case("Tuning, model S", "S", 30, 6, KEPT),
    "tuning-S-malloc": Case("Tuning, model S, glibc's allocator as it comes", "S", 30, 0, {}),
    "tuning-M": Case("Tuning, model M", "M", 12, 4, KEPT, (BFD, OURS)),
}
MEMORY, PREPARATION = "tuning-memory", "tuning-preparation"
SECTIONS = [*CASES, MEMORY, PREPARATION]


# The sections: each gives plain numbers, and a table is made of them.


def measured(case: Case, folder: Path, rounds: int) -> dict[str, Any]:
    encoded = examples(case.examples, seed=1)
    tokens = sum(len(e.prompt_ids) + len(e.target_ids) for e in encoded)
    targets = sum(len(e.target_ids) for e in encoded)
    engines = {name: ENGINES[name] for name in case.engines}
    epochs: dict[str, list[Epoch]] = {name: [] for name in engines}
    for epoch in engines.values():  # libraries load and allocate on first use
        epoch(load_model(str(folder), device="cpu"), encoded[:2])
    rates: list[float] = []
    for number in range(rounds):
        for name, epoch in engines.items():
            found = epoch(load_model(str(folder), device="cpu"), encoded)
            if found.target_tokens != targets:
                raise SystemExit(f"{name} tuned on {found.target_tokens} target tokens of {targets}")
            epochs[name].append(found)
            print(f"  round {number + 1}, {name}: {found.seconds:.2f} s", file=sys.stderr, flush=True)
            gc.collect()
        rates.append(Machine.measured().default)
    model: Any = load_model(str(folder), device="cpu").model
    head = model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    few = fitting(encoded, case.compared, SETTING.row_length)
    return {
        "examples": case.examples,
        "tokens": tokens,
        "target_tokens": targets,
        "gigaflops": rates,
        "floor_seconds": (6 * body * tokens + 6 * head * targets) / statistics.median(rates) / 1e9,
        "engines": {
            name: {
                "seconds": [epoch.seconds for epoch in found],
                "tokens": found[0].tokens,
                "steps": found[0].steps,
            }
            for name, found in epochs.items()
        },
        "compared": len(few),
        "agreement": agreement(lambda: load_model(str(folder), device="cpu"), few, SETTING) if few else {},
    }


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def case_table(case: Case, found: dict[str, Any]) -> str:
    targets = found["target_tokens"]
    medians = {name: statistics.median(engine["seconds"]) for name, engine in found["engines"].items()}
    gigaflops = " ".join(f"{value:.1f}" for value in found["gigaflops"])
    peers = [name for name in (PADDED, BFD) if name in medians]
    titles = [
        "engine",
        "target tokens/s",
        "CPU s, all rounds",
        *(f"x {name}" for name in peers),
        "tokens fed",
        "steps",
        "of floor",
    ]
    lines = [
        f"### {case.title}",
        "",
        f"{found['examples']} examples, {found['tokens']:,} tokens, {targets:,} of them targets. Floor: "
        f"{found['floor_seconds']:.2f} s. GFLOP/s after each round: {gigaflops}.",
        "",
        row(titles),
        row(["---"] * len(titles)),
    ]
    for name, engine in found["engines"].items():
        cells = [
            name,
            f"{targets / medians[name]:.2f}",
            " ".join(f"{seconds:.2f}" for seconds in engine["seconds"]),
            *(f"{medians[peer] / medians[name]:.2f}" for peer in peers),
            f"{engine['tokens']:,}",
            str(engine["steps"]),
            f"{found['floor_seconds'] / medians[name]:.0%}",
        ]
        lines.append(row(cells))
    if found["agreement"]:
        lines += [
            "",
            f"Loss and gradient of {found['compared']} examples, against plain transformers with an example at a time:",
            "",
            "| engine | loss differs by, nats | gradient differs by, of its norm |",
            "|---|---|---|",
            *(f"| {name} | {loss:.1e} | {grad:.1e} |" for name, (loss, grad) in found["agreement"].items()),
        ]
    return "\n".join([*lines, ""])


# Peak memory: each engine in a process of its own, above what the loaded model takes.


def memory_of(engine: str, folder: Path, number: int) -> float:
    """MiB over the loaded model at the peak of an epoch, gradients and optimizer included."""
    import trl  # loaded on all sides, so that its size is not counted

    _ = trl.SFTTrainer, trl.SFTConfig
    lm = load_model(str(folder), device="cpu")
    for parameter in lm.model.parameters():  # weights are mapped files: all of them in memory before counting
        parameter.data = parameter.data.clone()
    gc.collect()
    forget_peak()  # so far it is that of loading
    before = mebibytes("VmRSS")
    ENGINES[engine](lm, examples(number, seed=1))
    return mebibytes("VmHWM") - before


def memory_table(found: dict[str, Any]) -> str:
    ours = found["mebibytes"][OURS]
    return "\n".join(
        [
            "### Peak memory over the loaded model, tuning model S",
            "",
            f"{found['examples']} examples; MiB of resident memory, each engine in a process of its own; "
            f"gradients and AdamW's state, {found['state']:.0f} MiB in every engine, are included.",
            "",
            "| engine | MiB | x openflan |",
            "|---|---|---|",
            *(f"| {name} | {value:.0f} | {value / ours:.2f} |" for name, value in found["mebibytes"].items()),
            "",
        ]
    )


# Preparation: from rows in memory to packed rows of tokens.


def openflan_preparation(lm: LanguageModel, source: Sequence[Row]) -> list[PackedRow]:
    """Rendered, encoded and packed block by block, as a mixture does it."""
    task = invented_task()
    drawn = [(row, template) for row in read_columns(task, source, Ledger()) for template in task.templates]
    packed: list[PackedRow] = []
    for at in range(0, len(drawn), BLOCK):
        rendered = [render(task, row, template) for row, template in drawn[at : at + BLOCK]]
        encoded = encode(rendered, lm.tokenizer, PromptFormat(), Lengths(), Ledger(), context=SETTING.row_length)
        packed += pack(encoded, SETTING.row_length)
    return packed


def trl_preparation(lm: LanguageModel, dataset: Any, compiled: dict[str, Any]) -> Any:
    """One `Dataset.map` with templates compiled before, then the trainer's own steps: EOS, tokens, labels, packing."""

    def rendered(row: dict[str, Any]) -> dict[str, str]:
        inputs = compiled[row["template"]].render(**row, options_=options_block(row["options"]))
        return {"prompt": inputs + "\n", "completion": row["options"][row["label"]]}

    texts = dataset.map(rendered, remove_columns=dataset.column_names)
    with tempfile.TemporaryDirectory() as folder:
        return sft_trainer(lm, texts, SETTING, packing=True, folder=folder).train_dataset


def preparation(folder: Path, number: int, rounds: int) -> dict[str, Any]:
    from datasets import Dataset
    from jinja2 import Environment

    lm = load_model(str(folder), device="cpu")
    source = rows(Words(0), number, seed=1)
    dataset = Dataset.from_list([{**row.fields, "template": name} for row in source for name in TEMPLATES])
    environment = Environment(keep_trailing_newline=True)
    environment.filters["trimmable"] = lambda text: text
    compiled = {name: environment.from_string(text) for name, text in TEMPLATES.items()}
    task, backend = invented_task(), lm.tokenizer.backend_tokenizer
    shown = [render(task, row, template) for row in read_columns(task, source, Ledger()) for template in task.templates]
    texts = [PromptFormat().of(e) + e.targets for e in shown]

    def alone() -> None:
        for at in range(0, len(texts), BLOCK):
            backend.encode_batch_fast(texts[at : at + BLOCK], add_special_tokens=False)

    paths: dict[str, Callable[[], Any]] = {
        "Dataset.map + SFTTrainer": lambda: trl_preparation(lm, dataset, compiled),
        "openflan": lambda: openflan_preparation(lm, source),
        "tokenizer alone, each text once": alone,
    }
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    made: dict[str, Any] = {}
    for round_number in range(rounds):
        for name, path in paths.items():
            made[name], spent = cpu_seconds(path)
            seconds[name].append(spent)
            print(f"  round {round_number + 1}, {name}: {spent:.2f} s", file=sys.stderr, flush=True)
    theirs, ours = trl_segments(made["Dataset.map + SFTTrainer"]), our_segments(made["openflan"])
    tokens = sum(map(len, ours.elements()))
    return {
        "examples": len(texts),
        "tokens": tokens,
        "differ": (theirs - ours).total() + (ours - theirs).total(),
        "seconds": seconds,
        "fill": {
            name: tokens / len(packed) / SETTING.row_length for name, packed in made.items() if packed is not None
        },
    }


Segments = Counter[tuple[tuple[int, bool], ...]]
"""How often each example occurs, as tokens and whether they are targets'."""


def our_segments(packed: Sequence[PackedRow]) -> Segments:
    found: Segments = Counter()
    for one in packed:
        pairs = zip(one.input_ids.tolist(), one.target_mask.tolist(), strict=True)
        found.update(tuple(islice(pairs, int(length))) for length in one.segment_lengths)
    return found


def trl_segments(packed: Any) -> Segments:
    found: Segments = Counter()
    for row in packed:
        pairs = zip(row["input_ids"], (label != -100 for label in row["labels"]), strict=True)
        found.update(tuple(islice(pairs, length)) for length in row["seq_lengths"])
    return found


def preparation_table(found: dict[str, Any]) -> str:
    medians = {name: statistics.median(seconds) for name, seconds in found["seconds"].items()}
    slowest = medians["Dataset.map + SFTTrainer"]
    same = "the same tokens and targets" if not found["differ"] else f"{found['differ']} segments differ"
    lines = [
        "### Preparation",
        "",
        f"{found['examples']:,} examples, {found['tokens']:,} tokens, from rows in memory to packed rows of at most "
        f"{SETTING.row_length} tokens. Examples of both: {same}.",
        "",
        "| path | examples/s, median | CPU s, all rounds | x Dataset.map + SFTTrainer | rows filled |",
        "|---|---|---|---|---|",
    ]
    for name, seconds in found["seconds"].items():
        rounds = " ".join(f"{value:.2f}" for value in seconds)
        fill = f"{found['fill'][name]:.1%}" if name in found["fill"] else ""
        rate = found["examples"] / medians[name]
        lines.append(f"| {name} | {rate:,.0f} | {rounds} | {slowest / medians[name]:.2f} | {fill} |")
    return "\n".join([*lines, ""])


# The command.


def quiet() -> None:
    import datasets
    import transformers

    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    datasets.disable_caching()  # a second round would only read what the first one wrote


def section(key: str, models: Path, rounds: int, core: int, scale: float) -> tuple[str, dict[str, Any]]:
    """One section's table and numbers, measured in a process of its own with the allocator's settings it names."""
    allocator = CASES[key].allocator if key in CASES else {}
    if key == MEMORY:
        found = memory(models, core, scale)
        return memory_table(found), found
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = ["--part", key, "--result", str(result), "--rounds", str(rounds), "--scale", str(scale)]
        started(command, models, core, allocator)
        found = json.loads(result.read_text(encoding="utf-8"))
    return case_table(CASES[key], found) if key in CASES else preparation_table(found), found


def started(command: list[str], models: Path, core: int, allocator: dict[str, str]) -> None:
    """This file once more, with those options."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, __file__, *command, "--models", str(models), "--core", str(core)]
    subprocess.run(command, env=clean | allocator, check=True, stdout=sys.stderr)


def memory(models: Path, core: int, scale: float) -> dict[str, Any]:
    found: dict[str, float] = {}
    for engine in ENGINES:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            command = ["--part", MEMORY, "--memory-of", engine, "--result", str(result), "--scale", str(scale)]
            started(command, models, core, {})
            found[engine] = json.loads(result.read_text(encoding="utf-8"))["mebibytes"]
    parameters = sum(p.numel() for p in load_model(str(models / "S"), device="cpu").model.parameters())
    return {"examples": scaled(12, scale), "state": 3 * 4 * parameters / 2**20, "mebibytes": found}


def scaled(number: int, scale: float) -> int:
    return max(4, int(number * scale))


def part(given: argparse.Namespace) -> dict[str, Any]:
    """What one process measures."""
    if given.memory_of:
        return {"mebibytes": memory_of(given.memory_of, given.models / "S", scaled(12, given.scale))}
    if given.part == PREPARATION:
        found = preparation(given.models / "S", scaled(800, given.scale), given.rounds)
    else:
        case = CASES[given.part]
        case = dataclasses.replace(case, examples=scaled(case.examples, given.scale))
        found = measured(case, given.models / case.model, given.rounds)
    return found | {"conditions": conditions(PACKAGES)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="sections to measure; all of them")
    parser.add_argument("--rounds", type=int, default=3, help="times every engine takes its turn")
    parser.add_argument("--json", type=Path, help="write all numbers to this file too")
    parser.add_argument("--quick", action="store_true", help="a few examples, one round; prints, and writes nothing")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="core to be pinned to")
    parser.add_argument("--models", type=Path, default=ROOT / "runs" / "benchmark-models", help="where models are made")
    parser.add_argument("--scale", type=float, default=1.0, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", choices=list(ENGINES), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    pin(given.core)
    quiet()
    if given.part:
        given.result.write_text(json.dumps(part(given)), encoding="utf-8")
        return
    words = Words(0)
    for size in ("S", "M"):
        build_model(given.models / size, size, words)
    scale, rounds = (0.2, 1) if given.quick else (given.scale, given.rounds)
    numbers: dict[str, Any] = {}
    for key in given.only or SECTIONS:
        print(key, file=sys.stderr, flush=True)
        before = os.getloadavg()[0]
        table, found = section(key, given.models, rounds, given.core, scale)
        after = os.getloadavg()[0]
        load = f"Load average over a minute, on {os.cpu_count()} cores: {before:.1f} before, {after:.1f} after."
        numbers[key] = found | {"load": [before, after]}
        text = f"{table}\n{found.get('conditions') or conditions(PACKAGES)} {load}"
        print(text, flush=True)
        if not given.quick:
            write_section(key, text)
    if given.json:
        given.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
