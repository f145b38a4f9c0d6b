"""Finished work is named by its content, marked last, and never redone."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from openflan.errors import Problem, RunError

DONE = "DONE"

_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "the file is larger than this system lets it become"}  # fmt: skip
_held: set[Path] = set()
"""Folders that this process is alone in."""

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
    part = _part(path)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")


def check_writable(path: Path) -> None:
    """Raise OSError now, not when the work is done, if `atomic_path` could not write there."""
    part = _part(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises RunError where it holds something else."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(Problem(str(path), f"is not JSON: {error}")) from error


@contextlib.contextmanager
def alone_in(folder: Path, *, waiting: str | None = None) -> Generator[None, None, None]:
    """The block run by one process at a time for each folder; `waiting` is said where another has to end first.

    Inside a block of its own the process goes on at once. The lock goes with the process that holds it, however that
    ends. A file or operating system without locks has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    place = folder.resolve()
    if place in _held:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting is not None:
                    logger.warning("%s: another process works there; %s", folder, waiting)
                fcntl.flock(handle, fcntl.LOCK_EX)
        _held.add(place)
        yield
    finally:
        _held.discard(place)
        os.close(handle)


def is_taken(folder: Path) -> bool:
    """Whether a process is in a block of `alone_in` with this folder; False where there are no locks."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, FileNotFoundError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


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
    work = final.with_name(f"{final.name}.part" if resume else f"{final.name}.{platform.node()}.{os.getpid()}.part")
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


@contextlib.contextmanager
def room_for(path: Path, num_bytes: int, meanwhile: str) -> Generator[None, None, None]:
    """Turn what is raised when the disk has no room for the file or folder `path` into RunError.

    num_bytes: about what it takes. meanwhile: what the user has all the same.
    """
    try:
        yield
    except Exception as error:
        reason = _no_room(error)
        if reason is None:
            raise
        free = shutil.disk_usage(next(parent for parent in path.parents if parent.is_dir())).free
        needed = f"it takes about {num_bytes / 2**20:,.1f} MiB, and {free / 2**20:,.1f} MiB are free"
        cure = f"make room and give the same command again: {meanwhile}"
        raise RunError(Problem(str(path), f"{reason}: {needed}", cure)) from error


def _no_room(error: BaseException) -> str | None:
    """Why there is no room, if that is what an error, or one it was raised from, says."""
    if isinstance(error, OSError):
        return _NO_ROOM.get(error.errno or 0)
    for cause in (error.__cause__, error.__context__):
        if cause is not None and (reason := _no_room(cause)) is not None:
            return reason
    # safetensors writes the number into its text.
    number = re.search(r"os error (\d+)", str(error))
    return _NO_ROOM.get(int(number[1])) if number else None
