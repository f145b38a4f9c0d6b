"""Finished work is named by its content, marked last, and never redone."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

DONE = "DONE"

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where work is kept that any run may use again: OPENFLAN_CACHE, else `openflan` in the user's cache folder."""
    if given := os.environ.get("OPENFLAN_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openflan"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """Sixteen hex digits naming a JSON-able value by its content."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Generator[Path, None, None]:
    """A sibling path to write to; it takes the place of `path` only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def alone_in(folder: Path, *, waiting: str | None = None) -> Generator[None, None, None]:
    """The block run by one process at a time for each folder; `waiting` is said where another has to end first.

    The lock goes with the process that holds it, however that ends. A file system without locks has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    logger.warning("%s: another process works there; %s", folder, waiting)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_done(folder: Path) -> bool:
    """Whether `stage` finished this folder."""
    return (folder / DONE).exists()


def stage(final: Path, build: Callable[[Path], None], *, resume: bool = False) -> Path:
    """Build the folder `final` once; returns it at once where it is already done.

    `build` fills a working folder beside it that takes the final name in one rename, so a crash never leaves a
    half-made `final`. With `resume`, an earlier crash's working folder is handed to `build` again as it is.
    """
    if is_done(final):
        return final
    # A resumed folder has one name; otherwise two processes may build the same thing at once, each in its own.
    work = final.with_name(f"{final.name}.part" if resume else f"{final.name}.{os.getpid()}.part")
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    try:
        build(work)
        (work / DONE).touch()
        with alone_in(final.parent):  # others may have built it meanwhile, or be about to put theirs there
            if is_done(final):
                return final
            shutil.rmtree(final, ignore_errors=True)
            return work.replace(final)
    finally:
        if not resume:
            shutil.rmtree(work, ignore_errors=True)
