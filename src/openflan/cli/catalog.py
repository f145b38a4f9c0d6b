"""`openflan catalog list | show | clusters | check`"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from openflan.cli import options
from openflan.cli.console import emit_json, err, out, shown_progress
from openflan.errors import Problem, SourceError
from openflan.studies.progress import ProgressEvent

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
    table = Table("task", "cluster", "form", "metric", "direct", "inverted", "completion", "source", box=None)
    for row in rows:
        kinds = row["templates"]
        table.add_row(
            row["name"], ", ".join(row["clusters"]), row["form"], ", ".join(row["metrics"]),
            *(str(kinds[kind]) for kind in ("direct", "inverted", "completion")), row["source"],
        )  # fmt: skip
    out.print(table)
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
    out.print(f"[bold]{found.name}[/]  {found.title}")
    facts = _summary(found) | {
        "licence": found.licence,
        "cite": found.cite,
        "derived from": ", ".join(found.derived_from) or "-",
    }
    for key in ("clusters", "form", "metrics", "source", "licence", "cite", "derived from"):
        value = facts[key]
        out.print(f"  {key}: {', '.join(value) if isinstance(value, list) else value}", markup=False, highlight=False)
    for template in found.templates:
        out.rule(f"{template.id} ({template.kind})", align="left", style="dim")
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
    table = Table("cluster", "tasks", "barred with", box=None)
    for row in rows:
        table.add_row(row["name"], str(len(row["tasks"])), ", ".join(row["barred_with"]))
    out.print(table)


@app.command()
def check(
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows of each split that templates are tried on.")] = 100,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Render every template over real rows and report everything that is wrong; exit 1 if anything is.

    Example: openflan catalog check --catalog my_tasks --data-root data
    """
    found = _load(catalog)
    problems: list[Problem] = []
    unread: list[str] = []
    with shown_progress(quiet=quiet or json_) as progress:
        for number, task in enumerate(found.tasks.values(), 1):
            problems += _check_one(task, data_root, limit, unread)
            progress(ProgressEvent("check", number, len(found.tasks), task.name))
    if json_:
        emit_json({
            "tasks": len(found.tasks),
            "problems": [{"where": p.where, "what": p.what, "hint": p.hint} for p in problems],
            "not_read": unread,
        })  # fmt: skip
    else:
        for problem in problems:
            out.print(str(problem), markup=False, highlight=False)
        for line in unread:
            err.print(f"not tried on rows: {line}", markup=False)
        err.print(f"{len(found.tasks)} tasks, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def _check_one(task: Any, data_root: Path | None, limit: int, unread: list[str]) -> list[Problem]:
    from openflan.catalog.task import SPLITS
    from openflan.ledger import Ledger
    from openflan.rendering.check import check_rows, check_task
    from openflan.sources.read import SourceSettings, read_rows

    where = f"{task.name}.toml"
    problems = list(check_task(task, where))
    if problems:
        return problems
    settings = SourceSettings(data_root=data_root)
    try:
        rows = [row for split in SPLITS for row in read_rows(task, split, settings, Ledger(), limit=limit)]
    except SourceError as error:
        unread.append(f"{task.name}: {str(error).splitlines()[0]}")
        return problems
    return problems + check_rows(task, rows, where)


def _summary(task: Any) -> dict[str, Any]:
    kinds = Counter(template.kind for template in task.templates)
    source = task.source.hub or (f"micro-world: {task.source.world}" if task.source.world else "local files")
    return {
        "name": task.name,
        "title": task.title,
        "clusters": list(task.clusters),
        "form": task.form,
        "metrics": list(task.metrics),
        "templates": {kind: kinds[kind] for kind in ("direct", "inverted", "completion")},
        "source": source,
        "licence": task.licence,
        "derived_from": list(task.derived_from),
    }
