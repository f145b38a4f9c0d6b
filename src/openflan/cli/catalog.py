"""`openflan catalog list | show | clusters | lineage | check | docs | new`"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.table import Table
from rich.text import Text

from openflan.cli import options
from openflan.cli.console import emit_json, err, heading, out, shown_progress
from openflan.errors import ConfigError, Problem, nearest
from openflan.reports.fitting import Fitting
from openflan.studies.progress import ProgressEvent

if TYPE_CHECKING:
    from openflan.rendering.check import TaskCheck

KINDS = ("direct", "inverted", "completion")

app = typer.Typer(no_args_is_help=True, help="What tasks and clusters there are; check task files.")


def _load(catalog: list[str] | None) -> Any:
    from openflan.catalog.load import load_catalog

    return load_catalog(*options.listed(catalog))


@app.command("list")
def list_(
    cluster: Annotated[str | None, typer.Option(help="Only this cluster.")] = None,
    catalog: options.Catalogs = None,
    json_: options.Json = False,
) -> None:
    """All tasks, with clusters, form, metric and template counts.

    Example: openflan catalog list --cluster nli
    """
    found = _load(catalog)
    tasks = found.tasks.values() if cluster is None else found.in_cluster(cluster)
    rows = [_summary(task) for task in tasks]
    if json_:
        emit_json(rows)
        return
    heads = ("task", "cluster", "form", "metric", *KINDS, "source")
    cells = [
        (row["name"], ", ".join(row["clusters"]), row["form"], ", ".join(row["metrics"]),
         *(str(row["templates"][kind]) for kind in KINDS), row["source"])
        for row in rows
    ]  # fmt: skip
    lines = [_task_line(row) for row in rows]
    out.print(Fitting(_table(heads, cells), lines))
    err.print(f"{len(rows)} tasks in {len({c for row in rows for c in row['clusters']})} clusters")


@app.command()
def show(
    task: Annotated[str, typer.Argument(help="Task name.")],
    catalog: options.Catalogs = None,
    json_: options.Json = False,
) -> None:
    """One task: source, licence, lineage, columns and every template.

    Example: openflan catalog show rte
    """
    from openflan.catalog.load import load_catalog

    found = load_catalog(*(options.listed(catalog) or ["flan", "world"])).task(task)
    if json_:
        emit_json(found.model_dump(mode="json"))
        return
    out.print(Text.assemble((found.name, "bold"), f"  {found.title}"))
    facts = _summary(found) | {
        "licence": found.licence,
        "cite": found.cite,
        "derived from": ", ".join(found.derived_from) or "-",
    }
    for key in ("clusters", "form", "metrics", "source", "licence", "cite", "derived from"):
        value = facts[key]
        out.print(f"  {key}: {', '.join(value) if isinstance(value, list) else value}", markup=False, highlight=False)
    for template in found.templates:
        heading(f"{template.id} ({template.kind})")
        out.print(template.inputs, markup=False, highlight=False)
        out.print(template.targets, style="green", markup=False, highlight=False)


@app.command()
def clusters(catalog: options.Catalogs = None, json_: options.Json = False) -> None:
    """The clusters, their tasks, and which clusters leave tuning together.

    Example: openflan catalog clusters --json
    """
    found = _load(catalog)
    rows: list[dict[str, Any]] = [
        {
            "name": c.name,
            "title": c.title,
            "barred_with": list(c.barred_with),
            "tasks": [t.name for t in found.in_cluster(c.name)],
        }
        for c in found.clusters.values()
    ]
    if json_:
        emit_json(rows)
        return
    cells = [(row["name"], str(len(row["tasks"])), ", ".join(row["barred_with"])) for row in rows]
    out.print(_table(("cluster", "tasks", "barred with"), cells))


@app.command()
def lineage(
    held_out: options.HeldOut = None,
    rule: Annotated[str, typer.Option(help="strict, or paper: clusters and the barred ones only.")] = "strict",
    catalog: options.Catalogs = None,
    json_: options.Json = False,
) -> None:
    """What each task's text is made of; with --held-out, which tasks leave tuning then, and why.

    Example: openflan catalog lineage --held-out nli
    """
    from openflan.catalog.holdout import Rule, hold_out
    from openflan.catalog.holdout import lineage as lineage_of

    if rule not in get_args(Rule):
        raise ConfigError(Problem("--rule", f"no rule {rule!r}", nearest(rule, get_args(Rule))))
    found = _load(catalog)
    made_of = lineage_of(found)
    if held := options.listed(held_out):
        split = hold_out(found, held, rule=cast("Rule", rule)).to_json()
        if json_:
            emit_json(split)
            return
        out.print(_table(("out of tuning", "why"), [(one["task"], one["reason"]) for one in split["excluded"]]))
        err.print(
            f"held out: {', '.join(split['evaluated'])}\n{len(split['excluded'])} further tasks are out of tuning, "
            f"{len(split['train'])} stay in; rows that overlap with held-out ones go when a run reads them",
            markup=False,
        )
        return
    edges = {name: [list(way) for way in ways.values() if len(way) > 1] for name, ways in made_of.items()}
    if json_:
        emit_json(edges)
        return
    cells = [(name, "; ".join(" from ".join(way[1:]) for way in ways) or "-") for name, ways in edges.items()]
    out.print(_table(("task", "made from"), cells))


@app.command()
def check(
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows of each split that templates are tried on.")] = 60,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one a core")] = None,
    world_seed: options.WorldSeed = 0,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Render every template over rows and report everything that is wrong, with file and line; exit 1 if anything is.

    Rows come from the data root or the hub; a task whose rows cannot be had is tried on its specimens, and said so. A
    row that is dropped is a fault; a specimen is told of, and a fault only where none is left.

    Example: openflan catalog check --catalog my_tasks --data-root data
    """
    from openflan.catalog.load import read_catalog
    from openflan.rendering.check import check_catalog
    from openflan.sources.read import SourceSettings

    found, problems = read_catalog(*options.listed(catalog))
    total, processes = len(found.tasks), workers or options.cores()
    with shown_progress(quiet=quiet or json_) as progress:
        checks = check_catalog(
            found,
            SourceSettings(data_root=data_root, world_seed=world_seed),
            limit=limit,
            workers=processes,
            progress=lambda done, task: progress(ProgressEvent("check", done, total, task)),
        )
    problems += [problem for one in checks for problem in one.problems]
    unread = [one for one in checks if one.not_read]
    checks.sort(key=lambda one: one.diversity.mean)
    if json_:
        emit_json({
            "tasks": total,
            "problems": [{"where": p.where, "what": p.what, "hint": p.hint} for p in problems],
            "not_read": [{"task": one.task, "why": one.not_read, "tried_on": one.read_from} for one in unread],
            "rows": {one.task: one.rows for one in checks},
            "specimens_dropped": {one.task: list(one.dropped) for one in checks if one.dropped},
            "diversity": {one.task: round(one.diversity.mean, 3) for one in checks},
        })  # fmt: skip
    else:
        for problem in problems:
            out.print(str(problem), markup=False, highlight=False, soft_wrap=True)
        _tell_check(checks, len(problems), quiet=quiet)
    if problems:
        raise typer.Exit(1)


def _tell_check(checks: "list[TaskCheck]", num_problems: int, *, quiet: bool) -> None:
    if quiet:
        return
    by_reason = {"specimens": "on specimens", "": "not on rows"}
    for source, told in by_reason.items():
        names = sorted(one.task for one in checks if one.not_read and one.read_from == source)
        if names:
            err.print(f"tried {told}, real rows could not be read: {', '.join(names)}", markup=False)
    if dropped := "; ".join(f"{one.task}: {', '.join(one.dropped)}" for one in checks if one.dropped):
        err.print(f"specimens that are dropped, as rows like them would be: {dropped}", markup=False)
    if len(checks) > 1:
        lowest = ", ".join(f"{one.task} {one.diversity.mean:.2f}" for one in checks[:5])
        err.print(f"lexical diversity of templates, lowest first: {lowest}", markup=False)
    rows = sum(one.rows for one in checks)
    err.print(f"{len(checks)} tasks, {rows:,} rows, {num_problems} problems", markup=False)


@app.command()
def docs(
    out_: Annotated[
        Path,
        typer.Option("--out", help="Folder for the pages; earlier pages of tasks that are gone are removed."),
    ],
    catalog: options.Catalogs = None,
) -> None:
    """Write a Markdown page for each task, with every template rendered on a specimen, and an index.

    Example: openflan catalog docs --catalog my_tasks --out docs/my-tasks
    """
    from openflan.reports.catalog_pages import write_catalog_pages

    pages = write_catalog_pages(_load(catalog), out_)
    err.print(f"{out_}  {len(pages) - 1} tasks", markup=False)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the task: lower-case letters, digits and _.")],
    from_: Annotated[Path, typer.Option("--from", help="Rows: csv, jsonl, jsonl.gz or parquet.")],
    cluster: Annotated[str, typer.Option(help="Its cluster; one that does not exist yet is entered.")],
    catalog: Annotated[Path, typer.Option(help="Folder of your task files.")] = Path("my_tasks"),
    answer: Annotated[str | None, typer.Option(help="The answer column, where the guess is wrong.")] = None,
    data_root: options.DataRoot = None,
    json_: options.Json = False,
) -> None:
    """Draft a task file from a table of rows and, with --data-root, lay the rows out where runs find them.

    Example: openflan catalog new my_reviews --from reviews.csv --cluster sentiment --data-root data
    """
    from openflan.interop.draft import new_task

    draft, written = new_task(name, from_, catalog, cluster=cluster, answer=answer, data_root=data_root)
    if json_:
        emit_json({
            "form": draft.form,
            "answer": draft.answer,
            "texts": list(draft.texts),
            "labels": list(draft.labels),
            "files": [str(file) for file in written],
        })  # fmt: skip
        return
    for file in written:
        out.print(str(file), markup=False, highlight=False)
    labels = f" with the labels {', '.join(draft.labels)}" if draft.labels else ""
    err.print(f"{draft.form}: the answer is {draft.answer}{labels}; read from {', '.join(draft.texts)}", markup=False)
    root = f" --data-root {data_root}" if data_root is not None else ""
    err.print(f"now write your templates, then: openflan catalog check --catalog {catalog}{root}", markup=False)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Cells are folded where the terminal is narrow, never cut; brackets in them are no markup."""
    table = Table(box=None)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _task_line(row: dict[str, Any]) -> Text:
    counts = ", ".join(f"{row['templates'][kind]} {kind}" for kind in KINDS)
    about = "; ".join((", ".join((*row["clusters"], row["form"], *row["metrics"])), counts, row["source"]))
    return Text.assemble((row["name"], "bold"), f"  {about}")


def _summary(task: Any) -> dict[str, Any]:
    kinds = Counter(template.kind for template in task.templates)
    source = task.source.hub or (f"micro-world: {task.source.world}" if task.source.world else "local files")
    return {
        "name": task.name,
        "title": task.title,
        "clusters": list(task.clusters),
        "form": task.form,
        "metrics": list(task.metrics),
        "templates": {kind: kinds[kind] for kind in KINDS},
        "source": source,
        "config": task.source.config,
        "revision": task.source.revision if task.source.hub else None,
        "paper": None if task.paper is None else task.paper.model_dump(),
        "version": task.version,
        "licence": task.licence,
        "derived_from": list(task.derived_from),
    }
