"""Run folders as the sides of a comparison.

Takes what a command line names (`RUN`, `RUN:ARM`, `RUN:ARM@SHOTS`), gives `Side`s. Read next: `comparison.py`.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import polars as pl

from openflan.errors import Problem, RunError, nearest
from openflan.evaluation.compare import Side
from openflan.evaluation.samples import read_samples, without_shots
from openflan.reports.finding import BASELINES
from openflan.reports.reading import Run, mapping, read_run

SAMPLES = "samples.parquet"
MAIN = "tuned"
"""The arm a run is about, where it has it."""


def read_sides(first: str, second: str | None, *, arm: str = "", against: str = "") -> tuple[Side, Side]:
    """A and B. Without a second run both are arms of the first.

    An arm named within a run's argument comes before `arm` and `against`. Where none is named: `tuned`, or else the
    run's only arm; of a single run, against `untuned`, or else its only other arm.

    Raises RunError where a folder is no finished run, or where it is not clear which arm is meant; every problem of
    both sides at once.
    """
    problems: list[Problem] = []
    sides: list[Side] = []
    for name, text, given in (("a", first, arm), ("b", second or _folder_of(first), against)):
        alone = second is None and name == "b"
        try:
            sides.append(_side(cast(Literal["a", "b"], name), text, given, instead_of=sides[0] if alone else None))
        except RunError as error:
            problems += error.problems or [Problem(name.upper(), str(error))]
            if second is None:
                break
    if problems:
        raise RunError(problems)
    return _apart(*sides), _apart(*reversed(sides))


def _apart(side: Side, other: Side) -> Side:
    """A side without the answers that the other one names: `ARM@5` of a run is held against that arm's others.

    Those without exemplars, where there are any, as the run's result has the bare name.
    """
    same = all(side.about[key] == other.about[key] for key in ("run", "arm"))
    asked, named = side.about["shots"], other.about["shots"]
    if not same or len(named) > 1 or len(asked) == 1 or not set(named) <= set(asked):
        return side
    left = [number for number in asked if number not in named]
    shots = [0] if 0 in left else left
    kept = side.samples.filter(pl.col("shots").is_in(shots))
    return replace(side, samples=kept, about={**side.about, "shots": shots})


def parse_run(text: str) -> tuple[Path, str]:
    """The folder and the arm of `RUN:ARM`; the arm is empty where none is named. Arms may hold colons, folders too.

    Raises RunError where no such folder is there.
    """
    for end in [len(text), *(place for place in range(len(text) - 1, 0, -1) if text[place] == ":")]:
        if Path(text[:end]).is_dir():
            return Path(text[:end]), text[end + 1 :]
    raise RunError(Problem(text, "no such run folder", "name it as RUN or RUN:ARM"))


def _folder_of(text: str) -> str:
    return str(parse_run(text)[0])


def _side(name: Literal["a", "b"], text: str, given: str, *, instead_of: Side | None) -> Side:
    folder, named = parse_run(text)
    if not (folder / SAMPLES).is_file() and (inner := sorted(p.parent.name for p in folder.glob(f"*/{SAMPLES}"))):
        raise RunError(Problem(str(folder), "is a folder of runs, not one", f"it has {', '.join(inner)}"))
    run = read_run(folder)
    samples = _by_exemplars_asked(read_samples(folder / SAMPLES).filter(pl.col("split") == "test"))
    if samples.is_empty():
        raise RunError(Problem(str(folder), "has no test sample"))
    taken = "" if instead_of is None else str(instead_of.about["arm"])
    arm, shots = _chosen(str(folder), samples, named or given, taken)
    samples = samples.filter(pl.col("arm") == arm)
    if shots is not None:
        samples = samples.filter(pl.col("shots") == shots)
    return Side(
        label=f"{name.upper()} ({folder}, {arm})",
        samples=samples,
        metrics={
            task: measured.metric
            for one in run.arms.values()
            for task, measured in one.tasks.items()
            if measured.metric
        },
        about=_about(run, arm, sorted(set(samples["shots"].to_list()))),
    )


def _by_exemplars_asked(samples: pl.DataFrame) -> pl.DataFrame:
    """Samples with the arm apart from the number of exemplars it was to be shown.

    A prompt may hold fewer than that where not all fitted; it is still an answer of that arm. An arm that takes what
    fits counts by the most it was shown.
    """
    asked: dict[str, int] = {}
    for name, most in samples.group_by("arm").agg(pl.col("shots").max()).iter_rows():
        asked[name] = without_shots(name)[1] or int(most)
    return samples.with_columns(
        pl.col("arm").replace_strict({name: without_shots(name)[0] for name in asked}),
        pl.col("arm").replace_strict(asked, return_dtype=pl.Int32).alias("shots"),
    )


def _chosen(folder: str, samples: pl.DataFrame, wanted: str, taken: str) -> tuple[str, int | None]:
    """The arm meant, and the number of exemplars where one is named. `taken` is the arm of the other side."""
    arms: list[str] = sorted(set(samples["arm"].to_list()))
    if not wanted:
        left = [arm for arm in arms if arm != taken]
        preferred = [arm for arm in (BASELINES if taken else (MAIN,)) if arm in left]
        if not preferred and len(left) != 1:
            what = "has no second arm" if not left else f"has the arms {', '.join(left)}"
            how = "name a second run" if not left else f"name one: {folder}:ARM"
            raise RunError(Problem(folder, what, how))
        return (preferred or left)[0], None
    if wanted in arms:
        return wanted, None
    base, number = without_shots(wanted)
    if base != wanted and base in arms:
        asked: list[int] = sorted(set(samples.filter(pl.col("arm") == base)["shots"].to_list()))
        if number in asked:
            return base, number
        said = ", ".join(map(str, asked))
        raise RunError(Problem(folder, f"{base} was not shown {number} exemplars", f"it was shown {said}"))
    raise RunError(Problem(folder, f"has no arm {wanted!r}", nearest(wanted, arms)))


def _about(run: Run, arm: str, shots: list[int]) -> dict[str, Any]:
    try:
        recipe: Mapping[str, Any] = tomllib.loads(run.recipe)
    except tomllib.TOMLDecodeError as error:
        raise RunError(Problem(str(run.folder / "recipe.toml"), f"is not TOML: {error}")) from error
    return {
        "run": str(run.folder),
        "arm": arm,
        "shots": shots,
        "model": str(recipe.get("model", "")),
        "fingerprint": run.fingerprint,
        "recipe": dict(_flat({key: value for key, value in recipe.items() if key != "data_root"})),
        "packages": dict(_flat(mapping(run.env.get("packages")))),
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in sorted(values):
        if isinstance(values[key], Mapping):
            yield from _flat(mapping(values[key]), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values[key]
