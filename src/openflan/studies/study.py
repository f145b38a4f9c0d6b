"""A study: a figure of the paper as a grid of systems over shared runs, and what its points say.

    Study.plan(settings) -> Plan of Readings -> run_systems -> samples -> points -> study.json

Read `run_study` first. What is tuned is kept by content in OUT/models and what is answered in OUT/runs, so studies of
one folder share both, a killed study goes on, and a second run computes nothing. Each figure is a small file beside
this one.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl

from openflan import artifacts
from openflan.catalog.holdout import hold_out
from openflan.catalog.load import load_catalog
from openflan.catalog.task import Task
from openflan.errors import CatalogError, Problem
from openflan.evaluation import statistics
from openflan.evaluation.evaluate import ClusterDraws, cluster_draws
from openflan.evaluation.points import Contrast, Point, Replicate, contrast, point
from openflan.evaluation.samples import read_samples
from openflan.studies.locks import check_evaluated, check_same_rows, lock, model_identity
from openflan.studies.made import made, rows_lost
from openflan.studies.parallel import Job, in_processes
from openflan.studies.progress import Progress, silent
from openflan.studies.recipe import MODEL_OF, TUNED_WITH, Arm, Recipe
from openflan.studies.rows import refuse_tuned_base, seen_templates, split_of
from openflan.studies.run import close_ledger, open_run, rows_of, run_arm
from openflan.studies.settings import StudyName, StudySettings
from openflan.tuning.settings import Method

Place = str | float
"""A point's place on the horizontal axis: a name, or a number."""
Templates = Literal["all", "seen", "unseen"]
"""Templates whose answers count: of a task that was tuned on, those it was tuned with, or the others."""
OF_ASKING = ("arms", "evaluation", "remote", "supervised", "soft_prompt")
"""Keys of a recipe that the model tuned on the mixture does not depend on."""
LEDGER = "ledger.json"
ALL = "all"
"""The place, or series, that is the mean over clusters."""


@dataclass(frozen=True, eq=False)
class System:
    """What is asked: a recipe of one arm. Its samples are an artifact of their own."""

    recipe: Recipe

    @property
    def arm(self) -> Arm:
        (arm,) = self.recipe.arms
        return arm

    @cached_property
    def fingerprint(self) -> str:
        return self.recipe.fingerprint

    @property
    def name(self) -> str:
        """Of its run folder: content, after what a reader looks for."""
        return f"{'-'.join(self.recipe.hold_out)}-{self.arm}-{self.fingerprint[:12]}"

    @property
    def answers_as(self) -> str:
        """The arm's name in its samples; with exemplars it has their number."""
        (name,) = self.recipe.shots_of(self.arm)
        return name

    @cached_property
    def model_key(self) -> str | None:
        """Names the tuned model that is asked, by all it depends on; None where nothing is tuned."""
        tuning = MODEL_OF.get(self.arm, self.arm)
        if tuning not in TUNED_WITH:
            return None
        content = self.recipe.content()
        return artifacts.fingerprint([tuning, {key: value for key, value in content.items() if key not in OF_ASKING}])

    @property
    def tuned(self) -> set[str]:
        """Names of all that is tuned for it: a model, and for arms that see their task one more for each task."""
        seen = split_of(self.recipe).evaluated if self.recipe.sees_tasks else ()
        return {key for key in (self.model_key,) if key} | {f"{self.fingerprint}/{task.name}" for task in seen}


@dataclass(frozen=True, slots=True)
class Reading:
    """One system's score on one cluster, in one replicate, and where it stands in the figure."""

    series: str
    place: Place
    replicate: Replicate
    cluster: str
    system: System
    templates: Templates = "all"


def readings_at(series: str, place: Place, replicate: Replicate, system: System) -> list[Reading]:
    """A system's clusters as one place: their mean."""
    return [Reading(series, place, replicate, cluster, system) for cluster in system.recipe.hold_out]


def readings_by_cluster(series: str, replicate: Replicate, system: System) -> list[Reading]:
    """A system's clusters as a place each, and all of them as one."""
    alone = [Reading(series, cluster, replicate, cluster, system) for cluster in system.recipe.hold_out]
    return [*alone, *readings_at(series, ALL, replicate, system)]


BASELINES: dict[Arm, str] = {
    "untuned": "untuned",
    "untuned_completion": "untuned, asked in its own style",
    "tuned": "instruction-tuned",
    "supervised": "tuned on the task itself",
}
"""What a study's series are held against, in words, by arm; all are zero-shot but the last, the ceiling."""


def baselines(
    settings: StudySettings,
    splits: Sequence[tuple[str, ...]],
    *,
    besides: Collection[str] = (),
    replicates: Sequence[Replicate] = (),
    places: Sequence[Place] = (),
) -> tuple[dict[str, str], list[Reading]]:
    """Words and readings of the baselines, less those a study has among its own series. Studies share their runs.

    By cluster; with `places`, the mean at each of them, which is a level line where they are numbers. The ceiling has a
    model for each task and is no party to a comparison: one tuning seed has to do. `replicates`: where not all.
    """
    series: dict[str, str] = {arm: words for arm, words in BASELINES.items() if arm not in besides}
    readings: list[Reading] = []
    for split in splits:
        for replicate in replicates or settings.replicates:
            for arm in BASELINES:
                if arm in series and (arm != "supervised" or replicate.seed == settings.seeds[0]):
                    system = System(settings.recipe_of(replicate, arm, split))
                    for place in places:
                        readings += readings_at(arm, place, replicate, system)
                    if not places:
                        readings += readings_by_cluster(arm, replicate, system)
    return series, readings


@dataclass(frozen=True, slots=True)
class Compared:
    """Two series whose difference is the study's claim, place by place."""

    first: str
    second: str
    against: Place | None = None
    """The second's place, of numbers the lower one; None for the first's own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All readings of a study, and what is compared."""

    series: Mapping[str, str]
    """The series' words in legend and table, in reading order, by name"""
    readings: Sequence[Reading]
    compared: Sequence[Compared]

    @property
    def systems(self) -> list[System]:
        """Each once, in the order of the readings."""
        return list({reading.system.name: reading.system for reading in self.readings}.values())


@dataclass(frozen=True, slots=True)
class Study:
    """One figure of the paper, asked of any model and catalog."""

    name: StudyName
    figure: int | None
    """Of Wei et al. 2022; None for what they did not ask"""
    title: str
    question: str
    axis: str
    """What the horizontal axis is"""
    kind: Literal["clusters", "numbers", "names"]
    """Places are clusters (a panel or group each), numbers (a line through them), or names"""
    grids: tuple[str, ...]
    """Keys of the settings that this study's numbers depend on, beside those that every study's do"""
    plan: Callable[[StudySettings], Plan]


def run_study(
    study: Study,
    settings: StudySettings,
    out: Path,
    *,
    settings_file: Path | None = None,
    command: str | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Run what is not there yet, and write OUT/<study>/study.json; gives its content.

    Equal settings give equal bytes. Beside it stands made.json: `command`, cost, versions, the commit of
    `settings_file`. Raises what `check_splits`, `run_systems` and `run_arm` raise.
    """
    settings = settings.of_study(study.name)
    plan = study.plan(settings)
    systems = plan.systems
    check_splits(systems)
    run_systems(systems, out, workers=workers, progress=progress)
    answers = answers_of(plan, out, settings)
    points = measured(plan, answers)
    contrasts = _contrasts(plan, points, lambda a, b: contrasted(a, b, answers, out, settings))
    lost = rows_lost(artifacts.read_json(run_folder(system, out) / LEDGER) for system in systems)
    content = described(study, settings, plan, points) | {"contrasts": contrasts, "rows_lost": lost}
    artifacts.write_json(out / study.name / "study.json", content)
    history = {"command": command, **made(_tuned_in(systems, out), settings_file)}
    artifacts.write_json(out / study.name / "made.json", history)
    return content


def check_splits(systems: Sequence[System]) -> None:
    """Raises CatalogError with what is wrong with any split of the systems, and LeakageError as `hold_out` does.

    The latter too where a base model was itself tuned on what a system holds out.
    """
    catalog_of = cache(load_catalog)
    problems: dict[str, Problem] = {}
    recipes = [system.recipe for system in systems]
    splits = {repr((r.catalogs, r.hold_out, r.hold_out_options)): r for r in recipes}
    for recipe in splits.values():
        try:
            hold_out(catalog_of(*recipe.catalogs), recipe.hold_out, **recipe.hold_out_options)
        except CatalogError as error:
            told = error.problems or [Problem(f"split {'+'.join(recipe.hold_out)}", str(error))]
            problems |= {str(problem): problem for problem in told}
    if problems:
        raise CatalogError(list(problems.values()))
    asked = {(repr((r.catalogs, r.hold_out, r.hold_out_options)), r.model, r.arms): r for r in recipes}
    for recipe in asked.values():
        refuse_tuned_base(recipe)


def run_systems(systems: Sequence[System], out: Path, *, workers: int, progress: Progress) -> None:
    """Samples of every system into OUT/runs/NAME; systems that ask one model go to one process.

    What another process is at work on comes last: several may share a folder, and each takes what the others have not.
    Raises RunError where two of them are asked other rows of one task: as soon as the second one's are known.
    """
    folders = [run_folder(system, out) for system in systems]
    check_same_rows(folders)
    groups: dict[str, list[System]] = {}
    identity_of = cache(model_identity)
    catalog_of = cache(load_catalog)
    for system in systems:
        if is_done(system, out):
            check_evaluated(
                catalog_of(*system.recipe.catalogs).tasks, identity_of(system.recipe.model), run_folder(system, out)
            )
        else:
            groups.setdefault(system.model_key or system.name, []).append(system)
    for wait in (False, True):
        left = [group for group in groups.values() if not all(is_done(system, out) for system in group)]
        jobs = [Job(f"{group[0].name} (+{len(group) - 1})", _run_group, (group, out, folders, wait)) for group in left]
        if workers > 1 and len(jobs) > 1:
            in_processes(jobs, workers=workers, progress=progress)
            continue
        for job in jobs:
            job.function(*job.arguments, progress=progress)


def run_folder(system: System, out: Path) -> Path:
    return out / "runs" / system.name


def model_folder(system: System, out: Path) -> Path | None:
    """Where the model tuned on the mixture is kept, for all systems that ask it; None where nothing is tuned."""
    return None if system.model_key is None else out / "models" / system.model_key[:16]


def _tuned_in(systems: Sequence[System], out: Path) -> list[tuple[str, Method, Path]]:
    """Base model, method and folder of all that was tuned, each folder once."""
    found: dict[Path, tuple[str, Method]] = {}
    for system in systems:
        recipe = system.recipe
        if (folder := model_folder(system, out)) is not None:
            found[folder] = recipe.model, recipe.tuning.method
        if recipe.sees_tasks:
            found[run_folder(system, out)] = recipe.model, recipe.tuning_of(system.arm).method
    return [(*how, folder) for folder, how in found.items()]


def samples_file(system: System, out: Path) -> Path:
    return run_folder(system, out) / "arms" / system.arm / "samples.parquet"


def is_done(system: System, out: Path) -> bool:
    """A system's ledger is written last."""
    return (run_folder(system, out) / LEDGER).exists()


def _run_group(
    systems: Sequence[System], out: Path, folders: Sequence[Path], wait: bool, *, progress: Progress
) -> None:
    """`wait`: for a process that is at work on them; without, they are left to it."""
    # The model's folder, where there is one: another study may begin with another of the systems that ask it.
    place = model_folder(systems[0], out) or run_folder(systems[0], out)
    if not wait and artifacts.is_taken(place):
        return
    with artifacts.alone_in(place, waiting="this study goes on when it ends"):
        for system in systems:
            if is_done(system, out):
                continue
            folder, recipe = run_folder(system, out), system.recipe
            open_run(recipe, folder)
            rows = rows_of(recipe)
            lock(recipe, split_of(recipe), rows, folder)
            check_same_rows(folders)
            run_arm(system.arm, recipe, rows, folder, progress, home=model_folder(system, out))
            close_ledger(recipe, rows, folder)


@dataclass(frozen=True, slots=True)
class Answered:
    """What a cluster's mean is of, for one system."""

    draws: ClusterDraws
    prompts: pl.DataFrame
    """Task, row_id and template of each test answer that was scored"""


Answers = Mapping[tuple[str, str], Answered]
"""By system with its templates (`_asked_as`), and cluster; none where a system has no answer in a cluster."""


def measured(plan: Plan, answers: Answers) -> dict[tuple[str, Place], Point]:
    """Every point of the plan, by (series, place); means over clusters come last.

    A place of a series is left out where a system has no answers in a cluster (no train rows to learn from, say).
    """
    groups: dict[tuple[str, Place], dict[tuple[Replicate, str], ClusterDraws]] = {}
    lacking: set[tuple[str, Place]] = set()
    for reading in plan.readings:
        key, found = (reading.series, reading.place), answers.get((_asked_as(reading), reading.cluster))
        if found is None:
            lacking.add(key)
        else:
            groups.setdefault(key, {})[reading.replicate, reading.cluster] = found.draws
    in_order = sorted(groups.items(), key=lambda item: item[0][1] == ALL)
    return {key: point(readings) for key, readings in in_order if key not in lacking}


def _asked_as(reading: Reading) -> str:
    return f"{reading.system.name} {reading.templates}"


def answers_of(plan: Plan, out: Path, settings: StudySettings) -> dict[tuple[str, str], Answered]:
    """What every system answered. Systems asked the same rows are resampled together."""
    asked: dict[tuple[str, ...], dict[str, Reading]] = {}
    for reading in plan.readings:
        asked.setdefault(reading.system.recipe.hold_out, {})[_asked_as(reading)] = reading
    found: dict[tuple[str, str], Answered] = {}
    for readings in asked.values():
        found |= _resampled(list(readings.values()), out, settings)
    return found


def _resampled(
    readings: Sequence[Reading], out: Path, settings: StudySettings, *, common: bool = False
) -> dict[tuple[str, str], Answered]:
    """The answers of systems that hold out the same; with `common`, what of two can be held against each other."""
    tasks = {task.name: task for task in split_of(readings[0].system.recipe).evaluated}
    samples = pl.concat([
        _samples(one.system, one.templates, tasks, out).with_columns(pl.lit(_asked_as(one)).alias("arm"))
        for one in readings
    ])  # fmt: skip
    scored = samples.filter((pl.col("split") == "test") & pl.col("value").is_not_null())
    if common:
        sides = [scored.filter(pl.col("arm") == _asked_as(one)) for one in readings]
        samples = scored = pl.concat([_comparable(*sides), _comparable(*reversed(sides))])
        if samples.is_empty():
            return {}
    prompts = {
        (str(arm), str(cluster)): some.select("task", "row_id", "template")
        for (arm, cluster), some in scored.partition_by("arm", "cluster", as_dict=True).items()
    }
    draws = cluster_draws(samples, tasks=tasks, seed=settings.report_seed, resamples=settings.resamples)
    return {key: Answered(one, prompts[key]) for key, one in draws.items()}


def _comparable(answers: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Those of the answers that stand beside one to the same prompt, or to the same row where a task was asked through
    no template on both sides."""
    alike = pl.col("task").is_in(answers.join(others, on=["task", "template"], how="semi")["task"].unique().to_list())
    return pl.concat([
        answers.filter(alike).join(others, on=["task", "row_id", "template"], how="semi"),
        answers.filter(~alike).join(others, on=["task", "row_id"], how="semi"),
    ])  # fmt: skip


def contrasted(
    first: Sequence[Reading], second: Sequence[Reading], answers: Answers, out: Path, settings: StudySettings
) -> tuple[Contrast, int] | None:
    """The difference of two places, over what both sides of each replicate answered, and how many rows fell away.

    None where they share no row in some cluster.
    """
    theirs = {(one.replicate, one.cluster): one for one in second}
    sides: tuple[dict[tuple[Replicate, str], ClusterDraws], ...] = ({}, {})
    left_out = 0
    for mine in first:
        key = (mine.replicate, mine.cluster)
        pair = [(_asked_as(one), one.cluster) for one in (mine, theirs[key])]
        found = [answers[name] for name in pair]
        prompts = [one.prompts for one in found]
        if any(_comparable(*both).height < both[0].height for both in (prompts, prompts[::-1])):
            there = _resampled([mine, theirs[key]], out, settings, common=True)
            if pair[0] not in there:
                return None
            left_out += sum(one.draws.n for one in found) - sum(there[name].draws.n for name in pair)
            found = [there[name] for name in pair]
        for side, one in zip(sides, found, strict=True):
            side[key] = one.draws
    return contrast(*map(point, sides)), left_out


def _samples(system: System, templates: Templates, tasks: Mapping[str, Task], out: Path) -> pl.DataFrame:
    """A system's answers through some of the templates."""
    samples = read_samples(samples_file(system, out)).filter(pl.col("arm") == system.answers_as)
    if templates == "all":
        return samples
    pairs = [(name, one.id) for name, task in tasks.items() for one in seen_templates(task, system.recipe)]
    seen = pl.DataFrame(pairs, schema=["task", "template"], orient="row")
    return samples.join(seen, on=["task", "template"], how="semi" if templates == "seen" else "anti")


def described(
    study: Study, settings: StudySettings, plan: Plan, points: Mapping[tuple[str, Place], Point]
) -> dict[str, Any]:
    """study.json but for differences: numbers, settings and the runs they come of."""
    systems = [
        {"folder": f"runs/{system.name}", "fingerprint": system.fingerprint, "arm": system.arm}
        for system in plan.systems
    ]
    return {
        "format": 1,
        "study": study.name,
        "figure": study.figure,
        "title": study.title,
        "question": study.question,
        "axis": study.axis,
        "kind": study.kind,
        "settings": settings.content(study.grids),
        "fingerprint": artifacts.fingerprint([study.name, settings.content(study.grids)]),
        "series": [
            {
                "name": name,
                "title": title,
                "points": [_point(key[1], found) for key, found in points.items() if key[0] == name],
            }
            for name, title in plan.series.items()
            if any(key[0] == name for key in points)
        ],
        "splits": _splits(plan.systems),
        "runs": systems,
    }


def _splits(systems: Sequence[System]) -> list[dict[str, Any]]:
    """What is held out, what is barred with it and why, for each split."""
    widest: dict[tuple[str, ...], Recipe] = {}
    for system in systems:
        widest.setdefault(system.recipe.hold_out, system.recipe.changed(train_clusters=None))
    return [split_of(recipe).to_json() for recipe in widest.values()]


def _contrasts(
    plan: Plan,
    points: Mapping[tuple[str, Place], Point],
    differ: Callable[[Sequence[Reading], Sequence[Reading]], tuple[Contrast, int] | None],
) -> list[dict[str, Any]]:
    """Holm's correction is over the places of one comparison; the mean over clusters stands beside them."""
    readings: dict[tuple[str, Place], list[Reading]] = {}
    for reading in plan.readings:
        readings.setdefault((reading.series, reading.place), []).append(reading)
    found: list[dict[str, Any]] = []
    for compared in plan.compared:
        made: dict[Place, tuple[Contrast, int]] = {}
        for series, place in points:
            against = place if compared.against is None else compared.against
            if series != compared.first or place == compared.against or (compared.second, against) not in points:
                continue
            if not isinstance(place, str) and not isinstance(against, str) and place < against:
                continue
            if (one := differ(readings[series, place], readings[compared.second, against])) is not None:
                made[place] = one
        places = [place for place in made if place != ALL]
        adjusted = dict(zip(places, statistics.holm([made[place][0].p for place in places]), strict=True))
        found += [
            {"first": compared.first, "second": compared.second, "place": place, "against": compared.against}
            | _contrast(one)
            | {"p_holm": adjusted.get(place, one.p), "left_out": left_out}
            for place, (one, left_out) in made.items()
        ]
    return found


def _contrast(one: Contrast) -> dict[str, Any]:
    return {
        "mean": one.mean,
        "low": one.low,
        "high": one.high,
        "p": one.p,
        "smallest_detectable": one.smallest_detectable,
    }


def _point(place: Place, one: Point) -> dict[str, Any]:
    return {
        "place": place,
        "mean": one.mean,
        "low": one.low,
        "high": one.high,
        "n": one.n,
        "clusters": list(one.clusters),
        "chance": one.chance,
        "majority": one.majority,
        "templates_std": one.templates_std,
        "replicates": [
            {"model": replicate.model, "seed": replicate.seed, "order": replicate.order, "mean": mean}
            for replicate, mean in one.by_replicate.items()
        ],
    }
