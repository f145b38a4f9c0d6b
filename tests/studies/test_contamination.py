"""Planted overlaps are all found, wherever they stand, and nothing else is; scores are those by hand."""

import gzip
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from openflan.artifacts import write_text
from openflan.catalog.load import load_catalog
from openflan.errors import ConfigError, RunError, SourceError
from openflan.evaluation.metrics import metric
from openflan.evaluation.samples import SampleScore, sample_frame, write_samples
from openflan.evaluation.subsets import on_subsets
from openflan.mixture.contamination import Judge, Scan, Wanted, row_words, run_length, wanted_hashes
from openflan.mixture.ngrams import HashSet
from openflan.rendering.render import ReadRow
from openflan.reports.contamination import paper_tasks, render_contamination, write_contamination
from openflan.sources import corpus as corpora
from openflan.sources.corpus import Block, PartReader, find_corpus
from openflan.studies import contamination as study
from openflan.studies.contamination import DATA, HITS, ROWS, ContaminationSettings, contamination
from openflan.studies.recipe import Recipe

WORDS = [
    f"{a}{b}" for a in ("ba", "de", "fi", "go", "lu", "mo", "ne", "pa", "ri", "su") for b in ("n", "rt", "lk", "st")
]
"""Forty words, so that runs of eight never meet by chance."""


def text(seed: int, length: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(WORDS, length))


PREMISES = [text(i, 30) for i in range(40)]
HYPOTHESES = [text(1_000 + i, 9) for i in range(40)]


@pytest.fixture(scope="module", autouse=True)
def _small_table() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction] -- pytest calls it
    """The set of hashes itself, with a table that is quick to make."""
    with mock.patch.object(HashSet, "FILTER_BITS", 12):
        yield


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of two tasks: RTE from invented words, CoPA short."""
    root = tmp_path_factory.mktemp("data")
    pairs = zip(PREMISES, HYPOTHESES, strict=True)
    rows = [{"premise": p, "hypothesis": h, "label": i % 2} for i, (p, h) in enumerate(pairs)]
    copa = [
        {"premise": text(2_000 + i, 5), "choice1": text(3_000 + i, 4), "choice2": text(4_000 + i, 4),
         "question": "cause", "label": i % 2}
        for i in range(12)
    ]  # fmt: skip
    for name, table in (("rte", rows), ("copa", copa)):
        for split in ("train", "validation"):
            write_text(root / name / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in table))
    return root


def look(corpus: Path, data_root: Path, out: Path, *, workers: int = 1, **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"corpora": (corpus,), "tasks": ("rte",), "data_root": data_root} | more
    return contamination(ContaminationSettings(**values), out, workers=workers)


def dirty(out: Path, rule: str, task: str = "rte") -> set[int]:
    """The dirty rows, by their place in the file."""
    rows = pl.read_parquet(out / ROWS).filter((pl.col("task") == task) & pl.col(rule))
    return {int(row_id.split("/")[1]) for row_id in rows["row_id"]}


def lines_of_noise(count: int, seed: int = 50_000) -> list[str]:
    return [text(seed + i, 14) + "." for i in range(count)]


def as_jsonl(texts: Sequence[str], field: str = "text") -> str:
    return "".join(json.dumps({"id": i, field: one}) + "\n" for i, one in enumerate(texts))


def plant(corpus: Path) -> dict[int, str]:
    """A corpus with rows 0 to 13 planted, each in its way; row number -> file and line where its run begins."""
    corpus.mkdir(parents=True)
    noise = lines_of_noise(400)
    place: dict[int, str] = {}
    # At the very start and the very end, without a line break behind it.
    (corpus / "a.txt").write_text("\n".join([PREMISES[0], *noise[:50], PREMISES[1]]))
    place |= {0: "a.txt:1", 1: "a.txt:52"}
    # Case and punctuation changed; split over line breaks, in the middle of the run of 13.
    words = PREMISES[3].split()
    lines = [*noise[:10], "“" + ", ".join(PREMISES[2].upper().split()) + "!”", *noise[10:20]]
    lines += [" ".join(words[:6]), "", " ".join(words[6:17]), " ".join(words[17:])]
    (corpus / "b.txt").write_bytes("\r\n".join(lines).encode())
    place |= {2: "b.txt:11", 3: "b.txt:22"}
    with gzip.open(corpus / "c.txt.gz", "wt") as file:
        file.write("\n".join([*noise[20:30], f"so {PREMISES[4]} then", *noise[30:40]]))
    place[4] = "c.txt.gz:11"
    folder = corpus / "inner" / "deep"
    folder.mkdir(parents=True)
    records = [*noise[40:60], PREMISES[5] + "\n" + noise[61], *noise[60:70]]
    (folder / "d.jsonl").write_text(as_jsonl(records))
    place[5] = "inner/deep/d.jsonl:21"
    (folder / "e.jsonl").write_text(
        json.dumps({"a": [{"b": PREMISES[6]}], "n": 1}) + "\n\n" + json.dumps({"q": PREMISES[7], "r": None}) + "\n"
    )
    place |= {6: "inner/deep/e.jsonl:1", 7: "inner/deep/e.jsonl:3"}
    with gzip.open(corpus / "f.jsonl.gz", "wt") as file:
        file.write(as_jsonl([*noise[70:90], PREMISES[8]]))
    place[8] = "f.jsonl.gz:21"
    table = pa.table({"id": list(range(31)), "text": [*noise[90:120], PREMISES[9]]})
    pa.parquet.write_table(table, corpus / "g.parquet", row_group_size=7)
    place[9] = "g.parquet:31"
    quoted = PREMISES[10].replace(" ", ', "', 1)
    (corpus / "h.csv").write_text("id,text\n1," + noise[0] + '\n2,"' + quoted.replace('"', '""') + '"\n')
    place[10] = "h.csv:3"
    with pa.CompressedOutputStream(str(corpus / "i.txt.zst"), "zstd") as file:
        file.write("\n".join([*noise[120:130], PREMISES[11]]).encode())
    place[11] = "i.txt.zst:11"
    # Twelve words of a row are one too few for the paper's rule, and enough for the strict one.
    (corpus / "j.txt").write_text("\n".join([noise[130], " ".join(PREMISES[12].split()[3:15]), noise[131]]))
    # The two halves of a run in two records, and in two files, are no run.
    (corpus / "k.jsonl").write_text(
        as_jsonl([" ".join(PREMISES[13].split()[:7]), " ".join(PREMISES[13].split()[7:14])])
    )
    (corpus / "l1.txt").write_text(" ".join(PREMISES[14].split()[:7]))
    (corpus / "l2.txt").write_text(" ".join(PREMISES[14].split()[7:14]))
    (corpus / "notes.md").write_text(PREMISES[15])
    return place


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    corpus = tmp_path_factory.mktemp("corpus") / "text"
    return corpus, plant(corpus)


def test_all_that_is_planted_is_found_where_it_stands_and_nothing_else(
    planted: tuple[Path, dict[int, str]], data_root: Path, tmp_path: Path
) -> None:
    corpus, place = planted
    found = look(corpus, data_root, tmp_path / "out")
    table = found["tasks"]["rte"]
    assert table["run_words"] == 13
    assert dirty(tmp_path / "out", "paper") == set(place)
    assert dirty(tmp_path / "out", "strict") == {*place, 12}
    assert table["paper"]["dirty"] == len(place) and table["n"] == 40
    assert table["paper"]["where"] == {"premise": len(place)}
    assert found["corpora"][0]["skipped"] == {".md": 1}
    hits = pl.read_parquet(tmp_path / "out" / HITS).filter(pl.col("rule") == "paper")
    spans = {row["row_id"]: row for row in hits.iter_rows(named=True)}
    for number, where in place.items():
        hit = spans[f"validation/{number}"]
        assert f"{hit['file']}:{hit['line']}" == where
        assert hit["span"] == PREMISES[number] and len(hit["ngram"].split()) == 13 and hit["count"] == 1


@pytest.mark.parametrize("pieces", [(60, 600), (173, 1_000)])
def test_borders_of_parts_and_blocks_hide_nothing(
    planted: tuple[Path, dict[int, str]], data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    pieces: tuple[int, int],
) -> None:  # fmt: skip
    corpus, place = planted
    whole = look(corpus, data_root, tmp_path / "whole")
    chars, part_bytes = pieces
    monkeypatch.setattr(corpora, "BLOCK_CHARS", chars)
    monkeypatch.setattr(corpora, "LONGEST_PIECE", chars)
    cut = look(corpus, data_root, tmp_path / "cut", part_bytes=part_bytes)
    assert cut == whole and set(place) == dirty(tmp_path / "cut", "paper")
    assert pl.read_parquet(tmp_path / "cut" / HITS).equals(pl.read_parquet(tmp_path / "whole" / HITS))


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one(
    planted: tuple[Path, dict[int, str]], data_root: Path, tmp_path: Path
) -> None:
    corpus, _ = planted
    for workers in (1, 2):
        out = tmp_path / str(workers)
        write_contamination(look(corpus, data_root, out, workers=workers, part_bytes=4_000), out)
    for name in (DATA, HITS, ROWS, "report.html", "figures/shares.png"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def by_hand(row: str, corpus: Sequence[str], n: int) -> tuple[bool, bool]:
    """Whether a row is dirty, under both rules, word by word."""
    words = [re.findall(r"\w+", one.lower()) for one in corpus]

    def occurs(run: list[str]) -> bool:
        return any(run == one[i : i + len(run)] for one in words for i in range(len(one) - len(run) + 1))

    own = re.findall(r"\w+", row.lower())

    def any_run(size: int) -> bool:
        return any(occurs(own[i : i + size]) for i in range(len(own) - size + 1))

    paper = any_run(n) or (8 <= len(own) < n and occurs(own))
    return paper, any_run(8) or (4 <= len(own) < 8 and occurs(own))


FEW = st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=24).map(" ".join), min_size=1, max_size=5)


@settings(deadline=None, max_examples=25)
@given(FEW, FEW, st.integers(8, 13), st.integers(1, 3))
def test_the_vectorised_rules_are_the_rules(rows: list[str], corpus: list[str], n: int, blocks: int) -> None:
    task = load_catalog("flan").task("sst2")
    read = [ReadRow(f"test/{i}", {"phrase": one}, {}, ("x", "y"), (0,), (), f"{i}") for i, one in enumerate(rows)]
    (batch,) = row_words(task, read)
    wanted = dict[int, list[Any]]()
    for size, hashes in wanted_hashes(batch, n):
        wanted.setdefault(size, []).append(hashes)
    every = np.unique(np.concatenate([np.zeros(0, np.uint64), *(h for group in wanted.values() for h in group)]))
    scan = Scan(Wanted(every, sorted(wanted)))
    for start in range(0, len(corpus), blocks):
        block = Block()
        for number, one in enumerate(corpus[start : start + blocks], start + 1):
            block.add(one, number, number)
        scan.add(block)
    verdicts, _ = Judge(every, scan.frame()).judge(batch, n)
    expected = [by_hand(one, corpus, n) for one in rows]
    assert list(zip(verdicts.dirty["paper"].tolist(), verdicts.dirty["strict"].tolist(), strict=True)) == expected


def test_n_is_the_fifth_percentile_between_eight_and_thirteen(
    planted: tuple[Path, dict[int, str]], data_root: Path, tmp_path: Path
) -> None:
    lengths = np.array([10] * 6 + [11] * 94)
    assert run_length(lengths) == 10 and run_length(lengths + 20) == 13 and run_length(lengths - 5) == 8
    found = look(planted[0], data_root, tmp_path / "out", tasks=("copa",))
    assert found["tasks"]["copa"]["run_words"] == 13 and found["tasks"]["copa"]["paper"]["dirty"] == 0


def test_options_and_answers_are_part_of_a_row(data_root: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    row = json.loads((data_root / "copa" / "validation.jsonl").read_text().splitlines()[3])
    (corpus / "a.txt").write_text(f"{row['premise']}. {row['choice1']}, {row['choice2']}")
    found = look(corpus, data_root, tmp_path / "out", tasks=("copa",))
    assert dirty(tmp_path / "out", "paper", "copa") == {3}
    assert found["tasks"]["copa"]["paper"]["where"] == {"across": 1}
    assert found["tasks"]["copa"]["coverage"]["at_least_80%"] == 1


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_copy_of_the_dataset_is_found_though_its_fields_are_short(
    kind: str, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in (data_root / "copa" / "validation.jsonl").read_text().splitlines()]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    if kind == "jsonl":
        (corpus / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        cells = [rows[0].keys(), *(map(str, row.values()) for row in rows)]
        (corpus / "a.csv").write_text("".join(",".join(row) + "\n" for row in cells))
    else:
        pa.parquet.write_table(pa.Table.from_pylist(rows), corpus / "a.parquet")
    monkeypatch.setattr(corpora, "BLOCK_CHARS", 40)
    look(corpus, data_root, tmp_path / "out", tasks=("copa",))
    assert dirty(tmp_path / "out", "paper", "copa") == set(range(12))
    hits = pl.read_parquet(tmp_path / "out" / HITS).filter(pl.col("rule") == "paper").sort("row_id")
    places = {int(row["row_id"].split("/")[1]): row["line"] for row in hits.iter_rows(named=True)}
    assert places == {number: number + 1 + (kind == "csv") for number in range(12)}


def test_the_fields_of_two_records_are_no_run(data_root: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    row = json.loads((data_root / "copa" / "validation.jsonl").read_text().splitlines()[3])
    halves = {"a": row["premise"], "b": row["choice1"]}, {"a": row["choice2"]}
    (corpus / "a.jsonl").write_text("".join(json.dumps(half) + "\n" for half in halves))
    look(corpus, data_root, tmp_path / "out", tasks=("copa",))
    assert dirty(tmp_path / "out", "paper", "copa") == set()


def test_plain_english_holds_none_of_these_rows_and_all_that_is_put_into_it(
    shared: Path, data_root: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    with gzip.open(shared / "data" / "text" / "novels_valid.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read(400_000).split("\n")
    (corpus / "a.txt").write_text("\n".join(lines))
    assert look(corpus, data_root, tmp_path / "clean")["tasks"]["rte"]["strict"]["dirty"] == 0
    lines.insert(700, PREMISES[20])
    (corpus / "a.txt").write_text("\n".join(lines))
    look(corpus, data_root, tmp_path / "dirty")
    assert dirty(tmp_path / "dirty", "strict") == {20}


# Again, and after a kill


def test_a_second_call_computes_nothing_and_a_changed_file_alone_is_read_anew(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    plant(corpus)
    first = look(corpus, data_root, out)
    read: list[str] = []
    scan = study.scan_part
    monkeypatch.setattr(study, "scan_part", lambda part, *rest: (read.append(part.name), scan(part, *rest))[1])
    monkeypatch.setattr(study, "Judge", lambda *_: pytest.fail("judged anew"))
    assert look(corpus, data_root, out) == first and read == []
    monkeypatch.undo()
    monkeypatch.setattr(study, "scan_part", lambda part, *rest: (read.append(part.name), scan(part, *rest))[1])
    (corpus / "j.txt").write_text(PREMISES[30])
    assert look(corpus, data_root, out)["tasks"]["rte"]["paper"]["dirty"] == 1 + first["tasks"]["rte"]["paper"]["dirty"]
    assert read == ["j.txt"]


KILLABLE = """
import sys, time
from pathlib import Path
from openflan.studies import contamination as study
scan = study.scan_part
def slow(part, *rest):
    print(part.name, flush=True)
    time.sleep(0.3)
    return scan(part, *rest)
study.scan_part = slow
study.contamination(study.ContaminationSettings(
    corpora=(Path(sys.argv[1]),), tasks=("rte",), data_root=Path(sys.argv[2])), Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_with_the_same_bytes(
    planted: tuple[Path, dict[int, str]], data_root: Path, tmp_path: Path
) -> None:
    corpus, _ = planted
    command = [sys.executable, "-c", KILLABLE, str(corpus), str(data_root), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = [process.stdout.readline().strip() for _ in range(4)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(seen[:3]).isdisjoint(again) and seen[3] in again
    look(corpus, data_root, tmp_path / "straight")
    for name in (DATA, HITS, ROWS):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(data_root: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    line = " ".join(lines_of_noise(40)) + "\n"
    with gzip.open(corpus / "a.txt.gz", "wt", compresslevel=1) as file:
        for _ in range(9_000):
            file.write(line)
        file.write(PREMISES[0])
    code = KILLABLE.replace("time.sleep(0.3)", "") + (
        # Not getrusage, which counts what this process had before it became that one.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", code, str(corpus), str(data_root), str(tmp_path / "out")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    assert 9_000 * len(line) > 24_000_000 and dirty(tmp_path / "out", "paper") == {0}
    assert peak < 700_000, "kilobytes, of which some 350,000 are imported libraries"


# What cannot be read


def test_unreadable_lines_and_files_are_counted_with_their_reasons(data_root: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    records = as_jsonl(lines_of_noise(200)).splitlines(keepends=True)
    records[4:4] = ["{broken\n", '{"text": 3}\n']
    (corpus / "a.jsonl").write_text("".join(records))
    noise = [line.encode() for line in lines_of_noise(100)]
    half = PREMISES[5].split()
    noise[3:3] = [" ".join(half[:8]).encode(), b"caf\xe9 au lait", " ".join(half[8:16]).encode()]
    (corpus / "b.txt").write_bytes(b"\n".join(noise))
    for number in range(20):
        (corpus / f"c{number}.txt").write_text(text(number + 70_000, 30))
    whole = gzip.compress("\n".join(lines_of_noise(5_000)).encode())
    (corpus / "z.txt.gz").write_bytes(whole[: len(whole) // 2])
    found = look(corpus, data_root, tmp_path / "out")
    unreadable = found["corpora"][0]["unreadable"]
    assert unreadable["lines"] == {
        "holds no text": {"count": 1, "where": ["a.jsonl:6"]},
        "not JSON": {"count": 1, "where": ["a.jsonl:5"]},
        "not UTF-8": {"count": 1, "where": ["b.txt:5"]},
    }
    assert list(unreadable["files"]) == ["z.txt.gz"] and "after line" in unreadable["files"]["z.txt.gz"]
    # What stands around a line that cannot be read is no run of words.
    assert dirty(tmp_path / "out", "paper") == set() and dirty(tmp_path / "out", "strict") == {5}


def test_a_corpus_that_is_mostly_unreadable_is_an_error(data_root: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    (first / "a.jsonl").write_text(as_jsonl(lines_of_noise(10)) + "nonsense\n")
    (second / "b.parquet").write_bytes(b"PAR1")
    (second / "c.txt").write_text("a text")
    with pytest.raises(SourceError) as caught:
        look(first, data_root, tmp_path / "out", corpora=(first, second))
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == 2 and "1 of 11 lines cannot be read: 1 not JSON" in said[0] and "1 of 2 files" in said[1]


def test_folders_without_text_are_all_named(data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.pdf").write_text("x")
    folders = tuple(tmp_path / name for name in ("missing", "empty", "other"))
    with pytest.raises(SourceError) as caught:
        look(folders[0], data_root, tmp_path / "out", corpora=folders)
    said = [str(problem) for problem in caught.value.problems]
    assert "no such folder" in said[0] and "it is empty" in said[1] and "1 .pdf" in said[2]


def test_tasks_whose_rows_cannot_be_had_are_named(data_root: Path, tmp_path: Path, capsys: Any) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text(PREMISES[0])
    found = look(corpus, data_root, tmp_path / "out", tasks=(), hold_out=("nli",))
    assert list(found["tasks"]) == ["rte"] and {"cb", "snli"} <= set(found["left_out"])
    Console(width=100).print(render_contamination(found))
    said = " ".join(capsys.readouterr().out.split())
    assert "Of 40 rows of 1 task, 1 is dirty" in said and "not looked for: anli_r1" in said
    with pytest.raises(SourceError, match="cb"):
        look(corpus, data_root, tmp_path / "out", tasks=("cb", "rte"))


def test_a_named_column_must_be_there(data_root: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.jsonl").write_text(as_jsonl([PREMISES[0]], "body"))
    look(corpus, data_root, tmp_path / "out", column="body")
    assert dirty(tmp_path / "out", "paper") == {0}
    with pytest.raises(SourceError, match="no field 'text'"):
        look(corpus, data_root, tmp_path / "out", column="text")


def test_a_folder_of_something_else_is_not_written_into(data_root: Path, tmp_path: Path) -> None:
    write_text(tmp_path / "out" / "recipe.toml", "")
    with pytest.raises(RunError, match=r"recipe\.toml"):
        look(tmp_path, data_root, tmp_path / "out")
    with pytest.raises(ConfigError, match="lies within the corpus"):
        look(tmp_path, data_root, tmp_path / "new")


def test_lines_and_records_come_with_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nfour")
    corpus = find_corpus(tmp_path, part_bytes=5)
    lines: list[tuple[str, int]] = []
    for part in corpus.parts:
        reader = PartReader(part)
        lines += [(one.strip(), line) for b in reader.blocks() for one, line in zip(b.texts, b.lines, strict=True)]
    assert [one for one, _ in lines if one] == ["one", "two", "four"] and len(corpus.parts) == 3


def test_texts_that_are_stored_as_categories_are_read(tmp_path: Path) -> None:
    body, kinds = pa.array(["one", "two", "one"]).dictionary_encode(), pa.array([1, 2, 1]).dictionary_encode()
    pa.parquet.write_table(pa.table({"title": ["a", "b", "c"], "body": body, "kind": kinds}), tmp_path / "a.parquet")
    (part,) = find_corpus(tmp_path).parts
    assert [block.texts for block in PartReader(part).blocks()] == [["a", "one", "b", "two", "c", "one"]]


# With a run


def sample(arm: str, row: int, value: float, template: str, group: str | None = None) -> SampleScore:
    return SampleScore(
        arm=arm, task="rte", cluster="nli", split="test", row_id=f"validation/{row}",
        group=group or f"validation/{row}", template=template, shots=0, options=("yes", "no"), logprobs=(-1.0, -2.0),
        tokens=(1, 1), prediction="yes", predicted=0, gold=(row % 2,), references=("yes",), value=value, prompt_sha="x",
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, data_root: Path) -> Path:
    """A finished run on rows 0 to 29 of RTE: `tuned` is right on every third, and on all that are planted."""
    folder = tmp_path / "run"
    recipe = Recipe(model="world:small-early", hold_out=("nli",), data_root=str(data_root))
    write_text(folder / "recipe.toml", recipe.to_toml())
    samples = [
        sample(arm, row, float(row % 3 == 0 or (arm == "tuned" and row < 12)), template)
        for arm in ("tuned", "untuned")
        for row in range(30)
        for template in ("a", "b")
    ]
    write_samples(sample_frame(samples), folder / "samples.parquet")
    write_text(folder / "DONE", "")
    return folder


def test_scores_on_clean_and_dirty_rows_are_those_by_hand(
    planted: tuple[Path, dict[int, str]], run: Path, tmp_path: Path
) -> None:
    corpus, _ = planted
    settings = ContaminationSettings(corpora=(corpus,), run=run)
    found = contamination(settings, tmp_path / "out")
    assert list(found["tasks"]) == ["rte"] and found["tasks"]["rte"]["n"] == 40
    tuned, untuned = (found["run"]["arms"][arm]["rte"] for arm in ("tuned", "untuned"))
    assert (tuned["n"], tuned["n_clean"], tuned["n_dirty"], tuned["templates"]) == (30, 18, 12, 2)
    # Rows 12 to 29 are clean, of which 12, 15, 18, 21, 24 and 27 are right; all dirty ones are.
    assert tuned["clean"] == pytest.approx(6 / 18, abs=1e-6) and tuned["dirty"] == 1
    assert tuned["all"] == pytest.approx(18 / 30, abs=1e-6)
    assert tuned["clean_minus_all"]["mean"] == pytest.approx(6 / 18 - 18 / 30, abs=1e-6)
    assert tuned["relative"] == pytest.approx((6 / 18 - 18 / 30) / (18 / 30), abs=1e-5)
    assert tuned["clean_minus_all"]["reading"] == "lower" and tuned["clean_minus_all"]["high"] < 0
    assert untuned["clean_minus_dirty"]["mean"] == pytest.approx(6 / 18 - 4 / 12, abs=1e-6)
    assert untuned["clean_minus_all"]["reading"] == "not shown"
    page = write_contamination(found, tmp_path / "out").read_text()
    assert "clean rows are shown to score lower than all rows on rte" in page and "not attested" in page
    assert (tmp_path / "out" / "figures" / "clean-minus-all.png").stat().st_size > 1_000


def test_the_strict_rule_moves_rows_between_the_subsets(
    planted: tuple[Path, dict[int, str]], run: Path, tmp_path: Path
) -> None:
    settings = ContaminationSettings(corpora=(planted[0],), run=run, rule="strict")
    assert contamination(settings, tmp_path / "out")["run"]["arms"]["tuned"]["rte"]["n_dirty"] == 13


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_of_any_width_names_every_task(
    width: int, planted: tuple[Path, dict[int, str]], run: Path, tmp_path: Path, capsys: Any
) -> None:
    found = contamination(ContaminationSettings(corpora=(planted[0],), run=run), tmp_path / "out")
    Console(width=width).print(render_contamination(found))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("rte  ") for line in lines) and not any("…" in line for line in lines)


def test_a_run_on_other_rows_is_refused(planted: tuple[Path, dict[int, str]], run: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(run / "samples.parquet")
    write_samples(frame.with_columns(gold=pl.lit([1], pl.List(pl.Int32()))), run / "samples.parquet")
    with pytest.raises(RunError, match="15 of its rows are not those read here"):
        contamination(ContaminationSettings(corpora=(planted[0],), run=run), tmp_path / "out")
    (run / "DONE").unlink()
    with pytest.raises(RunError, match="no finished run"):
        contamination(ContaminationSettings(corpora=(planted[0],), run=run), tmp_path / "out")


def test_tasks_that_the_run_lacks_are_named(planted: tuple[Path, dict[int, str]], run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        contamination(ContaminationSettings(corpora=(planted[0],), run=run, tasks=("copa", "rtee")), tmp_path / "out")
    assert len(caught.value.problems) == 2


def test_items_of_a_group_are_drawn_together() -> None:
    grouped = sample_frame([sample("tuned", row, float(row < 10), "a", f"g{row // 10}") for row in range(30)])
    alone = sample_frame([sample("tuned", row, float(row < 10), "a") for row in range(30)])
    widths: list[float] = []
    for frame in (grouped, alone):
        ids = {f"validation/{row}" for row in range(5, 25)}
        found = on_subsets(frame, metric("accuracy"), ids, seed=0, names=["x"], resamples=400)
        difference = found["clean_minus_all"]
        assert difference is not None and difference["low"] is not None and difference["high"] is not None
        widths.append(difference["high"] - difference["low"])
    assert widths[0] > widths[1]


# Pages and the micro-world


def test_nothing_from_files_stands_unescaped_on_the_page(data_root: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "<script>"
    corpus.mkdir()
    (corpus / "<b>.txt").write_text(PREMISES[0])
    found = look(corpus, data_root, tmp_path / "out")
    page = write_contamination(found, tmp_path / "out").read_text()
    assert "<script>" not in page and "<b>.txt" not in page and "&lt;b&gt;.txt:1" in page
    assert not re.search(r"""(src|href)=["'](?!#)""", page)


def test_the_papers_shares_are_those_of_its_counts() -> None:
    """The attested shares, rounded as they are, follow from the counts."""
    for task in paper_tasks().values():
        assert task["share_clean"] == pytest.approx(task["clean"] / task["n"], abs=1.01e-3)
    catalog = load_catalog("flan")
    assert set(paper_tasks()) <= set(catalog.tasks)


@pytest.mark.slow
def test_without_a_corpus_the_micro_worlds_own_text_is_read(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from openflan.cli.app import app

    command = ["study", "contamination", "--tasks", "world_fact_check,world_cause", "--world-tokens", "60000"]
    command += ["--limit", "40", "--workers", "1", "--quiet", "--json", "--out"]
    first, second = (CliRunner().invoke(app, [*command, str(tmp_path / name)]) for name in ("a", "b"))
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert first.stdout == second.stdout and (tmp_path / "a" / "report.html").exists()
    assert found["corpora"][0]["name"] == "micro-world, 60,000 tokens" and found["corpora"][0]["words"] > 30_000
    # Claims about the tables of knowledge are what the text tells; causes of the evaluation realm are not.
    assert found["tasks"]["world_fact_check"]["strict"]["dirty"] > 0
    assert found["tasks"]["world_cause"]["paper"]["dirty"] == 0
