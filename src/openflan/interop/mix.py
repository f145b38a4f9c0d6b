"""A recipe's tuning mixture as files for another trainer."""

import math
from pathlib import Path
from typing import Any

from openflan import artifacts
from openflan.catalog.holdout import hold_out
from openflan.catalog.load import load_catalog
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ConfigError, Problem, nearest
from openflan.interop.export import FORMATS, export
from openflan.mixture.mixture import Mixture
from openflan.studies.progress import Progress, ProgressEvent, silent
from openflan.studies.recipe import Recipe
from openflan.studies.rows import read_split


def export_mixture(
    recipe: Recipe, out: Path, format_name: str, *, num_examples: int, progress: Progress = silent
) -> dict[str, Any]:
    """Write the first `num_examples` examples of the mixture, in tuning order, and mixture.lock beside them.

    Raises ConfigError for an unknown format, naming the nearest ones.
    """
    if format_name not in FORMATS:
        raise ConfigError(Problem("--format", f"no format {format_name!r}", nearest(format_name, FORMATS)))
    split = hold_out(load_catalog(*recipe.catalogs), recipe.hold_out, **recipe.hold_out_options)
    rows = read_split(split, recipe)
    mixture = Mixture(rows.train, recipe.mixture, recipe.seed)
    blocks = math.ceil(num_examples / recipe.mixture.block_size) + 1

    def examples() -> Any:
        left = num_examples
        for number in range(blocks):
            progress(ProgressEvent("mix", number, blocks))
            for example in mixture.examples(number)[:left]:
                left -= 1
                yield example

    clusters = {task.name: task.clusters[0] for task in split.train}
    separator = (recipe.prompt or PromptFormat()).separator
    summary = export(examples(), clusters, out, format_name, separator)
    artifacts.write_json(out / "mixture.lock", mixture.lock(rows.ledger))
    artifacts.write_json(out / "split.json", split.to_json())
    return {"examples": num_examples, "tasks": sorted(rows.train), "format": format_name, "files": str(summary)}
