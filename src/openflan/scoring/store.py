"""Work kept on disk as it is done: a killed evaluation continues where it stood.

`in_chunks` takes items in plan order and a function over one chunk of them, gives that function's records. A `Journal`
keeps single records as they come, in any order. Read next: `rank.py` and `remote.py`, which work through these.
"""

import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from openflan.artifacts import fingerprint, write_text
from openflan.errors import RunError

CHUNK_ITEMS = 256
"""Items of one chunk: a killed run loses at most the work on these."""

Item = TypeVar("Item")
Record = dict[str, Any]
log = logging.getLogger(__name__)


def in_chunks(
    items: Sequence[Item],
    compute: Callable[[Sequence[Item]], list[Record]],
    *,
    key: Any,
    content: Callable[[Item], Any],
    folder: Path | None,
    chunk_items: int = CHUNK_ITEMS,
    borders: Sequence[int] | None = None,
) -> Iterator[tuple[list[Record], bool]]:
    """The records of each chunk in order, and whether they were read from `folder` rather than computed.

    Chunks have `chunk_items` items, or end where `borders` (0, ..., len(items)) says.

    A chunk's file is named by its place and the fingerprint of (key, content of its items),
    `chunk-00012-<16 hex>.jsonl`, one record a line. What a chunk computes depends on nothing outside it, so a run that
    was killed and continued ends with the same bytes as one that was not. Records must come back from JSON as they
    went in.

    Raises RunError where a stored chunk does not hold one record for each item.
    """
    if borders is None:
        borders = [*range(0, len(items), chunk_items), len(items)]
    for index, (start, stop) in enumerate(itertools.pairwise(borders)):
        chunk = items[start:stop]
        if folder is None:
            yield compute(chunk), False
            continue
        path = folder / f"chunk-{index:05d}-{fingerprint([key, [content(item) for item in chunk]])}.jsonl"
        if path.exists():
            yield _read(path, len(chunk)), True
            continue
        records = compute(chunk)
        lines = (json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False) for record in records)
        write_text(path, "".join(itertools.chain.from_iterable((line, "\n") for line in lines)))
        yield records, False


def _read(path: Path, expected: int) -> list[Record]:
    try:
        records: list[Record] = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run again") from error
    if len(records) != expected:
        raise RunError(f"{path} holds {len(records)} records, expected {expected}; delete it and run again")
    log.debug("read %d records from %s", expected, path)
    return records


class Journal:
    """Records by key, each written to the end of `folder`/journal.jsonl the moment it is there; for several threads.

    For work that is bought piece by piece: a kill at any moment loses only what was under way. Without a folder nothing
    is kept. A line cut short by a kill counts as not there.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / "journal.jsonl"
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        if self._path is None or not self._path.exists():
            return
        torn = 0
        for line in self._path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                entry: Any = json.loads(line)
                self._records[entry["key"]] = entry["record"]
            except (ValueError, KeyError, TypeError):
                torn += bool(line)
        if torn:
            log.warning("%s: %d lines cannot be read; what they held is done again", self._path, torn)

    def get(self, key: str) -> Record | None:
        """The record kept under `key`."""
        return self._records.get(key)

    def put(self, key: str, record: Record) -> None:
        """Keep a record; it must come back from JSON as it went in."""
        with self._lock:
            self._records[key] = record
            if self._path is None:
                return
            line = json.dumps({"key": key, "record": record}, sort_keys=True, ensure_ascii=False, allow_nan=False)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A line break on both sides: the line before may have been cut short.
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")
