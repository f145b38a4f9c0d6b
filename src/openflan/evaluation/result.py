"""What a run found, as plain data: numbers only, so that equal runs are equal bytes.

Takes nothing, gives the record `evaluate` fills and reports read. Read next: `evaluate.py`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from openflan.artifacts import write_json
from openflan.errors import RunError

FORMAT = 1
DIGITS = 6
"""Digits after the point that are kept: more would record rounding noise."""


class Matched(TypedDict):
    """How many written answers equal an option, begin with one, or name none (and count as wrong)."""

    equal: int
    begins: int
    unmatched: int


class TaskResult(TypedDict):
    """One arm on one task. Values are 0..1, save for correlations (-1..1)."""

    metric: str
    n: int
    """Distinct test items scored."""
    templates: int
    shots: float
    """Exemplars in the prompts, on average: fewer than asked for where not all fit."""
    mean: float
    """Over templates, of the metric over items."""
    std: float
    """Deviation over these templates (0 with one)."""
    by_template: dict[str, float]
    best_dev: float | None
    """Test value of the template that is best on dev; None where there are no dev samples."""
    best_dev_template: str | None
    low: float
    high: float
    """95 % interval, groups of items resampled."""
    chance: float | None
    """Of a uniform guess; None where nothing is ranked."""
    majority: float | None
    """Of always giving the commonest answer."""
    ties: int
    """Decisions with another option exactly as likely; the lowest index was taken."""
    near_ties: int
    """Decisions closer than the rounding noise of the model's arithmetic; exact ties among them."""
    unscored: int
    """Test samples that the metric leaves out, with a reason in samples.parquet. Of these only written answers that
    match no option have a part in other numbers: in `also`, where they count as wrong, and in `matched`."""
    also: dict[str, float]
    """Further metrics and components, means over templates."""
    matched: NotRequired[Matched]
    """Only where answers were written and matched to the options: such a task was not rank-classified."""


class ClusterResult(TypedDict):
    """One arm on one cluster."""

    mean: float
    """Macro: the unweighted mean of its tasks' means."""
    micro: float
    """The mean of its tasks' means weighted by their items."""
    low: float
    high: float
    n: int
    shots: float
    """The mean of its tasks' exemplars."""
    tasks: list[str]
    chance: float | None
    majority: float | None
    """The mean of its tasks' rates of always giving the most frequent answer."""


class Difference(TypedDict):
    """One arm minus another on the same items."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided exchange test."""
    p_holm: float
    """Adjusted over all entries of the same level: all clusters and pairs, or all tasks and pairs."""
    n: int
    """Items both arms answered."""
    smallest_detectable: float | None
    """True difference this sample would find with 80 % power; None where all groups differed alike, or not at all."""
    p_mcnemar: NotRequired[float]
    """Exact, for single tasks asked with one template in both arms and scored 0 or 1."""


class ClusterDifference(Difference):
    """A difference on a cluster, its tasks' differences within."""

    arm: str
    against: str
    cluster: str
    tasks: dict[str, Difference]


class ArmResult(TypedDict):
    """What one model, asked in one way, scored."""

    tasks: dict[str, TaskResult]
    clusters: dict[str, ClusterResult]
    seen: NotRequired[bool]
    """Only of an arm that was tuned on rows of the tasks it is asked: no zero-shot result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run found; `result.json` holds exactly these keys."""

    format: int = FORMAT
    fingerprint: str
    held_out: list[str]
    arms: dict[str, ArmResult]
    differences: list[ClusterDifference]

    def to_json(self) -> dict[str, Any]:
        """Plain data, floats rounded."""
        return rounded(asdict(self))

    def write(self, path: Path) -> None:
        """Write result.json whole or not at all."""
        write_json(path, self.to_json())

    @staticmethod
    def read(path: Path) -> "Result":
        """The result in a file. Raises RunError where there is none this version reads."""
        try:
            value: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: {error}") from error
        fields = cast(dict[str, Any], value if isinstance(value, dict) else {})
        if fields.get("format") != FORMAT:
            raise RunError(f"{path}: not a result of format {FORMAT}")
        names = ("fingerprint", "held_out", "arms", "differences")
        if missing := [name for name in names if name not in fields]:
            raise RunError(f"{path}: without {', '.join(missing)}")
        return Result(**{name: fields[name] for name in names})


def rounded(value: Any) -> Any:
    """Plain data with every float rounded to `DIGITS` digits, and no negative zero.

    >>> rounded({"mean": 0.12345678, "low": -1e-9})
    {'mean': 0.123457, 'low': 0.0}
    """
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in cast(list[Any], value)]
    return value
