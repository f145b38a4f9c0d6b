"""Toy rows that several tests of studies read."""

import json
from pathlib import Path

import pytest

from openflan.studies.recipe import Recipe, resolve
from tests.catalog.toys import write_catalog

LONG = "Once upon a time there was a king who had three daughters and one of them liked to sing."


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("OPENFLAN_CACHE", str(tmp_path / "cache"))
    catalog = write_catalog(
        tmp_path / "catalog", ("entails", "nli"), ("feeling", "sentiment"), ("mood", "sentiment"), ("away", "misc")
    )
    for name in ("entails", "feeling", "mood"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for split, count in (("train", 40), ("validation", 10)):
            rows = [{"premise": f"{name} {split} {i}", "hypothesis": "so", "label": i % 2} for i in range(count)]
            if (name, split) in (("entails", "validation"), ("mood", "train")):
                for row in rows[::3]:
                    row["premise"] += f": {LONG}"
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return resolve(
        None, model="world:small-early", hold_out=["nli"], catalogs=[str(catalog)], data_root=str(tmp_path / "data")
    )
