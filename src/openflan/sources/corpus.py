"""The text of a corpus: folders of .txt, .jsonl, .parquet and .csv files, read in blocks of bounded size.

Takes folders, gives `Part`s, which any process reads on its own as `Block`s of texts with the lines they stand on.
What cannot be read is counted with its reason. Read next: `../mixture/contamination.py`.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet

from openflan.errors import Problem, SourceError
from openflan.sources.texts import texts_within

Kind = Literal["txt", "jsonl", "parquet", "csv"]
KINDS: tuple[Kind, ...] = ("txt", "jsonl", "parquet", "csv")
COMPRESSED = ("", "gz", "zst")
FIELD = "text"
"""The column that is read where a record has it and no other is named."""

BLOCK_CHARS = 2_000_000
"""Characters of text that are in memory at one time, save that one record may be longer."""
PART_BYTES = 64_000_000
"""Plain .txt and .jsonl files are cut into parts of this size, so that several processes share a large one."""
LONGEST_PIECE = 1 << 20
"""Bytes of one line of a .txt file that are read at one time; a longer line comes in pieces."""
LONGEST_OVERLAP = 1 << 20
"""Bytes of the next part that are read at most for runs of words that cross its border."""
LONGEST_RECORD = 64 << 20
"""Bytes of the longest record that is read."""
MOST_UNREADABLE = 0.05
"""Share of a corpus' files, or lines, that may be unreadable before that is an error."""
LINES_REMEMBERED = 5

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a corpus, or a range of its bytes."""

    folder: Path
    """The corpus."""
    name: str
    """The file's path within it, with forward slashes."""
    kind: Kind
    compressed: str
    start: int
    """Lines that begin at this byte or later..."""
    end: int | None
    """...and before this one belong to the part; None is the file's end."""
    size: int
    modified: int
    """Of the file, in bytes and nanoseconds since 1970."""

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def identity(self) -> list[str | int | None]:
        """What names the part's content without reading it."""
        return [str(self.path.resolve()), self.size, self.modified, self.start, self.end]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The files of one folder."""

    folder: Path
    parts: tuple[Part, ...]
    """In order of file name, then of place in the file."""
    skipped: Mapping[str, int]
    """Files of other kinds, by ending."""

    @property
    def num_files(self) -> int:
        return len({part.name for part in self.parts})


@dataclass(slots=True)
class Block:
    """Texts in the order of the file. A run of words may go on from one text to the next of the same document.

    A .txt file is a document; so is a record of the other kinds, whose texts follow one another as its fields do.
    """

    texts: list[str] = field(default_factory=list[str])
    lines: list[int] = field(default_factory=list[int])
    """Line or record of the part on which a text begins, from 1; 0 for one that belongs to the next part."""
    documents: list[int] = field(default_factory=list[int])
    """Number of the document, ascending within a part."""
    chars: int = 0

    def add(self, text: str, line: int, document: int) -> None:
        self.texts.append(text)
        self.lines.append(line)
        self.documents.append(document)
        self.chars += len(text)


@dataclass(slots=True)
class Unreadable:
    """What of a part could not be read, and why."""

    lines: Counter[str] = field(default_factory=Counter[str])
    """Lines or records, by reason."""
    where: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """The first few of them."""
    file: str = ""
    """Why reading ended before the file did."""

    def add(self, reason: str, line: int) -> None:
        self.lines[reason] += 1
        remembered = self.where.setdefault(reason, [])
        if len(remembered) < LINES_REMEMBERED:
            remembered.append(line)


def find_corpus(folder: Path, *, part_bytes: int = PART_BYTES) -> Corpus:
    """Every file of a kind that can be read, in the folder and those within it; hidden ones are passed over.

    Raises SourceError where there is none.
    """
    if not folder.is_dir():
        raise SourceError(Problem(str(folder), "no such folder", "a corpus is a folder of text files"))
    parts: list[Part] = []
    skipped: Counter[str] = Counter()
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder)
        if not path.is_file() or any(step.startswith(".") for step in name.parts):
            continue
        kind, compressed = _kind(path)
        if kind is None:
            skipped[path.suffix or path.name] += 1
            continue
        status = path.stat()
        cut = kind in ("txt", "jsonl") and not compressed
        ends = list(range(part_bytes, status.st_size, part_bytes)) if cut else []
        for start, end in zip([0, *ends], [*ends, None], strict=True):
            parts.append(
                Part(folder, name.as_posix(), kind, compressed, start, end, status.st_size, status.st_mtime_ns)
            )
    if not parts:
        wanted = ", ".join(f".{kind}" for kind in KINDS)
        others = ", ".join(f"{count} {ending}" for ending, count in skipped.most_common(5))
        raise SourceError(
            Problem(
                str(folder),
                "has no text to read" + (f", only {others}" if others else ", it is empty"),
                f"a corpus has files {wanted}; .txt, .jsonl and .csv also as .gz or .zst",
            )
        )
    return Corpus(folder, tuple(parts), dict(sorted(skipped.items())))


def _kind(path: Path) -> tuple[Kind | None, str]:
    compressed = next((ending for ending in ("gz", "zst") if path.name.lower().endswith(f".{ending}")), "")
    name = path.name.lower().removesuffix(f".{compressed}")
    kind: Kind | None = next((known for known in KINDS if name.endswith(f".{known}")), None)
    return (None if kind == "parquet" and compressed else kind), compressed


class PartReader:
    """Reads one part; when `blocks` has ended, the counts and `unreadable` hold what was found."""

    def __init__(self, part: Part, *, column: str | None = None, words_after: int = 0) -> None:
        """`column`: the text column of records; None takes `FIELD` where there is one, else every text of a record.

        `words_after`: words of the next part of a .txt file that are read too, for runs that cross its border.
        """
        self.part, self._column, self._words_after = part, column, words_after
        self.unreadable = Unreadable()
        self.num_lines = 0
        """Lines that begin in the part, empty ones too; records of .parquet and .csv."""
        self.num_read = 0
        """Lines and records that were read as text."""
        self._document = 0

    def blocks(self) -> Iterator[Block]:
        """The part's texts."""
        read = {"txt": self._text, "jsonl": self._jsonl, "parquet": self._parquet, "csv": self._csv}[self.part.kind]
        block = Block()
        try:
            for text, line in read():
                block.add(text, line, self._document)
                if block.chars >= BLOCK_CHARS:
                    yield block
                    block = Block()
        except (OSError, EOFError, ValueError, zlib.error, csv.Error, pa.ArrowException) as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.unreadable.file = said if not self.num_lines else f"after line {self.num_lines:,}: {said}"
        if block.texts:
            yield block

    # Each reader gives (text, line) and keeps `_document` up to date.

    def _text(self) -> Iterator[tuple[str, int]]:
        end, wanted = self.part.end, self._words_after
        with self._open() as file:
            position = self._begin(file)
            rest, line, inside, after = b"", 0, False, False
            while raw := file.readline(LONGEST_PIECE):
                if not inside and end is not None and position >= end:
                    after, line = True, 0
                if after:
                    if wanted <= 0 or position >= (end or 0) + LONGEST_OVERLAP:
                        break
                    wanted -= len(_WORD.findall(raw.decode("utf-8", "ignore")))
                elif not inside:
                    self.num_lines += 1
                    self.num_read += 1
                    line = self.num_lines
                position += len(raw)
                inside = not raw.endswith(b"\n")
                whole, rest = _cut(rest + raw) if inside else (rest + raw, b"")
                yield from self._decoded(whole, line)
            yield from self._decoded(rest, line)

    def _decoded(self, raw: bytes, line: int) -> Iterator[tuple[str, int]]:
        try:
            yield raw.decode("utf-8"), line
        except UnicodeDecodeError:
            self._document += 1  # no run of words goes on across what is left out
            if line:
                self.unreadable.add("not UTF-8", line)
                self.num_read -= 1

    def _jsonl(self) -> Iterator[tuple[str, int]]:
        end = self.part.end
        with self._open() as file:
            position = self._begin(file)
            while (end is None or position < end) and (raw := file.readline(LONGEST_RECORD)):
                self.num_lines += 1
                position += len(raw)
                if len(raw) == LONGEST_RECORD and not raw.endswith(b"\n"):
                    self.unreadable.add(f"longer than {LONGEST_RECORD >> 20} MiB", self.num_lines)
                    position += _skip_line(file)
                    continue
                if not raw.strip():
                    continue
                try:
                    record = json.loads(raw.decode("utf-8-sig" if self.num_lines == 1 else "utf-8"))
                except UnicodeDecodeError:
                    self.unreadable.add("not UTF-8", self.num_lines)
                except ValueError:
                    self.unreadable.add("not JSON", self.num_lines)
                except RecursionError:
                    self.unreadable.add("nested too deeply", self.num_lines)
                else:
                    yield from self._record(record)

    def _parquet(self) -> Iterator[tuple[str, int]]:
        with pyarrow.parquet.ParquetFile(self.part.path) as file:
            names: list[str] = file.schema_arrow.names
            chosen = self._column or (FIELD if FIELD in names else None)
            if chosen is not None and chosen not in names:
                raise ValueError(f"has no column {chosen!r}, its columns are {', '.join(names)}")
            columns = [chosen] if chosen else [name for name in names if _may_hold_text(file.schema_arrow, name)]
            if not columns:
                raise ValueError("has no column of text")
            for batch in file.iter_batches(batch_size=1_000, columns=columns):
                for record in batch.to_pylist():
                    self.num_lines += 1
                    yield from self._record(record)

    def _csv(self) -> Iterator[tuple[str, int]]:
        csv.field_size_limit(LONGEST_RECORD)
        with self._open() as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            names = list(rows.fieldnames or ())
            if self._column is not None and self._column not in names:
                raise ValueError(f"has no column {self._column!r}, its columns are {', '.join(names)}")
            self.num_lines = 1
            for row in rows:
                # A record may span lines; it is named by its last, the only one the reader tells.
                self.num_lines = rows.line_num
                if None in row:
                    self.unreadable.add("more cells than columns", self.num_lines)
                else:
                    yield from self._record(row)

    def _record(self, record: Any) -> Iterator[tuple[str, int]]:
        line = self.num_lines
        if self._column is not None and not (isinstance(record, Mapping) and self._column in record):
            self.unreadable.add(f"no field {self._column!r}", line)
            return
        if isinstance(record, Mapping):
            fields = cast("Mapping[str, Any]", record)
            chosen = self._column or FIELD
            record = fields[chosen] if chosen in fields else list(fields.values())
        texts = list(texts_within(record))
        if not texts and record not in (None, "", [], {}):
            self.unreadable.add("holds no text", line)
            return
        self.num_read += 1
        self._document += 1
        for text in texts:
            yield text, line

    def _open(self) -> BinaryIO:
        path = self.part.path
        if self.part.compressed == "gz":
            return cast("BinaryIO", gzip.open(path, "rb"))
        if self.part.compressed == "zst":
            return io.BufferedReader(cast("Any", pa.input_stream(str(path), compression="zstd")), 1 << 16)
        return path.open("rb")

    def _begin(self, file: BinaryIO) -> int:
        """Moves to the first line that begins in the part; returns its place."""
        if not self.part.start:
            return 0
        file.seek(self.part.start - 1)
        return self.part.start - 1 + _skip_line(file)


def _skip_line(file: BinaryIO) -> int:
    """Reads to the end of the line; returns the number of bytes."""
    passed = 0
    while raw := file.readline(LONGEST_PIECE):
        passed += len(raw)
        if raw.endswith(b"\n"):
            break
    return passed


def _cut(raw: bytes) -> tuple[bytes, bytes]:
    """A piece of a long line, cut where no word is cut: after its last white space, else between two characters."""
    space = max(raw.rfind(b" "), raw.rfind(b"\t"), raw.rfind(b"\r"))
    if space >= 0:
        return raw[: space + 1], raw[space + 1 :]
    if len(raw) < 4 * LONGEST_PIECE:
        return b"", raw
    end = len(raw)
    while end > len(raw) - 4 and raw[end - 1] & 0xC0 == 0x80:
        end -= 1
    return raw[: end - 1], raw[end - 1 :]


def _may_hold_text(schema: Any, name: str) -> bool:
    kind = schema.field(name).type
    if pa.types.is_dictionary(kind):  # of texts that are often the same
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_nested(kind)


def check_readable(folder: Path, files: Mapping[str, str], num_files: int, lines: Mapping[str, int], read: int) -> None:
    """Raises SourceError where more than `MOST_UNREADABLE` of a corpus' files or lines could not be read.

    `files`: reason by file name; `lines`: number by reason; `read`: lines that could be read.
    """
    problems: list[Problem] = []
    if len(files) > MOST_UNREADABLE * num_files:
        said = [f"{name}: {reason}" for name, reason in list(files.items())[:LINES_REMEMBERED]]
        problems.append(Problem(str(folder), f"{len(files)} of {num_files} files cannot be read: {'; '.join(said)}"))
    lost = sum(lines.values())
    if lost > MOST_UNREADABLE * (lost + read):
        problems.append(Problem(str(folder), f"{lost:,} of {lost + read:,} lines cannot be read: {_counted(lines)}"))
    if problems:
        raise SourceError(problems)


def _counted(reasons: Mapping[str, int]) -> str:
    pairs: Iterable[tuple[str, int]] = Counter(reasons).most_common()
    return ", ".join(f"{count:,} {reason}" for reason, count in pairs)
