"""Every template of every dataset, rendered on the task's specimens, against a file that people have read.

`make golden` rewrites the files; the diff is reviewed by reading it.
"""

import os
from pathlib import Path

import pytest

from openflan.catalog.load import load_catalog
from openflan.ledger import Ledger
from openflan.rendering.render import read_columns, render
from openflan.sources.specimens import read_specimens

GOLDEN = Path(__file__).parents[1] / "golden" / "catalog"
CATALOG = load_catalog("flan")


def rendered(name: str) -> str:
    """All templates of a task on all its specimens, as one text."""
    task, ledger = CATALOG.task(name), Ledger()
    rows = read_columns(task, read_specimens(task, CATALOG.files[name], ledger), ledger)
    lines: list[str] = []
    for (_, _, reason), count in sorted(ledger.dropped.items()):
        lines += [f"##### dropped: {count} {reason}", ""]
    for template in task.templates:
        for row in rows:
            example = render(task, row, template)
            lines += [
                f"##### {template.id} ({template.kind}) · {row.id}",
                example.inputs,
                "----->",
                example.targets,
                "",
            ]
    return "\n".join(lines)


@pytest.mark.parametrize("name", CATALOG.tasks)
def test_templates_read_as_in_the_golden_file(name: str) -> None:
    text, file = rendered(name), GOLDEN / f"{name}.txt"
    assert "----->" in text, "no specimen"
    if os.environ.get("OPENFLAN_REWRITE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text


def test_every_golden_file_is_a_tasks() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(CATALOG.tasks)
