"""Work done ahead in other processes: the same results in the same order, and every kind of end is a clean one."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openflan.errors import ConfigError, ModelError, RunError
from openflan.tuning.ahead import AHEAD, can_be_sent, in_order
from tests.tuning.numbered import Noted, failing_at_5, killed_at_5, own_id

SECONDS = 60
"""How long a process is waited for before a test fails."""


def test_without_processes_each_result_is_computed_when_it_is_asked_for(tmp_path: Path) -> None:
    with contextlib.closing(in_order(Noted(tmp_path), 4, workers=0)) as results:
        assert list(itertools.islice(results, 3)) == [16, 25, 36]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5", "6"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_no_further_ahead_than_is_said(tmp_path: Path, workers: int) -> None:
    with contextlib.closing(in_order(Noted(tmp_path), 4, workers=workers)) as results:
        assert list(itertools.islice(results, 9)) == [n**2 for n in range(4, 13)]
        assert next(results) == 13**2
    made = sorted(int(path.name) for path in tmp_path.iterdir())
    assert made == list(range(4, 4 + len(made)))
    assert 10 <= len(made) <= 10 + AHEAD * workers


@pytest.mark.slow
def test_an_error_arrives_whole_and_where_its_result_would_have_come() -> None:
    with contextlib.closing(in_order(failing_at_5, 3, workers=1)) as results:
        assert [next(results), next(results)] == [3, 4]
        with pytest.raises(ModelError, match="is wrong twice") as raised:
            next(results)
    assert [problem.hint for problem in raised.value.problems] == ["", "mend it"]


@pytest.mark.slow
def test_a_killed_process_is_an_error_that_says_so() -> None:
    with (
        contextlib.closing(in_order(killed_at_5, 3, workers=1)) as results,
        pytest.raises(RunError, match="ended without a word") as raised,
    ):
        list(itertools.islice(results, 9))
    assert "data_workers = 0" in raised.value.problems[0].hint


def test_what_cannot_be_sent_is_said_before_anything_starts() -> None:
    assert can_be_sent(own_id) and not can_be_sent(lambda number: number)
    with pytest.raises(ConfigError, match="cannot be sent to a process"):
        next(in_order(lambda number: number, 0, workers=1))


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    with contextlib.suppress(FileNotFoundError):
        # Z: it has ended, and only its exit status waits to be asked for.
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    return True


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_it_works_for(sent: signal.Signals) -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "tests.tuning.numbered"]
    run = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert run.stdout is not None
    workers = {int(word) for word in run.stdout.readline().split()}
    assert workers and run.pid not in workers and all(map(is_running, workers))
    if sent == signal.SIGINT:
        os.killpg(run.pid, sent)  # as a terminal's Ctrl-C
    else:
        run.send_signal(sent)
    run.wait(SECONDS)
    run.stdout.close()
    until = time.monotonic() + SECONDS
    while any(map(is_running, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def ids_of_two(results: Iterator[int]) -> set[int]:
    workers: set[int] = set()
    for worker in itertools.islice(results, 1, None):
        workers.add(worker)
        if len(workers) == 2:
            break
    return workers


@pytest.mark.slow
def test_a_signal_to_end_is_left_to_the_process_that_is_worked_for() -> None:
    with contextlib.closing(in_order(own_id, 0, workers=2)) as results:
        workers = ids_of_two(results)
        for worker in workers:
            os.kill(worker, signal.SIGTERM)
        assert set(itertools.islice(results, 20)) <= workers
        assert all(map(is_running, workers))


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_end_a_process_that_is_only_starting(sent: signal.Signals) -> None:
    others = set(multiprocessing.active_children())
    with contextlib.closing(in_order(own_id, 0, workers=2)) as results:
        next(results)
        workers = {child.pid for child in multiprocessing.active_children() if child not in others}
        assert len(workers) == 2
        for worker in workers:
            assert worker is not None
            os.kill(worker, sent)
        assert set(itertools.islice(results, 20)) <= workers


@pytest.mark.slow
def test_where_one_process_was_killed_the_others_end() -> None:
    with contextlib.closing(in_order(own_id, 0, workers=2)) as results:
        workers = ids_of_two(results)
        os.kill(min(workers), signal.SIGKILL)
        with pytest.raises(RunError, match="ended without a word"):
            list(itertools.islice(results, 1000))
    assert not any(map(is_running, workers))
