"""Numbered work done ahead in other processes, and given back in order.

Takes a picklable function of a number, gives its results for one number after another. Read next: `feed.py`.
"""

import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from openflan.errors import ConfigError, Problem, RunError

T = TypeVar("T")

AHEAD = 2
"""Results for each process that are under way or wait to be taken; what bounds memory."""

LEFT_TO_PARENT = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C goes to all processes of a terminal, SIGTERM often to all of a job: the one that started them decides."""

_function: Callable[[int], Any] | None = None
"""A worker process's; sent once, when it starts."""


def in_order(function: Callable[[int], T], first: int, *, workers: int) -> Generator[T, None, None]:
    """function(first), function(first + 1), ..., the same whatever `workers` is. Does not end; close it.

    workers: processes that compute ahead, at most `AHEAD` results each; with 0 each result is computed when it is asked
    for. The first result is computed here, while the processes start.

    An error of `function` is raised where its result would have come. Raises ConfigError where `function` cannot be
    sent to a process, RunError where a process dies.
    """
    if workers == 0:
        yield from map(function, itertools.count(first))
        return
    sent = _pickled(function)
    # A forked child of a process that has used torch's threads can hang.
    pool = ProcessPoolExecutor(workers, _Context(), _start_worker, (sent,))
    try:
        numbers = itertools.count(first + 1)
        ahead = deque(pool.submit(_call, next(numbers)) for _ in range(AHEAD * workers))
        yield function(first)
        while True:
            result = ahead.popleft().result()
            ahead.append(pool.submit(_call, next(numbers)))
            yield result
    except BrokenProcessPool as error:
        hint = "was it killed, or out of memory? `data_workers = 0` does the work in this process"
        raise RunError(Problem("data_workers", "a process that prepares data ended without a word", hint)) from error
    finally:
        pool.shutdown(cancel_futures=True)


def can_be_sent(function: Callable[[int], Any]) -> bool:
    """Whether another process can be given the function."""
    try:
        _pickled(function)
    except ConfigError:
        return False
    return True


def _pickled(function: Callable[[int], Any]) -> bytes:
    try:
        return pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        hint = "use functions and classes of a module, or data_workers = 0"
        raise ConfigError(Problem("data_workers", f"the data cannot be sent to a process: {error}", hint)) from error


class _Process(SpawnProcess):
    def start(self) -> None:
        """The process begins with the signals held back, as one that came before it ignores them could end it."""
        resource_tracker.ensure_running()  # its own start lets them through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_PARENT)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def terminate(self) -> None:
        """Workers pass over SIGTERM, which a pool that one of them has left sends to the others before it waits."""
        self.kill()


class _Context(SpawnContext):
    Process = _Process


def _start_worker(sent: bytes) -> None:
    global _function
    for number in LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_PARENT)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    # One process is one core, so that workers share a machine as they are told to.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _function = pickle.loads(sent)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(number: int) -> Any:
    assert _function is not None
    return _function(number)
