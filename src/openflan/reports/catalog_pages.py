"""A catalog as Markdown: one page for each task with all its templates rendered on a specimen, and an index.

Takes a `Catalog`, gives file names and texts; every number is counted, none is written by hand. The first line of
a page says that it was generated; only pages that begin so are replaced or removed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from openflan.artifacts import write_text
from openflan.catalog.holdout import Lineage, lineage
from openflan.catalog.load import Catalog
from openflan.catalog.task import Kind, Split, Task
from openflan.errors import ConfigError, Problem
from openflan.ledger import Ledger
from openflan.rendering.diversity import diversity
from openflan.rendering.example import Example
from openflan.rendering.render import ReadRow, read_columns, render
from openflan.sources.specimens import read_specimens

MARK = "<!-- Written by `openflan catalog docs`, which replaces it. -->"
KINDS: Mapping[Kind, str] = {
    "direct": "Templates that ask for the answer",
    "inverted": "Templates turned around (tuning only, never scored)",
    "completion": "Completion templates (how an untuned model is asked)",
}


def write_catalog_pages(catalog: Catalog, folder: Path) -> list[Path]:
    """Write the pages into a folder, and remove those of tasks that are gone; returns the pages written.

    Raises ConfigError, before anything is written, naming files in the way that were not generated.
    """
    pages = catalog_pages(catalog)
    others = {file.name: file for file in folder.glob("*.md") if not _is_generated(file)}
    if in_the_way := [others[name] for name in pages if name in others]:
        hint = "move it, or name another folder"
        raise ConfigError([Problem(str(file), "is no page of `openflan catalog docs`", hint) for file in in_the_way])
    for file in folder.glob("*.md"):
        if file.name not in pages and file.name not in others:
            file.unlink()
    for name, text in pages.items():
        write_text(folder / name, text)
    return [folder / name for name in pages]


def _is_generated(page: Path) -> bool:
    with page.open("rb") as file:
        return file.readline(len(MARK) + 2).rstrip() == MARK.encode()


def catalog_pages(catalog: Catalog) -> dict[str, str]:
    """File name to text: `index.md`, and `NAME.md` for each task."""
    made_of = lineage(catalog)
    pages = {f"{name}.md": task_page(catalog, name, made_of[name]) for name in catalog.tasks}
    return {"index.md": index_page(catalog), **pages}


def index_page(catalog: Catalog) -> str:
    """The clusters with their tasks, and how many of everything there are."""
    tasks = list(catalog.tasks.values())
    templates = sum(len(task.templates) for task in tasks)
    named = {task.paper.dataset for task in tasks if task.paper is not None and task.paper.dataset}
    used = [cluster for cluster in catalog.clusters.values() if catalog.in_cluster(cluster.name)]
    lines = [
        MARK,
        "",
        "# Datasets",
        "",
        f"{len(tasks)} tasks in {len(used)} clusters, with {templates} templates.",
    ]
    if named:
        lines[-1] += f" They are made of {len(named)} of the datasets that the paper's figure names."
    for cluster in used:
        lines += ["", f"## {cluster.title} (`{cluster.name}`)", ""]
        if cluster.barred_with:
            lines += [f"Barred with: {', '.join(f'`{name}`' for name in cluster.barred_with)}.", ""]
        lines += ["| task | form | metric | direct | inverted | completion | source |", "| --- " * 7 + "|"]
        for task in catalog.in_cluster(cluster.name):
            kinds = Counter(template.kind for template in task.templates)
            counts = " | ".join(str(kinds[kind]) for kind in KINDS)
            metrics = ", ".join(task.metrics)
            lines.append(f"| [{task.name}]({task.name}.md) | {task.form} | {metrics} | {counts} | {_source(task)} |")
    return "\n".join([*lines, ""])


def task_page(catalog: Catalog, name: str, made_of: Lineage) -> str:
    """What a task is, and what each of its templates reads like on its first specimen."""
    task, ledger = catalog.task(name), Ledger()
    rows = read_columns(task, read_specimens(task, catalog.files[name], ledger), ledger)
    facts = "\n".join(f"| {key} | {value.replace('|', '&#124;')} |" for key, value in _facts(task, made_of))
    lines = [MARK, "", f"# {task.title}", "", f"| `{task.name}` | |", "| --- | --- |", facts, ""]
    if task.source.obtain:
        lines += ["## How to get it", "", task.source.obtain, ""]
    if rows:
        lines += ["The example is invented; it shows the layout and is never tuned on or evaluated.", ""]
        lines += _templates(task, rows)
    return "\n".join(lines)


def _facts(task: Task, made_of: Lineage) -> Iterator[tuple[str, str]]:
    yield "Clusters", ", ".join(f"`{cluster}`" for cluster in task.clusters)
    yield "Form", task.form.replace("_", " ")
    yield "Metrics", ", ".join(task.metrics)
    yield "Source", _source(task)
    if task.source.splits:
        yield "Splits", ", ".join(f"{ours}: `{theirs}`" for ours, theirs in task.source.splits.items())
    if task.source.prepare:
        yield "Prepared by", ", ".join(f"`{step}`" for step in task.source.prepare)
    yield "Licence", task.licence
    yield "Cite", task.cite
    yield "Text from", "; ".join(" from ".join(way[1:]) for way in made_of.values() if len(way) > 1) or "itself alone"
    if task.paper is not None:
        sizes = _sizes(task)
        yield "In the paper", (task.paper.dataset or "not in its figure of datasets") + (f"; {sizes}" if sizes else "")
    yield "Version", str(task.version)
    yield "Lexical diversity", f"{diversity(task).mean:.2f}"


def _sizes(task: Task) -> str:
    assert task.paper is not None, "asked by the caller"
    parts: dict[Split, int | None] = {"train": task.paper.train, "dev": task.paper.dev, "test": task.paper.test}
    return ", ".join(f"{split} {count:,}" for split, count in parts.items() if count is not None)


def _source(task: Task) -> str:
    source = task.source
    if source.world:
        return f"micro-world: {source.world}"
    if source.hub is None:
        return "files of your own"
    config = f" ({source.config})" if source.config else ""
    revision = source.revision if len(source.revision) < 40 else source.revision[:12]
    return f"[{source.hub}](https://huggingface.co/datasets/{source.hub}){config} at `{revision}`"


def _templates(task: Task, rows: Sequence[ReadRow]) -> list[str]:
    lines: list[str] = []
    for kind, heading in KINDS.items():
        if templates := task.of_kind(kind):
            lines += [f"## {heading}", ""]
            for template in templates:
                lines += [f"### {template.id}", "", *_shown(render(task, rows[0], template))]
    return lines


def _shown(example: Example) -> list[str]:
    return [*_block(example.inputs), "", *_block(example.targets), ""]


def _block(text: str) -> list[str]:
    return ["````text", *text.split("\n"), "````"]
