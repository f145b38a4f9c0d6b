from pathlib import Path

import pytest
from tests.catalog.toys import write_catalog

from openflan.catalog.load import load_catalog
from openflan.errors import ConfigError
from openflan.reports.catalog_pages import catalog_pages, write_catalog_pages

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


def test_only_pages_written_earlier_are_removed(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    both, one = (load_catalog(write_catalog(tmp_path / n, *((t, "nli") for t in n.split("_")))) for n in ("a_b", "a"))
    write_catalog_pages(both, docs)
    (docs / "guide.md").write_text("# Guide\n")
    (docs / "empty.md").write_text("")
    write_catalog_pages(one, docs)
    assert {file.name for file in docs.iterdir()} == {"a.md", "index.md", "guide.md", "empty.md"}


def test_a_page_of_the_users_is_not_replaced(tmp_path: Path) -> None:
    catalog = load_catalog(write_catalog(tmp_path / "tasks", ("a", "nli")))
    (tmp_path / "index.md").write_text("# Mine\n")
    with pytest.raises(ConfigError, match=r"index\.md: is no page of"):
        write_catalog_pages(catalog, tmp_path)
    assert [file.name for file in tmp_path.glob("*.md")] == ["index.md"]
