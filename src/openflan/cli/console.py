"""Talk and progress on stderr, results on stdout."""

import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.rule import Rule
from rich.text import Text

from openflan.studies.progress import Progress as Report
from openflan.studies.progress import ProgressEvent

out = Console()
if not out.is_terminal:
    out.width = 10_000  # a program that reads on wants whole lines
err = Console(stderr=True, highlight=False)
LONGEST_RULE = 120

SECONDS_BETWEEN_LINES = 10
"""How often a job that is not shown as a bar says where it stands."""


def rank() -> int:
    """This process's number among those that torchrun started; 0 where it did not."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many processes torchrun started; 1 where it did not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def emit_json(value: Any) -> None:
    """One JSON document on stdout."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False, sort_keys=True)
    sys.stdout.write("\n")


def heading(title: Text | str) -> None:
    """A line on stdout that begins with a title; brackets in it are no markup."""
    rule = Rule(Text.assemble(title), align="left", style="dim")
    out.print(rule, width=min(out.width, LONGEST_RULE))


@contextmanager
def shown_progress(*, quiet: bool) -> Generator[Report, None, None]:
    """A progress report that draws one bar per job on a terminal, and writes a line now and then elsewhere.

    Of the processes that torchrun starts only the first shows any.
    """
    if quiet or rank() > 0:
        yield lambda event: None
    elif err.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn(), TextColumn("[dim]{task.fields[note]}"))  # fmt: skip
        with Progress(*columns, console=err) as bars:
            tasks: dict[str, TaskID] = {}

            def draw(event: ProgressEvent) -> None:
                if event.job not in tasks:
                    tasks[event.job] = bars.add_task(event.job, total=event.total, note="")
                bars.update(tasks[event.job], completed=event.done, total=event.total, note=event.note)

            yield draw
    else:
        yield _line_report()


def _line_report() -> Report:
    last: dict[str, float] = {}
    began: dict[str, tuple[float, int]] = {}

    def tell(event: ProgressEvent) -> None:
        now = time.monotonic()
        start, done = began.setdefault(event.job, (now, event.done))
        if event.done >= event.total or now - last.get(event.job, 0) >= SECONDS_BETWEEN_LINES:
            last[event.job] = now
            left = (now - start) / (event.done - done) * (event.total - event.done) if event.done > done else 0
            still = f"{timedelta(seconds=round(left))} left" if left else ""
            words = (event.job, f"{event.done:,} of {event.total:,}", event.note, still)
            err.print("  ".join(filter(None, words)), markup=False)

    return tell
