"""How far work has come, told to whoever shows it; the library itself prints nothing."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One job's state: `done` of `total` in the unit the job counts in, and a few words."""

    job: str
    done: int
    total: int
    note: str = ""


Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Shows nothing."""
    del event
