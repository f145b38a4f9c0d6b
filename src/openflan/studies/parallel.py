"""Independent jobs in several processes, with their progress told in this one."""

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from openflan.studies.progress import Progress, ProgressEvent, silent

_POLL_SECONDS = 0.2
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
"""For the C library of the workers: a step's large temporaries stay with the process instead of being paged in anew."""
_send: Progress = silent


@dataclass(frozen=True, slots=True)
class Job:
    """A module-level function and its arguments; it is also given `progress`."""

    name: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]


def in_processes(jobs: Sequence[Job], *, workers: int, progress: Progress) -> None:
    """Run all jobs, at most `workers` at once; the first error ends the others that have not begun and is raised."""
    os.environ.update({name: value for name, value in _KEEP_MEMORY.items() if name not in os.environ})
    context = get_context("spawn")  # a forked child of a process that has used torch's threads can hang
    events: Any = context.Queue()
    stop = threading.Event()
    reader = threading.Thread(target=_tell, args=(events, progress, stop), daemon=True)
    reader.start()
    try:
        with ProcessPoolExecutor(workers, context, _start_worker, (events, os.getpid())) as pool:
            futures = [pool.submit(_work, job) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        stop.set()
        reader.join()


def _tell(events: Any, progress: Progress, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            progress(events.get(timeout=_POLL_SECONDS))
        except queue.Empty:
            continue


def _start_worker(events: Any, parent: int) -> None:
    global _send
    _send = events.put

    def leave_with_parent() -> None:
        # A killed parent cannot tell its workers; without this they would go on and write beside its successor.
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _work(job: Job) -> None:
    _send(ProgressEvent(job.name, 0, 1, "started"))
    job.function(*job.arguments, progress=_send)
    _send(ProgressEvent(job.name, 1, 1, "done"))
