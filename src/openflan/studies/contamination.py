"""The contamination study of the paper's appendix: which evaluated rows a corpus holds, and the scores on the others.

Takes folders of text and the tasks to look at, gives `contamination.json`, `rows.parquet` and `hits.parquet`. The
corpus is read in parts, each by one process and each once: its result is kept under a name made of the part's and the
rows' content, so a killed study goes on where it stood. Read next: `../reports/contamination.py`.
"""

import importlib.metadata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from openflan.artifacts import (
    DONE,
    atomic_path,
    cache_folder,
    file_sha256,
    fingerprint,
    is_done,
    read_json,
    stage,
    write_json,
    write_text,
)
from openflan.catalog.load import Catalog, load_catalog
from openflan.catalog.task import Task
from openflan.errors import ConfigError, OpenflanError, Problem, RunError, SourceError
from openflan.evaluation.metrics import metric
from openflan.evaluation.result import rounded
from openflan.evaluation.samples import read_samples
from openflan.evaluation.statistics import RESAMPLES
from openflan.evaluation.subsets import on_subsets
from openflan.ledger import Ledger
from openflan.mixture import contamination as rules
from openflan.mixture import ngrams
from openflan.mixture.contamination import (
    LONGEST_RUN,
    RULES,
    Found,
    Hit,
    Judge,
    Rule,
    Scan,
    Wanted,
    row_words,
    run_length,
    wanted_hashes,
)
from openflan.mixture.ngrams import words_of
from openflan.rendering.render import ReadRow
from openflan.rendering.store import RowStore, StoreJob, build_stores, read_store
from openflan.sources import corpus as corpora
from openflan.sources.corpus import PART_BYTES, Corpus, Part, PartReader, check_readable, find_corpus
from openflan.sources.read import SourceSettings
from openflan.studies.parallel import Job, in_processes
from openflan.studies.progress import Progress, ProgressEvent, silent
from openflan.studies.recipe import Recipe, load_recipe
from openflan.studies.rows import check_lost
from openflan.world.corpus import DEFAULT_TOKENS, Piece, pieces, text_version, write_piece

FORMAT = 1
DATA, HITS, ROWS = "contamination.json", "hits.parquet", "rows.parquet"
COVERAGES = (0.5, 0.8)
"""Shares of a row's words: how many rows are covered so far is counted."""

HIT_SCHEMA: dict[str, pl.DataType] = {
    "task": pl.String(),
    "row_id": pl.String(),
    "rule": pl.String(),
    "part": pl.String(),
    "ngram": pl.String(),
    "span": pl.String(),
    "count": pl.Int64(),
    "corpus": pl.String(),
    "file": pl.String(),
    "line": pl.Int64(),
}
"""Columns of hits.parquet; `mixture.contamination.Hit` says what each holds."""
ROW_SCHEMA: dict[str, pl.DataType] = {
    "task": pl.String(),
    "row_id": pl.String(),
    "group": pl.String(),
    "words": pl.Int64(),
    "paper": pl.Boolean(),
    "strict": pl.Boolean(),
    "coverage": pl.Float64(),
}
"""Columns of rows.parquet: every row looked at, whether it is dirty under each rule, and the share of it found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContaminationSettings:
    """What is looked for, and where."""

    corpora: tuple[Path, ...] = ()
    """Folders of text; none takes text like that which world:base was pretrained on."""
    column: str | None = None
    """The text column of records; None takes `text` where there is one, else every text of a record."""
    catalogs: tuple[str, ...] = ()
    """Empty takes the run's, else `flan`, or `world` for the micro-world's own text."""
    tasks: tuple[str, ...] = ()
    hold_out: tuple[str, ...] = ()
    """Clusters. Without tasks and clusters: every task whose rows can be read."""
    data_root: Path | None = None
    world_seed: int | None = None
    limit: int | None = None
    """Rows of each task."""
    run: Path | None = None
    """A finished run: its scores are given on all, clean and dirty rows."""
    rule: Rule = "paper"
    """Which rule tables, figure and scores go by; both are computed."""
    world_tokens: int = DEFAULT_TOKENS
    seed: int = 0
    resamples: int = RESAMPLES
    part_bytes: int = PART_BYTES


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A task and the rows of it that are looked for."""

    task: Task
    rows: RowStore
    n: int = 0
    """Run length of the rule `paper`."""


@dataclass(slots=True)
class _Text:
    """What a corpus turned out to hold."""

    corpus: Corpus
    label: str
    words: int = 0
    lines: int = 0
    bad_lines: Counter[str] = field(default_factory=Counter[str])
    bad_files: dict[str, str] = field(default_factory=dict[str, str])
    where: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def to_json(self) -> dict[str, Any]:
        lines = {
            reason: {"count": count, "where": self.where[reason]} for reason, count in sorted(self.bad_lines.items())
        }
        return {
            "name": self.label,
            "files": self.corpus.num_files,
            "skipped": dict(self.corpus.skipped),
            "lines": self.lines,
            "words": self.words,
            "unreadable": {"files": dict(sorted(self.bad_files.items())), "lines": lines},
        }


def contamination(
    settings: ContaminationSettings, out: Path, *, workers: int = 1, progress: Progress = silent
) -> dict[str, Any]:
    """The study; returns what contamination.json holds. The same call on unchanged files computes nothing.

    Raises SourceError where a corpus or all rows cannot be read, or more than 5 % of a corpus cannot; ConfigError for
    unknown tasks and clusters; RunError where the run is unfinished, or its rows are not the ones that are read here.
    """
    _check_folder(out)
    if inside := [folder for folder in settings.corpora if out.resolve().is_relative_to(folder.resolve())]:
        raise ConfigError(Problem(f"--out {out}", f"lies within the corpus {inside[0]}", "choose another --out"))
    recipe = None if settings.run is None else _finished(settings.run)
    if recipe is not None and settings.limit is not None:
        raise ConfigError(Problem("--limit", "does not go with --run", "all rows of the run are looked at"))
    texts = _texts(settings, workers=workers, progress=progress)
    ledger = Ledger()
    evaluated, left_out = _evaluated(settings, recipe, ledger, workers=workers, progress=progress)
    index = _index(evaluated, out, progress)
    about = read_json(index / "about.json")
    evaluated = {name: Evaluated(one.task, one.rows, about["n"][name]) for name, one in evaluated.items()}
    folders = {part: _part_folder(part, index, settings, out) for text in texts for part in text.corpus.parts}
    key = _key(settings, index, [folder.name for folder in folders.values()], texts, evaluated, ledger)
    if (out / DATA).exists() and (out / DONE).exists() and (out / DONE).read_text(encoding="utf-8") == key:
        return read_json(out / DATA)
    _scan(folders, index, settings.column, workers=workers, progress=progress)
    found, parts = _collect(texts, folders)
    tables, rows = _judge(evaluated, index, found, parts, out, progress)
    content = {
        "format": FORMAT,
        "rule": settings.rule,
        "corpora": [text.to_json() for text in texts],
        "tasks": tables,
        "run": None if recipe is None else _scores(settings, recipe, evaluated, rows),
        "left_out": left_out,
        "ledger": ledger.to_json(),
    }
    content = rounded(content)
    content["fingerprint"] = fingerprint(content)
    write_json(out / DATA, content)
    write_text(out / DONE, key)
    return content


def _check_folder(out: Path) -> None:
    known = {"index", "parts", DATA, HITS, ROWS, DONE, "report.html", "figures"}
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if others := [name for name in names if name not in known and not name.startswith(".")]:
        what = f"has files that are none of this study's: {', '.join(others[:3])}"
        raise RunError(Problem(str(out), what, "choose another --out"))


def _finished(run: Path) -> Recipe:
    if not is_done(run):
        raise RunError(Problem(str(run), "is no finished run", "give a folder of `openflan run` that has a DONE file"))
    return load_recipe(run / "recipe.toml")


def _key(
    settings: ContaminationSettings,
    index: Path,
    parts: Sequence[str],
    texts: Sequence[_Text],
    evaluated: Mapping[str, Evaluated],
    ledger: Ledger,
) -> str:
    """Names everything that the results are made of."""
    samples = None if settings.run is None else file_sha256(settings.run / "samples.parquet")
    labels = [(text.label, dict(text.corpus.skipped)) for text in texts]
    names = sorted(evaluated), sorted(ledger.notes), _code()
    chosen = settings.rule, settings.seed, settings.resamples
    return fingerprint([FORMAT, index.name, parts, labels, samples, names, chosen])


# The corpus


def _texts(settings: ContaminationSettings, *, workers: int, progress: Progress) -> list[_Text]:
    if not settings.corpora:
        folder = _world_text(settings.world_tokens, workers=workers, progress=progress)
        label = f"micro-world, {settings.world_tokens:,} tokens"
        return [_Text(find_corpus(folder, part_bytes=settings.part_bytes), label)]
    found: list[_Text] = []
    problems: list[Problem] = []
    for folder in dict.fromkeys(settings.corpora):
        try:
            found.append(_Text(find_corpus(folder, part_bytes=settings.part_bytes), str(folder)))
        except SourceError as error:
            problems += error.problems
    if problems:
        raise SourceError(problems)
    return found


def _world_text(num_tokens: int, *, workers: int, progress: Progress) -> Path:
    folder = cache_folder() / "world-text" / f"{text_version()}-{num_tokens}"

    def build(work: Path) -> None:
        jobs = [Job(piece.name, _write_piece, (piece, work / "text")) for piece in pieces(num_tokens)]
        _run_jobs("write micro-world text", jobs, workers=workers, progress=progress)

    return stage(folder, build, resume=True) / "text"


def _write_piece(piece: Piece, folder: Path, *, progress: Progress) -> None:
    del progress
    if not (folder / piece.name).exists():
        write_piece(piece, folder)


def _part_folder(part: Part, index: Path, settings: ContaminationSettings, out: Path) -> Path:
    key = fingerprint([FORMAT, _code(), index.name, part.identity, part.kind, part.compressed, settings.column])
    return out / "parts" / key


def _scan(folders: Mapping[Part, Path], index: Path, column: str | None, *, workers: int, progress: Progress) -> None:
    jobs = [
        Job(part.name, _scan_job, (part, index, column, folder))
        for part, folder in folders.items()
        if not is_done(folder)
    ]
    _run_jobs("read corpus", jobs, workers=workers, progress=progress, before=len(folders) - len(jobs))


def _run_jobs(name: str, jobs: Sequence[Job], *, workers: int, progress: Progress, before: int = 0) -> None:
    """All jobs, told as one: `before` of them were done earlier."""
    total, done = before + len(jobs), before

    def tell(event: ProgressEvent) -> None:
        nonlocal done
        done += event.done >= event.total
        progress(ProgressEvent(name, min(done, total), total, event.job))

    if min(workers, len(jobs)) > 1:
        in_processes(jobs, workers=min(workers, len(jobs)), progress=tell)
    else:
        for job in jobs:
            job.function(*job.arguments, progress=silent)
            tell(ProgressEvent(job.name, 1, 1))
    if done < total:  # the last events of other processes may not have been told
        progress(ProgressEvent(name, total, total))


def _scan_job(part: Part, index: Path, column: str | None, folder: Path, *, progress: Progress) -> None:
    del progress
    stage(folder, lambda work: scan_part(part, _wanted(index), column, work))


@lru_cache(maxsize=1)
def _wanted(index: Path) -> Wanted:
    return Wanted(np.load(index / "hashes.npy"), read_json(index / "about.json")["sizes"])


def scan_part(part: Part, wanted: Wanted, column: str | None, folder: Path) -> None:
    """Look through one part of a corpus and write what was found into `folder`: found.parquet and about.json."""
    reader = PartReader(part, column=column, words_after=LONGEST_RUN - 1)
    scan = Scan(wanted)
    for block in reader.blocks():
        scan.add(block)
    scan.frame().write_parquet(folder / "found.parquet", compression="zstd", statistics=False)
    about = {
        "words": scan.num_words,
        "lines": reader.num_lines,
        "read": reader.num_read,
        "bad_lines": dict(reader.unreadable.lines),
        "where": reader.unreadable.where,
        "bad_file": reader.unreadable.file,
    }
    write_json(folder / "about.json", about)


def _collect(texts: Sequence[_Text], folders: Mapping[Part, Path]) -> tuple[pl.DataFrame, list[tuple[str, str]]]:
    """What was found in all parts, and (corpus, file) by number; raises SourceError where too much was unreadable."""
    found = Found()
    files: list[tuple[str, str]] = []
    problems: list[Problem] = []
    for text in texts:
        before, name = 0, ""
        for part in text.corpus.parts:
            if part.name != name:
                before, name = 0, part.name
                files.append((text.label, name))
            about = read_json(folders[part] / "about.json")
            found.add(pl.read_parquet(folders[part] / "found.parquet"), part=len(files) - 1, lines_before=before)
            text.words += about["words"]
            text.lines += about["read"]
            text.bad_lines.update(about["bad_lines"])
            for reason, lines in about["where"].items():
                where = text.where.setdefault(reason, [])
                where += [f"{name}:{before + line}" for line in lines[: corpora.LINES_REMEMBERED - len(where)]]
            if about["bad_file"]:
                text.bad_files[name] = about["bad_file"]
            before += about["lines"]
        try:
            check_readable(text.corpus.folder, text.bad_files, text.corpus.num_files, text.bad_lines, text.lines)
        except SourceError as error:
            problems += error.problems
    if problems:
        raise SourceError(problems)
    return found.frame(), files


# The rows


def _evaluated(
    settings: ContaminationSettings, recipe: Recipe | None, ledger: Ledger, *, workers: int, progress: Progress
) -> tuple[dict[str, Evaluated], list[str]]:
    """The tasks with their rows, and the names of those whose rows could not be had."""
    catalogs = settings.catalogs or (() if recipe is None else recipe.catalogs)
    catalog = load_catalog(*(catalogs or (("flan",) if settings.corpora else ("world",))))
    data_root, world_seed = settings.data_root, settings.world_seed
    if recipe is not None:
        data_root = data_root or (None if recipe.data_root is None else Path(recipe.data_root))
        world_seed = recipe.world_seed if world_seed is None else world_seed
    source = SourceSettings(data_root=data_root, world_seed=world_seed or 0)
    tasks = _chosen(catalog, settings, _tasks_of(settings.run))
    jobs = {task.name: StoreJob(task, "test", source, settings.limit) for task in tasks}

    def tell(done: int, total: int, task: str) -> None:
        progress(ProgressEvent("read rows", done, total, task))

    build_stores(jobs.values(), workers=workers, progress=tell)
    found: dict[str, Evaluated] = {}
    problems: list[Problem] = []
    for number, (name, job) in enumerate(jobs.items(), 1):
        tell(number, len(jobs), name)
        try:
            rows = read_store(job, ledger)
        except SourceError as error:
            problems += error.problems
            ledger.note(f"{name}: left out, its rows could not be read: {error}")
            continue
        if len(rows):
            found[name] = Evaluated(job.task, rows)
        else:
            ledger.note(f"{name}: left out, it has no test rows")
    check_lost(tasks, ledger)
    if not found or (problems and (settings.tasks or settings.run)):
        raise SourceError([Problem("rows", "no task could be read"), *problems] if not found else problems)
    return found, sorted(set(jobs) - set(found))


def _tasks_of(run: Path | None) -> list[str] | None:
    if run is None:
        return None
    return sorted(read_samples(run / "samples.parquet").filter(pl.col("split") == "test")["task"].unique())


def _chosen(catalog: Catalog, settings: ContaminationSettings, of_run: Sequence[str] | None) -> list[Task]:
    """The tasks named, those of the clusters named, those of the run, or all there are."""
    problems: list[Problem] = []
    tasks: dict[str, Task] = {}
    if settings.tasks and settings.hold_out:
        raise ConfigError("give either --hold-out with clusters or --tasks with task names")
    for name in settings.tasks or settings.hold_out or of_run or catalog.tasks:
        try:
            found = catalog.in_cluster(name) if settings.hold_out else (catalog.task(name),)
        except OpenflanError as error:
            problems += error.problems
            continue
        tasks.update({task.name: task for task in found})
    if settings.tasks and of_run is not None:
        problems += [
            Problem(str(settings.run), f"has not evaluated {name}", f"it has {', '.join(of_run)}")
            for name in tasks
            if name not in of_run
        ]
    if problems:
        raise ConfigError(problems)
    return [task for task in tasks.values() if of_run is None or task.name in of_run]


def _index(evaluated: Mapping[str, Evaluated], out: Path, progress: Progress) -> Path:
    """The folder of all runs looked for: hashes.npy, and about.json with their lengths and each task's n."""
    content = {name: [one.task.content(), one.rows.sha] for name, one in evaluated.items()}

    def build(work: Path) -> None:
        run_lengths: dict[str, int] = {}
        sizes: set[int] = set()
        hashes = np.zeros(0, np.uint64)
        for number, (name, one) in enumerate(evaluated.items(), 1):
            progress(ProgressEvent("index rows", number, len(evaluated), name))
            lengths = [batch.words.lengths for batch in row_words(one.task, one.rows)]
            run_lengths[name] = run_length(np.concatenate(lengths))
            parts = [hashes]
            for batch in row_words(one.task, one.rows):
                for size, found in wanted_hashes(batch, run_lengths[name]):
                    sizes.add(size)
                    parts.append(found)
            hashes = np.unique(np.concatenate(parts))
        np.save(work / "hashes.npy", hashes)
        write_json(work / "about.json", {"n": run_lengths, "sizes": sorted(sizes)})

    return stage(out / "index" / fingerprint([FORMAT, _code(), content]), build)


@cache
def _code() -> str:
    """Names the code and the library that decide what is found; hashes may change with the library's version."""
    digests = [file_sha256(Path(str(module.__file__))) for module in (rules, ngrams, corpora)]
    probe = [int(value) for value in words_of(["a probe of the words' hashes"]).hashes]
    return fingerprint([digests, probe, importlib.metadata.version("polars")])


# Verdicts


def _judge(
    evaluated: Mapping[str, Evaluated],
    index: Path,
    found: pl.DataFrame,
    files: Sequence[tuple[str, str]],
    out: Path,
    progress: Progress,
) -> tuple[dict[str, Any], pl.DataFrame]:
    """The table of each task, and every row's verdict; writes hits.parquet and rows.parquet."""
    judge = Judge(np.load(index / "hashes.npy"), found)
    tables: dict[str, Any] = {}
    hits: list[pl.DataFrame] = []
    rows: list[pl.DataFrame] = []
    for number, (name, one) in enumerate(evaluated.items(), 1):
        progress(ProgressEvent("judge rows", number, len(evaluated), name))
        frames: list[pl.DataFrame] = []
        where: dict[Rule, Counter[str]] = {rule: Counter() for rule in RULES}
        for batch in row_words(one.task, one.rows):
            verdicts, batch_hits = judge.judge(batch, one.n)
            chunk = list(one.rows[batch.rows.start : batch.rows.stop])
            frames.append(
                pl.DataFrame(
                    {
                        "task": [name] * len(chunk),
                        "row_id": [row.id for row in chunk],
                        "group": [row.group for row in chunk],
                        "words": verdicts.lengths,
                        "paper": verdicts.dirty["paper"],
                        "strict": verdicts.dirty["strict"],
                        "coverage": verdicts.coverage,
                        "gold": [list(row.gold) for row in chunk],
                    },
                    schema=ROW_SCHEMA | {"gold": pl.List(pl.Int32())},
                )
            )
            for rule in RULES:
                where[rule].update(verdicts.where[rule])
            hits.append(_hit_frame(name, chunk, batch.rows.start, batch_hits, files))
        table = pl.concat(frames)
        rows.append(table)
        tables[name] = _table(table, one, where)
    judged = pl.concat(rows)
    _write(judged.select(list(ROW_SCHEMA)), out / ROWS)
    _write(pl.concat(hits), out / HITS)
    return tables, judged


def _hit_frame(
    task: str, rows: Sequence[ReadRow], first: int, hits: Sequence[Hit], files: Sequence[tuple[str, str]]
) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {
        "task": [task] * len(hits),
        "row_id": [rows[hit.row - first].id for hit in hits],
        "corpus": [files[hit.part_number][0] for hit in hits],
        "file": [files[hit.part_number][1] for hit in hits],
    }
    columns |= {name: [getattr(hit, name) for hit in hits] for name in HIT_SCHEMA if name not in columns}
    return pl.DataFrame({name: columns[name] for name in HIT_SCHEMA}, schema=HIT_SCHEMA)


def _table(rows: pl.DataFrame, one: Evaluated, where: Mapping[Rule, Counter[str]]) -> dict[str, Any]:
    fewest = {"paper": rules.SHORTEST_RUN, "strict": rules.SHORTEST_ROW}
    verdicts = {
        rule: {
            "dirty": (dirty := int(rows[rule].sum())),
            "clean": rows.height - dirty,
            "share_clean": 1 - dirty / rows.height,
            "too_short": int((rows["words"] < fewest[rule]).sum()),
            "where": dict(sorted(where[rule].items())),
        }
        for rule in RULES
    }
    return {
        "n": rows.height,
        "run_words": one.n,
        "median_words": float(cast("float", rows["words"].median())),
        **verdicts,
        "coverage": {
            "mean": float(cast("float", rows["coverage"].mean())),
            **{f"at_least_{share:.0%}": int((rows["coverage"] >= share).sum()) for share in COVERAGES},
        },
    }


def _write(frame: pl.DataFrame, path: Path) -> None:
    with atomic_path(path) as part:
        frame.write_parquet(part, compression="zstd", compression_level=3, row_group_size=65_536, statistics=False)


# A run's scores


def _scores(
    settings: ContaminationSettings, recipe: Recipe, evaluated: Mapping[str, Evaluated], rows: pl.DataFrame
) -> dict[str, Any]:
    """Each arm's score on each task's rows that the run evaluated: all, clean, dirty."""
    assert settings.run is not None
    samples = read_samples(settings.run / "samples.parquet")
    samples = samples.filter((pl.col("split") == "test") & pl.col("task").is_in(list(evaluated)))
    _check_rows(settings.run, samples, rows)
    scored = samples.filter(pl.col("value").is_not_null())
    arms: dict[str, dict[str, Any]] = {}
    for arm, name in sorted(scored.select("arm", "task").unique().iter_rows()):
        task = evaluated[name].task
        dirty = rows.filter((pl.col("task") == name) & pl.col(settings.rule))["row_id"].to_list()
        mine = scored.filter((pl.col("arm") == arm) & (pl.col("task") == name))
        found = on_subsets(
            mine,
            metric(task.metrics[0]),
            dirty,
            seed=settings.seed,
            names=["contamination", name],
            resamples=settings.resamples,
        )
        arms.setdefault(arm, {})[name] = dict(found)
    return {"model": recipe.model, "fingerprint": recipe.fingerprint, "arms": arms}


def _check_rows(run: Path, samples: pl.DataFrame, rows: pl.DataFrame) -> None:
    """Raises RunError where the run's rows are not those that were read now."""
    asked = samples.select("task", "row_id", "group", "gold").unique(["task", "row_id"], maintain_order=True)
    joined = asked.join(rows, on=["task", "row_id"], how="left", suffix="_read")
    other = joined.filter(pl.col("group_read").is_null() | (pl.col("group_read") != pl.col("group")) | _gold_differs())
    problems = [
        Problem(
            f"{run}: {name}",
            f"{len(ids)} of its rows are not those read here, the first is {ids[0]}",
            "give the --data-root, --catalog and --world-seed of the run",
        )
        for name, ids in _by_task(other)
    ]
    if problems:
        raise RunError(problems)


def _gold_differs() -> pl.Expr:
    # Templates may order the options anew only with their own words for them, so gold is the row's in all.
    return (pl.col("gold").list.len() > 0) & (pl.col("gold") != pl.col("gold_read"))


def _by_task(frame: pl.DataFrame) -> Iterator[tuple[str, list[str]]]:
    for name in sorted(frame["task"].unique()):
        yield name, sorted(frame.filter(pl.col("task") == name)["row_id"])
