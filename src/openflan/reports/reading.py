"""Run folders and folders of runs, read back as typed records; absent optional keys are None or empty.

Takes what `studies` wrote (result.json and the files beside it), gives a `Report`. Read next: `finding.py`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from openflan.errors import RunError
from openflan.reports.arms import style

RESULT = "result.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One arm on one task or cluster. Rates are 0..1; None where the run did not measure it."""

    name: str
    mean: float | None
    low: float | None = None
    high: float | None = None
    std: float | None = None
    """Standard deviation over templates."""
    best_dev: float | None = None
    """Test score of the template that is best on dev."""
    best_dev_template: str = ""
    by_template: Mapping[str, float] = field(default_factory=dict[str, float])
    chance: float | None = None
    majority: float | None = None
    n: int | None = None
    templates: int | None = None
    shots: float | None = None
    """Exemplars in the prompts, on average."""
    ties: int | None = None
    metric: str = ""
    near_ties: int | None = None
    unscored: int | None = None
    micro: float | None = None
    """A cluster's mean weighted by items."""
    also: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further metrics, means over templates."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What one model, asked in one way, scored on every task and cluster."""

    name: str
    tasks: Mapping[str, Measured]
    clusters: Mapping[str, Measured]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A paired comparison, arm minus against, on the same items."""

    arm: str
    against: str
    cluster: str
    task: str = ""
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    n: int | None = None
    smallest_detectable: float | None = None
    label: str = ""
    """What is compared, where the names of two arms do not say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: its numbers and everything that says how they came about."""

    name: str
    folder: Path
    held_out: tuple[str, ...]
    arms: Mapping[str, Arm]
    differences: tuple[Difference, ...]
    seen: tuple[str, ...] = ()
    """Evaluated tasks that the model is known to have been tuned on; of a model that was only scored."""
    fingerprint: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict[str, Any])
    split: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ledger: Mapping[str, Any] = field(default_factory=dict[str, Any])
    env: Mapping[str, Any] = field(default_factory=dict[str, Any])
    mixture: Mapping[str, Any] = field(default_factory=dict[str, Any])
    recipe: str = ""
    steps: tuple[Mapping[str, Any], ...] = ()
    dev: tuple[Mapping[str, Any], ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every evaluated task, in the order of the arms that name it."""
        return tuple(dict.fromkeys(task for arm in self.arms.values() for task in arm.tasks))

    @property
    def clusters(self) -> tuple[str, ...]:
        """Every cluster with a mean, in the order of the arms that name it."""
        return tuple(dict.fromkeys(cluster for arm in self.arms.values() for cluster in arm.clusters))

    def on_task(self, name: str) -> dict[str, Measured]:
        """What each arm measured on a task, by arm."""
        return {arm.name: arm.tasks[name] for arm in self.arms.values() if name in arm.tasks}

    def on_cluster(self, name: str) -> dict[str, Measured]:
        """What each arm measured on a cluster, by arm."""
        return {arm.name: arm.clusters[name] for arm in self.arms.values() if name in arm.clusters}

    @property
    def cluster_differences(self) -> tuple[Difference, ...]:
        """The comparisons of whole clusters, without those of single tasks."""
        return tuple(difference for difference in self.differences if not difference.task)

    @property
    def has_exemplars(self) -> bool:
        """Whether anything was asked with exemplars."""
        return any(
            style(name).shots or any(measured.shots for measured in arm.tasks.values())
            for name, arm in self.arms.items()
        )

    @property
    def zero_shot(self) -> bool:
        """Whether nothing was asked with exemplars, and what was asked is known to have been held out of tuning."""
        return bool(self.held_out) and not self.has_exemplars

    @property
    def samples(self) -> Path:
        """Where the per-example record is, if it was kept."""
        return self.folder / "samples.parquet"


@dataclass(frozen=True, slots=True)
class Report:
    """What one page shows: a run, or several of one study."""

    title: str
    folder: Path
    runs: tuple[Run, ...]
    notes: tuple[str, ...] = ()


def read_report(folder: Path) -> Report:
    """The run or runs in a folder. Raises RunError where there is no readable result."""
    if not (folder / RESULT).exists():
        inner = sorted(path.parent for path in folder.glob(f"*/{RESULT}")) if folder.is_dir() else []
        if not inner:
            raise RunError(
                f"{folder}: no {RESULT} here or one level down; is this a run folder, and did the run finish?"
            )
        runs = [read_run(path) for path in inner]
        if len({run.name for run in runs}) < len(runs):  # of one split, say: their folders tell them apart
            runs = [dataclasses.replace(run, name=run.folder.name) for run in runs]
        return Report(_words(folder.resolve().name), folder, tuple(runs))
    result = _read_json(folder / RESULT)
    if "runs" not in result:
        return Report("", folder, (read_run(folder),))
    return report_of(result, folder)


def report_of(result: Mapping[str, Any], folder: Path = Path()) -> Report:
    """The report a result mapping describes: one run's, or a study's with "runs"."""
    _check_format(result, folder / RESULT)
    if "runs" not in result:
        return Report("", folder, (_run(result, folder, _name(result, folder)),))
    runs: list[Run] = []
    for entry in _mappings(result["runs"]):
        inner = folder / str(entry.get("folder", entry.get("name", "")))
        found: Mapping[str, Any] | None = entry.get("result")
        own = mapping(found) if found else _read_json(inner / RESULT)
        runs.append(_run(own, inner, str(entry.get("name") or _name(own, inner))))
    notes: Any = result.get("notes", ())
    notes = (notes,) if isinstance(notes, str) else tuple(str(note) for note in notes)
    return Report(str(result.get("title") or _words(folder.resolve().name)), folder, tuple(runs), notes)


def read_run(folder: Path) -> Run:
    """One run folder. Raises RunError where result.json is missing, broken or of a later format."""
    result = _read_json(folder / RESULT)
    _check_format(result, folder / RESULT)
    return _run(result, folder, _name(result, folder))


def _run(result: Mapping[str, Any], folder: Path, name: str) -> Run:
    return Run(
        name=name,
        folder=folder,
        held_out=tuple(str(cluster) for cluster in result.get("held_out", ())),
        arms={arm: _arm(arm, mapping(value)) for arm, value in mapping(result.get("arms")).items()},
        differences=tuple(d for value in _mappings(result.get("differences")) for d in _differences(value)),
        seen=tuple(map(str, items(result.get("seen")))),
        fingerprint=str(result.get("fingerprint", "")),
        raw=result,
        split=_read_json(folder / "split.json", optional=True),
        ledger=_read_json(folder / "ledger.json", optional=True),
        env=_read_json(folder / "env.json", optional=True),
        mixture=_read_json(folder / "mixture.lock", optional=True),
        recipe=_read_text(folder / "recipe.toml"),
        steps=_read_lines(folder / "steps.jsonl"),
        dev=_read_lines(folder / "dev.jsonl"),
    )


def _arm(name: str, value: Mapping[str, Any]) -> Arm:
    def measured(kind: str) -> dict[str, Measured]:
        return {key: _measured(key, mapping(entry)) for key, entry in mapping(value.get(kind)).items()}

    return Arm(name, measured("tasks"), measured("clusters"))


def _measured(name: str, value: Mapping[str, Any]) -> Measured:
    by_template = mapping(value.get("by_template", value.get("per_template")))
    return Measured(
        name=name,
        mean=_number(value.get("mean")),
        low=_number(value.get("low")),
        high=_number(value.get("high")),
        std=_number(value.get("std")),
        best_dev=_number(value.get("best_dev")),
        best_dev_template=str(value.get("best_dev_template") or ""),
        by_template={key: score for key, entry in by_template.items() if (score := _template_score(entry)) is not None},
        chance=_number(value.get("chance")),
        majority=_number(value.get("majority")),
        n=_count(value.get("n")),
        templates=_count(value.get("templates")) or (len(by_template) or None),
        shots=_number(value.get("shots")),
        ties=_count(value.get("ties")),
        metric=str(value.get("metric") or ""),
        near_ties=_count(value.get("near_ties")),
        unscored=_count(value.get("unscored")),
        micro=_number(value.get("micro")),
        also={key: score for key, entry in mapping(value.get("also")).items() if (score := _number(entry)) is not None},
    )


def _template_score(value: Any) -> float | None:
    return (
        _number(mapping(value).get("mean", mapping(value).get("test")))
        if isinstance(value, Mapping)
        else _number(value)
    )


def _differences(value: Mapping[str, Any]) -> list[Difference]:
    """A cluster's difference, then those of its tasks, which stand within it."""
    pair = {key: value.get(key) for key in ("arm", "against", "cluster")}
    within = [{**pair, **mapping(entry), "task": task} for task, entry in mapping(value.get("tasks")).items()]
    return [_difference(value), *map(_difference, within)]


def _difference(value: Mapping[str, Any]) -> Difference:
    return Difference(
        arm=str(value.get("arm", "")),
        against=str(value.get("against", "")),
        cluster=str(value.get("cluster") or ""),
        task=str(value.get("task") or ""),
        mean=_number(value.get("mean")) or 0.0,
        low=_number(value.get("low")),
        high=_number(value.get("high")),
        p=_number(value.get("p")),
        p_holm=_number(value.get("p_holm")),
        n=_count(value.get("n")),
        smallest_detectable=_number(value.get("smallest_detectable")),
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    number = len(cast(Sequence[Any], value)) if isinstance(value, list | tuple) else _number(value)
    return None if number is None else int(number)


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [mapping(item) for item in items(value)]


def items(value: Any) -> Sequence[Any]:
    """The value where it is a list, else an empty one."""
    return cast(Sequence[Any], value) if isinstance(value, list | tuple) else ()


def _name(result: Mapping[str, Any], folder: Path) -> str:
    return "+".join(str(cluster) for cluster in result.get("held_out", ())) or folder.resolve().name


def _words(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").strip().capitalize()


def _check_format(result: Mapping[str, Any], path: Path) -> None:
    if (found := result.get("format", FORMAT)) != FORMAT:
        raise RunError(f"{path}: format {found!r}; this version reads format {FORMAT}")


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _read_json(path: Path, *, optional: bool = False) -> Mapping[str, Any]:
    if optional and not (path.exists() and path.stat().st_size):
        return {}
    try:
        value = json.loads(_read_text(path))
    except ValueError as error:
        raise RunError(f"{path}: {'not there' if not path.exists() else f'not valid JSON: {error}'}") from error
    return mapping(value)


def _read_lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    # A run killed while writing leaves half a last line; what came before it still counts.
    lines: list[Mapping[str, Any]] = []
    for line in _read_text(path).splitlines():
        try:
            lines.append(mapping(json.loads(line)))
        except ValueError:
            continue
    return tuple(lines)
