"""Examples as files for other trainers and harnesses, with a data card that says what they hold.

Takes a stream of `Example`s, gives a folder: Parquet, chat messages, prompt and completion, labelled segments, or
lm-eval tasks. Memory stays flat, equal examples give equal bytes, and a failed export leaves nothing behind.
Read next: `card.py`.
"""

import contextlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import polars as pl

from openflan.artifacts import alone_in, check_writable, is_taken, write_text
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ConfigError, Problem, nearest
from openflan.interop.card import data_card
from openflan.interop.lm_eval import task_yaml
from openflan.rendering.example import Example

Format = Literal["parquet", "messages", "prompt-completion", "segments", "lm-eval"]
FORMATS: tuple[Format, ...] = get_args(Format)

SHARD_ROWS = 50_000
"""Rows of one Parquet file."""
BUFFERED_ROWS = 20_000
"""JSON lines kept in memory, over all files, before they are appended."""

PARQUET_SCHEMA: dict[str, Any] = {
    "inputs": pl.String(),
    "targets": pl.String(),
    "task": pl.String(),
    "cluster": pl.String(),
    "template": pl.String(),
    "kind": pl.String(),
    "row_id": pl.String(),
    "options": pl.List(pl.String()),
    "gold": pl.List(pl.Int32()),
    "split": pl.String(),
    "references": pl.List(pl.String()),
    "shots": pl.Int32(),
}
"""Columns of the Parquet files. `inputs` has its `shots` exemplars in front and ends before the separator."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What an export wrote."""

    format: Format
    out: Path
    tasks: Mapping[str, int]
    """Examples written, by task."""
    splits: Mapping[str, int]
    """Examples written, by split."""
    left_out: Mapping[str, int]
    """Examples not written, by reason."""
    files: tuple[str, ...]
    """Relative to `out`, sorted."""

    @property
    def examples(self) -> int:
        return sum(self.tasks.values())

    def __str__(self) -> str:
        left = "".join(f", {number:,} left out ({reason})" for reason, number in sorted(self.left_out.items()))
        return f"{self.examples:,} examples of {len(self.tasks):,} tasks in {len(self.files):,} files{left}"


class Writer(Protocol):
    """Takes rows, by the file they belong to, and knows which files it wrote."""

    def add(self, key: str, row: Row) -> None: ...
    def close(self) -> None: ...


def export(
    examples: Iterable[Example], cluster_of: Mapping[str, str], out: Path, format: Format, prompt_format: PromptFormat
) -> ExportSummary:
    """Write examples, in order, into the new folder `out`, with a README.md that is a data card.

    `cluster_of` names each task's cluster. For lm-eval, inverted templates are left out (they are never scored) and
    counted.

    Raises ConfigError for an unknown format, a folder that is not empty or that another process writes, or a task
    without a cluster.
    """
    if format not in FORMATS:
        raise ConfigError(Problem("format", f"no format {format!r}", nearest(str(format), FORMATS)))
    check_new_folder(out)
    if is_taken(out):
        raise ConfigError(Problem(str(out), "another process is writing there", "name a new folder"))
    with alone_in(out):
        check_new_folder(out)
        work = _work(out)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            summary = _write(examples, cluster_of, work, out, format, prompt_format)
            out.rmdir()
            work.rename(out)
        finally:
            shutil.rmtree(work, ignore_errors=True)
            with contextlib.suppress(OSError):  # it holds what was written, or is gone
                out.rmdir()
    return summary


def check_new_folder(out: Path) -> None:
    """Raises ConfigError if `out` is not empty or is the folder one stands in, and OSError if it cannot be made."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(Problem(str(out), "is there and not empty", "name a new folder"))
    if out.resolve() == Path.cwd():
        raise ConfigError(Problem(str(out), "is the folder you are in, which stays", "name a new one in it"))
    check_writable(out)


def _work(out: Path) -> Path:
    return out.with_name(f".{out.name}.part")


def split_of(example: Example) -> str:
    """The split a row id names ("validation/17"), or "train"."""
    name, slash, _ = example.row_id.partition("/")
    return re.sub(r"\W", "_", name) if slash and name else "train"


def prompt_and_completion(example: Example, prompt_format: PromptFormat) -> tuple[str, str]:
    """What is read and what is learnt, split where `encode` splits: spaces that end the prompt go to the target."""
    prompt = prompt_format.of(example)
    kept = prompt.rstrip(" ")
    return kept, prompt[len(kept) :] + example.targets


@dataclass(slots=True)
class _Counts:
    tasks: Counter[str] = field(default_factory=Counter[str])
    splits: Counter[str] = field(default_factory=Counter[str])
    left_out: Counter[str] = field(default_factory=Counter[str])


def _write(
    examples: Iterable[Example],
    cluster_of: Mapping[str, str],
    work: Path,
    out: Path,
    format: Format,
    prompt_format: PromptFormat,
) -> ExportSummary:
    counts = _Counts()
    writer: Writer = _ParquetShards(work) if format == "parquet" else _JsonLines(work)
    harness = _LmEvalTasks(work, prompt_format) if format == "lm-eval" else None
    for example in _scored(examples, counts) if harness else examples:
        if example.task not in cluster_of:
            raise ConfigError(Problem(f"task {example.task!r}", "has no cluster", nearest(example.task, cluster_of)))
        cluster, split = cluster_of[example.task], split_of(example)
        key = harness.note(example, cluster) if harness else split
        writer.add(key, _row(example, cluster, split, format, prompt_format))
        counts.tasks[example.task] += 1
        counts.splits[split] += 1
    writer.close()
    if harness:
        harness.close()
    files = sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
    write_text(
        work / "README.md", data_card(format, counts.tasks, counts.splits, counts.left_out, cluster_of, prompt_format)
    )
    tasks, splits = dict(sorted(counts.tasks.items())), dict(sorted(counts.splits.items()))
    return ExportSummary(format, out, tasks, splits, dict(sorted(counts.left_out.items())), ("README.md", *files))


def _scored(examples: Iterable[Example], counts: _Counts) -> Iterator[Example]:
    for example in examples:
        if example.kind == "inverted":
            counts.left_out["inverted templates are never scored"] += 1
        else:
            yield example


def _row(example: Example, cluster: str, split: str, format: Format, prompt_format: PromptFormat) -> Row:
    inputs = _inputs(example, prompt_format)
    about: Row = {
        "task": example.task,
        "cluster": cluster,
        "template": example.template,
        "kind": example.kind,
        "row": example.row_id,
        "options": list(example.options),
        "gold": list(example.gold),
    }
    match format:
        case "parquet":
            about["row_id"] = about.pop("row")
            more = {"split": split, "references": list(example.references), "shots": len(example.exemplars)}
            return {"inputs": inputs, "targets": example.targets, **about, **more}
        case "messages":
            said = [{"role": "user", "content": inputs}, {"role": "assistant", "content": example.targets}]
            return {"messages": said, "flan": about}
        case "prompt-completion":
            prompt, completion = prompt_and_completion(example, prompt_format)
            return {"prompt": prompt, "completion": completion, "flan": about}
        case "segments":
            prompt, completion = prompt_and_completion(example, prompt_format)
            return {"segments": [{"label": False, "text": prompt}, {"label": True, "text": completion}], "flan": about}
        case "lm-eval":
            references = list(example.references) or [example.targets]
            choices = {"options": about["options"], "gold": about["gold"], "label": next(iter(example.gold), -1)}
            return {
                "row_id": example.row_id,
                "inputs": inputs,
                "targets": example.targets,
                "references": references,
            } | (choices if example.options else {})


def _inputs(example: Example, prompt_format: PromptFormat) -> str:
    """All that is read, exemplars included, up to the separator."""
    return prompt_format.of(example).removesuffix(prompt_format.separator)


class _JsonLines:
    """One JSON Lines file for each key; lines wait in memory until there are enough to append."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, list[str]] = {}
        self._count = 0

    def add(self, key: str, row: Row) -> None:
        self._waiting.setdefault(key, []).append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._count += 1
        if self._count >= BUFFERED_ROWS:
            self.close()

    def close(self) -> None:
        for key, lines in self._waiting.items():
            with (self._folder / f"{key}.jsonl").open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
        self._waiting.clear()
        self._count = 0


class _ParquetShards:
    """`data/<split>-00000.parquet`, a new file every `SHARD_ROWS` rows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "data"
        self._folder.mkdir()
        self._waiting: dict[str, list[Row]] = {}
        self._written: Counter[str] = Counter()

    def add(self, key: str, row: Row) -> None:
        rows = self._waiting.setdefault(key, [])
        rows.append(row)
        if len(rows) >= SHARD_ROWS:
            self._flush(key)

    def close(self) -> None:
        for key in list(self._waiting):
            self._flush(key)

    def _flush(self, key: str) -> None:
        rows = self._waiting.pop(key)
        path = self._folder / f"{key}-{self._written[key]:05d}.parquet"
        self._written[key] += 1
        pl.DataFrame(rows, schema=PARQUET_SCHEMA).write_parquet(path, compression="zstd", compression_level=3)


class _LmEvalTasks:
    """The YAML beside each (task, template) file; what a task needs is known once all its rows were seen."""

    def __init__(self, folder: Path, prompt_format: PromptFormat) -> None:
        self._folder, self._prompt_format = folder, prompt_format
        self._seen: dict[str, tuple[str, str, bool, bool]] = {}

    def note(self, example: Example, cluster: str) -> str:
        """The file an example belongs to."""
        key = f"{example.task}__{example.template}"
        _, _, ranked, several = self._seen.get(key, ("", "", False, False))
        self._seen[key] = (example.task, cluster, ranked or bool(example.options), several or len(example.gold) > 1)
        return key

    def close(self) -> None:
        for key, (task, cluster, ranked, several) in self._seen.items():
            text = task_yaml(key, task, cluster, self._prompt_format, ranked=ranked, several_gold=several)
            write_text(self._folder / f"{key}.yaml", text)
