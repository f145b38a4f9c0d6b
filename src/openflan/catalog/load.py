"""Folders of TOML files to a checked `Catalog`; every problem of every file is reported at once.

A catalog is a folder: one TOML per dataset, and perhaps a `clusters.toml`, whose clusters stand beside the paper's.
`flan` and `world` are built in; other names are folders. Catalogs combine. Read next: `holdout.py`.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from openflan.catalog.lines import TaskLines, at
from openflan.catalog.task import Answer, Paper, Source, Task, Template
from openflan.errors import CatalogError, OpenflanError, Problem, nearest

PACKAGE = Path(__file__).parents[1]
BUILT_IN = {"flan": PACKAGE / "catalog" / "flan", "world": PACKAGE / "world" / "tasks"}
CLUSTERS_FILE = "clusters.toml"

Model = TypeVar("Model", bound=BaseModel)


class Cluster(BaseModel):
    """A group of tasks that are held out together (paper section 2.2)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    barred_with: tuple[str, ...] = ()
    """Clusters that leave tuning too when this one is held out."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """All tasks and clusters in play, by name, in name order."""

    tasks: Mapping[str, Task]
    clusters: Mapping[str, Cluster]
    files: Mapping[str, Path]
    """Where each task is written."""

    def task(self, name: str) -> Task:
        """The task of that name; raises CatalogError naming the nearest ones."""
        if name not in self.tasks:
            raise CatalogError(Problem(f"task {name!r}", "no such task", nearest(name, self.tasks)))
        return self.tasks[name]

    def cluster(self, name: str) -> Cluster:
        """The cluster of that name; raises CatalogError naming the nearest ones."""
        if name not in self.clusters:
            raise CatalogError(Problem(f"cluster {name!r}", "no such cluster", nearest(name, self.clusters)))
        return self.clusters[name]

    def in_cluster(self, name: str) -> tuple[Task, ...]:
        """The tasks that belong to a cluster, in name order."""
        self.cluster(name)
        return tuple(task for task in self.tasks.values() if name in task.clusters)


def load_catalog(*folders: str | Path) -> Catalog:
    """Read and check one or more catalogs ("flan", "world" or a folder); "flan" where none is named.

    Raises CatalogError listing every problem of every file, with its line: unreadable TOML, unknown or missing keys
    with the nearest good name, unknown clusters, names used twice.
    """
    catalog, problems = read_catalog(*folders)
    if problems:
        raise CatalogError(problems)
    return catalog


def read_catalog(*folders: str | Path) -> tuple[Catalog, list[Problem]]:
    """The good tasks of one or more catalogs, and what is wrong with the others."""
    problems: list[Problem] = []
    tasks: dict[str, tuple[Task, Path]] = {}
    clusters: dict[str, Cluster] = {}
    paths = [_folder(name) for name in folders or ("flan",)]
    for path in paths:
        for name, cluster in _load_clusters(path, problems).items():
            clusters[name] = _barring_more(cluster, clusters.get(name))
    clusters = _barring_each_other(clusters)
    for path in paths:
        for file in sorted(path.glob("*.toml")):
            if file.name == CLUSTERS_FILE or (task := _load_task(file, problems)) is None:
                continue
            if task.name in tasks:
                where = at(file, TaskLines.of(file).key(["name"]))
                problems.append(Problem(where, f"task {task.name} is already in {tasks[task.name][1]}"))
            elif unknown := [cluster for cluster in task.clusters if cluster not in clusters]:
                where = f"{at(file, TaskLines.of(file).key(['clusters']))}: clusters"
                problems += [Problem(where, f"no cluster {name!r}", nearest(name, clusters)) for name in unknown]
            else:
                tasks[task.name] = (task, file)
    names = sorted(tasks)
    catalog = Catalog({name: tasks[name][0] for name in names}, clusters, {name: tasks[name][1] for name in names})
    return catalog, problems


def cluster_names(folder: Path) -> set[str]:
    """The clusters that a task in this folder may name: those of its clusters.toml and of the built-in catalogs.

    Reads no task file. Raises CatalogError if clusters.toml is not TOML.
    """
    problems: list[Problem] = []
    files = [path / CLUSTERS_FILE for path in (*BUILT_IN.values(), folder)]
    names = {name for file in files if file.exists() for name in _parse(file, problems)}
    if problems:
        raise CatalogError(problems)
    return names


def _folder(name: str | Path) -> Path:
    if isinstance(name, str) and name in BUILT_IN:
        return BUILT_IN[name]
    path = Path(name)
    if not path.is_dir():
        raise CatalogError(Problem(f"catalog {str(name)!r}", "no such folder", nearest(str(name), BUILT_IN)))
    if not any(file.name != CLUSTERS_FILE for file in path.glob("*.toml")):
        raise CatalogError(Problem(f"catalog {str(name)!r}", "holds no task files (*.toml)"))
    return path


def _load_clusters(folder: Path, problems: list[Problem]) -> dict[str, Cluster]:
    files = dict.fromkeys((BUILT_IN["flan"] / CLUSTERS_FILE, folder / CLUSTERS_FILE))
    clusters: dict[str, Cluster] = {}
    of_file: dict[str, Path] = {}
    for file in filter(Path.exists, files):
        for name, table in _parse(file, problems).items():
            if not isinstance(table, dict):
                problems.append(
                    Problem(f"{file}: {name}", "stands outside a cluster", "begin with its name: [my_cluster]")
                )
                continue
            if (cluster := _validate(Cluster, {"name": name, **table}, f"{file}: {name}", problems)) is not None:
                clusters[name], of_file[name] = _barring_more(cluster, clusters.get(name)), file
    for cluster in clusters.values():
        where = f"{of_file[cluster.name]}: {cluster.name}.barred_with"
        problems += [
            Problem(where, f"no cluster {other!r}", nearest(other, clusters))
            for other in cluster.barred_with
            if other not in clusters
        ]
    return clusters


def _barring_more(cluster: Cluster, before: Cluster | None) -> Cluster:
    """A cluster that two files define bars what either says: no catalog beside another may open what it closed."""
    barred = dict.fromkeys((*(before.barred_with if before else ()), *cluster.barred_with))
    return cluster.model_copy(update={"barred_with": tuple(barred)})


def _barring_each_other(clusters: Mapping[str, Cluster]) -> dict[str, Cluster]:
    """Clusters that leave tuning together do so whichever of them is held out."""
    back = {name: [other for other in clusters if name in clusters[other].barred_with] for name in clusters}
    return {
        name: cluster.model_copy(update={"barred_with": tuple(dict.fromkeys((*cluster.barred_with, *back[name])))})
        for name, cluster in clusters.items()
    }


def _load_task(file: Path, problems: list[Problem]) -> Task | None:
    before = len(problems)
    table = _parse(file, problems)
    if len(problems) > before:
        return None
    task = _validate(Task, table, str(file), problems, file)
    if task is not None and task.name != file.stem:
        where = f"{at(file, TaskLines.of(file).key(['name']))}: name"
        problems.append(Problem(where, f"is {task.name!r}", f"a task's file is called after it: {task.name}.toml"))
        return None
    return task


def _parse(file: Path, problems: list[Problem]) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(Problem(str(file), f"not valid TOML: {error}"))
        return {}


def _validate(
    model: type[Model], table: Mapping[str, Any], where: str, problems: list[Problem], file: Path | None = None
) -> Model | None:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        keys = known_keys(Task, Source, Answer, Paper, Template, Cluster)
        lines = None if file is None else TaskLines.of(file)
        problems.extend(validation_problems(error, where, keys, lines))
        return None


def known_keys(*models: type[BaseModel]) -> dict[str, set[str]]:
    """The key names of each model as written in TOML, by model name."""
    return {m.__name__: {field.alias or name for name, field in m.model_fields.items()} for m in models}


def validation_problems(
    error: ValidationError, where: str, keys: Mapping[str, set[str]], lines: TaskLines | None = None
) -> Iterator[Problem]:
    """One Problem for each pydantic error, with the dotted key, its line where `lines` knows it and, for an unknown
    key, the nearest good one."""
    every = sorted(set[str]().union(*keys.values()))
    found = error.errors()
    for item in found:
        if item["type"] == "too_short" and any(_is_below(other["loc"], item["loc"]) for other in found):
            continue  # what is wrong below it is why it is too short
        path = ".".join(str(part) for part in item["loc"])
        file = where if lines is None else at(where, lines.key(item["loc"]) or lines.mentioned(item["msg"]))
        place = f"{file}: {path}" if path else file
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(str(item["loc"][-1]), every, n=3)
            yield Problem(place, "unknown key", f"did you mean {', '.join(close)}?" if close else "")
        elif item["type"] == "missing":
            yield Problem(place, "missing key")
        else:
            got = "" if isinstance(item["input"], dict | list) else f", got {item['input']!r}"
            yield Problem(place, item["msg"].removeprefix("Value error, ") + got)


def _is_below(place: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    return len(place) > len(other) and place[: len(other)] == other


def read_toml(file: Path, error: type[OpenflanError]) -> dict[str, Any]:
    """The table of one TOML file; raises `error` where there is none."""
    problems: list[Problem] = []
    if not file.is_file():
        raise error(Problem(str(file), "no such file"))
    table = _parse(file, problems)
    if problems:
        raise error(problems)
    return table


def validated(
    model: type[Model], table: Mapping[str, Any], where: str, error: type[OpenflanError], *nested: type[BaseModel]
) -> Model:
    """A table as a pydantic model, raising `error` with every problem found."""
    try:
        return model.model_validate(table)
    except ValidationError as invalid:
        raise error(list(validation_problems(invalid, where, known_keys(model, *nested)))) from invalid
