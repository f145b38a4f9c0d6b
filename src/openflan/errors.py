"""The error tree. Everything a user can cause is an `OpenflanError`; `assert` is for our own invariants.

The command line exits with 2 for a ConfigError, which another command line would cure, and with 1 for the others.

OpenflanError
  CatalogError    a task, template or cluster is wrong or unknown
  SourceError     rows cannot be read, or too many of them are unusable
  ConfigError     a recipe key is unknown, missing or out of range
  LeakageError    a held-out task would be trained on, or the base model was
  ModelError      a checkpoint cannot do what was asked
  RunError        a run folder is missing, unfinished or another recipe's
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where it is, what it is, and what to do about it."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.hint})" if self.hint else "")


class OpenflanError(Exception):
    """Base of every error a user can cause. Carries all problems found, not only the first."""

    def __init__(self, problems: str | Problem | Sequence[Problem]) -> None:
        if isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = () if isinstance(problems, str) else tuple(problems)
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, self.problems)))


class CatalogError(OpenflanError):
    """A task, template or cluster is wrong or unknown."""


class SourceError(OpenflanError):
    """Rows cannot be read, or too many of them are unusable."""


class ConfigError(OpenflanError):
    """A recipe key or a command's argument is unknown, missing or out of range."""


class LeakageError(OpenflanError):
    """A held-out task, or text it was made from, would enter tuning, or the base model was tuned on it.

    No flag turns this off.
    """


class ModelError(OpenflanError):
    """A checkpoint is missing or cannot do what was asked of it."""


class RunError(OpenflanError):
    """A run folder is missing, unfinished or belongs to another recipe."""


def system_words(error: OSError) -> str:
    """What the system refused, in a line that begins with the path.

    >>> system_words(PermissionError(13, "Permission denied", "runs/nli"))
    'runs/nli: Permission denied'
    """
    paths = " to ".join(str(path) for path in (error.filename, error.filename2) if path is not None)
    said = error.strerror or str(error) or type(error).__name__
    return " ".join((f"{paths}: {said}" if paths else said).split())


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the (at most three) known names closest to `name`, or all of them where they are few.

    >>> nearest("rtee", ["rte", "cb", "snli", "qnli", "wnli"])
    'did you mean rte?'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"known: {', '.join(names)}" if len(names) <= 12 else f"{len(names)} are known"
