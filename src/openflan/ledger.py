"""Nothing is dropped in silence: every stage counts what it kept, dropped and shortened, with reasons."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from openflan.errors import Problem, SourceError

EXAMPLES_KEPT = 5
"""How many row ids are remembered for each reason."""


@dataclass(slots=True)
class Ledger:
    """Counts by (stage, task): rows kept, dropped by reason, shortened by reason.

    A dropped row is gone; a shortened one stays with part of its text removed.
    """

    kept: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    dropped: Counter[tuple[str, str, str]] = field(default_factory=Counter[tuple[str, str, str]])
    shortened: Counter[tuple[str, str, str]] = field(default_factory=Counter[tuple[str, str, str]])
    examples: dict[tuple[str, str, str], list[str]] = field(default_factory=dict[tuple[str, str, str], list[str]])
    notes: list[str] = field(default_factory=list[str])

    def keep(self, stage: str, task: str, count: int = 1) -> None:
        self.kept[stage, task] += count

    def drop(self, stage: str, task: str, row_id: str, reason: str) -> None:
        self.dropped[stage, task, reason] += 1
        self._remember((stage, task, reason), row_id)

    def shorten(self, stage: str, task: str, row_id: str, reason: str) -> None:
        self.shortened[stage, task, reason] += 1
        self._remember((stage, task, reason), row_id)

    def note(self, text: str) -> None:
        """Record a decision that is not about one row (say, a split taken in place of a missing one)."""
        if text not in self.notes:
            self.notes.append(text)

    def _remember(self, key: tuple[str, str, str], row_id: str) -> None:
        rows = self.examples.setdefault(key, [])
        if len(rows) < EXAMPLES_KEPT:
            rows.append(row_id)

    def check(
        self,
        stage: str,
        *,
        most_dropped: float = 0.05,
        lost: Callable[[str, str], bool] = lambda task, reason: True,
        into: str | None = None,
    ) -> None:
        """Raise SourceError if any task lost more than `most_dropped` (a share, 0..1) of its rows in `stage`.

        lost: whether a task's rows dropped for a reason are lost; others were meant to be dropped. into: the stage that
        rows kept went on to, where `stage` does not count them itself.
        """
        problems: list[Problem] = []
        for task in sorted({task for name, task, _ in self.dropped if name == stage}):
            reasons = {reason: count for (name, t, reason), count in self.dropped.items() if (name, t) == (stage, task)}
            total = sum(reasons.values()) + self.kept[stage, task]
            if into is not None:
                total += self.kept[into, task]
                total += sum(count for (name, t, _), count in self.dropped.items() if (name, t) == (into, task))
            counted = {reason: count for reason, count in reasons.items() if lost(task, reason)}
            if sum(counted.values()) > most_dropped * total:
                said = "; ".join(
                    f"{count} {reason} (e.g. {', '.join(self.examples[stage, task, reason])})"
                    for reason, count in sorted(counted.items())
                )
                problems.append(Problem(task, f"{sum(counted.values())} of {total} rows dropped in {stage}: {said}"))
        if problems:
            raise SourceError(problems)

    def merge(self, others: Iterable["Ledger"]) -> None:
        for other in others:
            self.kept.update(other.kept)
            self.dropped.update(other.dropped)
            self.shortened.update(other.shortened)
            for key, rows in other.examples.items():
                for row_id in rows:
                    self._remember(key, row_id)
            for text in other.notes:
                self.note(text)

    def to_json(self) -> dict[str, Any]:
        """Nested plain data: {"stages": {stage: {task: {"kept", "dropped": {reason: n}, ...}}}, "notes": [...]}."""
        stages: dict[str, dict[str, dict[str, Any]]] = {}

        def entry(stage: str, task: str) -> dict[str, Any]:
            return stages.setdefault(stage, {}).setdefault(task, {"kept": 0, "dropped": {}, "shortened": {}})

        for (stage, task), count in sorted(self.kept.items()):
            entry(stage, task)["kept"] = count
        for kind, counts in (("dropped", self.dropped), ("shortened", self.shortened)):
            for (stage, task, reason), count in sorted(counts.items()):
                rows = self.examples[stage, task, reason]
                entry(stage, task)[kind][reason] = {"count": count, "rows": rows}
        return {"stages": stages, "notes": sorted(self.notes)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Ledger":
        """The ledger that `to_json` wrote."""
        ledger = cls(notes=list(value["notes"]))
        for stage, tasks in value["stages"].items():
            for task, entry in tasks.items():
                ledger.kept[stage, task] = entry["kept"]
                for counts, kind in ((ledger.dropped, "dropped"), (ledger.shortened, "shortened")):
                    for reason, found in entry[kind].items():
                        counts[stage, task, reason] = found["count"]
                        ledger.examples[stage, task, reason] = list(found["rows"])
        return ledger

    def summary(self, stage: str) -> str:
        """One line: `encode  29,871 kept · 129 dropped (118 targets longer than 256 tokens, 11 empty inputs)`."""

        def total(counts: Counter[tuple[str, str, str]]) -> tuple[int, str]:
            by_reason: Counter[str] = Counter()
            for (name, _, reason), count in counts.items():
                if name == stage:
                    by_reason[reason] += count
            return by_reason.total(), ", ".join(f"{count:,} {reason}" for reason, count in by_reason.most_common())

        kept = sum(count for (name, _), count in self.kept.items() if name == stage)
        line = f"{stage}  {kept:,} kept"
        for word, counts in (("dropped", self.dropped), ("shortened", self.shortened)):
            count, reasons = total(counts)
            if count:
                line += f" · {count:,} {word} ({reasons})"
        return line
