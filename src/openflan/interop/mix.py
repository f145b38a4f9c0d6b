"""A recipe's tuning mixture as files for another trainer."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openflan import artifacts
from openflan.catalog.holdout import HeldOutSplit, hold_out_nothing
from openflan.catalog.load import load_catalog
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ConfigError, Problem, RunError, SourceError, nearest
from openflan.interop.export import FORMATS, check_new_folder, export
from openflan.mixture.mixture import Mixture
from openflan.rendering.example import Example
from openflan.studies.progress import Progress, ProgressEvent, silent
from openflan.studies.recipe import Recipe, differing_keys
from openflan.studies.rows import SplitRows, read_split, split_of, store_split

LOCK = "mixture.lock"
FUTILE_DRAWS = 4096
"""After so many draws in a row without an example there will be none."""


def export_mixture(
    recipe: Recipe, out: Path, format_name: str, *, num_examples: int, workers: int = 1, progress: Progress = silent
) -> dict[str, Any]:
    """Write the first `num_examples` examples of the mixture, in tuning order, and beside them mixture.lock, split.json
    and ledger.json, which names what was left out and dropped.

    A recipe that holds out nothing gives the mixture over every task.

    Raises ConfigError for an unknown format, naming the nearest ones, and for a folder that is no new one, SourceError
    where the mixture has not so many examples (none of its rows has another one to show first, say).
    """
    if format_name not in FORMATS:
        raise ConfigError(Problem("--format", f"no format {format_name!r}", nearest(format_name, FORMATS)))
    check_new_folder(out)
    split = mixture_split(recipe)
    mixture, lock, rows = read_mixture(split, recipe, workers=workers, progress=progress)
    ledger = rows.ledger

    def examples() -> Iterator[Example]:
        left, futile = num_examples, 0
        for number in itertools.count():
            progress(ProgressEvent("mix", num_examples - left, num_examples))
            if not left:
                return
            found = mixture.examples(number, ledger, most=left)
            yield from found
            left -= len(found)
            futile = 0 if found else futile + recipe.mixture.block_size
            if futile >= FUTILE_DRAWS:
                what = f"{num_examples - left:,} of {num_examples:,} examples: in {futile:,} draws none could be made"
                why = sorted({reason for *_, reason in ledger.dropped})
                raise SourceError(Problem("mixture", what, "; ".join(why)))

    clusters = {task.name: task.clusters[0] for task in split.train}
    summary = export(examples(), clusters, out, format_name, recipe.prompt or PromptFormat())
    artifacts.write_json(out / LOCK, lock)
    artifacts.write_json(out / "split.json", split.without(rows.left_out).to_json())
    artifacts.write_json(out / "ledger.json", ledger.to_json())
    return {
        "examples": summary.examples,
        "left_out": dict(summary.left_out),
        "notes": sorted(ledger.notes),
        "tasks": sorted(summary.tasks),
        "format": format_name,
        "files": str(summary),
    }


def verify_lock(recipe: Recipe, lock_file: Path, *, workers: int = 1, progress: Progress = silent) -> dict[str, Any]:
    """The content of a lock file, proven to be what this recipe gives from today's rows, templates and code.

    Raises RunError naming every key that differs, or if the file is no lock.
    """
    theirs = artifacts.read_json(lock_file)
    if not isinstance(theirs, dict) or "tasks" not in theirs:
        raise RunError(Problem(str(lock_file), "is no lock file", "name the mixture.lock beside a mixture or a run"))
    _, ours, _ = read_mixture(mixture_split(recipe), recipe, workers=workers, progress=progress)
    if problems := differing_keys(ours, theirs):
        raise RunError([Problem(str(lock_file), "is not what this recipe gives today"), *problems])
    return theirs


def mixture_split(recipe: Recipe) -> HeldOutSplit:
    """What a mixture is made of: all that the recipe's held-out clusters allow, or everything."""
    return split_of(recipe) if recipe.hold_out else hold_out_nothing(load_catalog(*recipe.catalogs))


def read_mixture(
    split: HeldOutSplit, recipe: Recipe, *, workers: int, progress: Progress
) -> tuple[Mixture, dict[str, Any], SplitRows]:
    """The mixture of a split, the content of its lock file, and its rows with what was left out in reading them."""
    store_split(split, recipe, workers=workers, progress=progress)
    rows = read_split(split, recipe, progress=progress)
    mixture = Mixture(rows.train, recipe.mixture, recipe.seed)
    return mixture, mixture.lock(rows.ledger), rows
