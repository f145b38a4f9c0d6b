from pathlib import Path

from openflan.catalog.load import load_catalog
from openflan.reports.catalog_pages import catalog_pages

DOCS = Path(__file__).parents[2] / "docs" / "datasets"


def test_the_pages_in_docs_are_the_catalogs() -> None:
    """`make golden` writes them anew."""
    pages = catalog_pages(load_catalog("flan"))
    assert {file.name: file.read_text(encoding="utf-8") for file in DOCS.glob("*.md")} == pages


def test_a_page_shows_every_template_of_its_task() -> None:
    catalog = load_catalog("flan")
    pages = catalog_pages(catalog)
    for name, task in catalog.tasks.items():
        assert [line[4:] for line in pages[f"{name}.md"].splitlines() if line.startswith("### ")] == [
            template.id for kind in ("direct", "inverted", "completion") for template in task.of_kind(kind)
        ]
