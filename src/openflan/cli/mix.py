"""`openflan mix`"""

from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, shown_progress


def mix(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped one.")],
    out_: Annotated[Path, typer.Option("--out", help="Folder for the data.")],
    format_: Annotated[
        str, typer.Option("--format", help="parquet, messages, prompt-completion, segments or lm-eval.")
    ] = "parquet",
    examples: Annotated[int, typer.Option(min=1, help="Examples to write.")] = 10_000,
    data_root: options.DataRoot = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the tuning mixture of a recipe for another trainer, with its lock file.

    Example: openflan mix demo --out mixture --format messages --examples 1000
    """
    from openflan.interop.mix import export_mixture
    from openflan.studies.recipe import resolve

    resolved = resolve(recipe, data_root=None if data_root is None else str(data_root))
    with shown_progress(quiet=quiet) as progress:
        summary = export_mixture(resolved, out_, format_, num_examples=examples, progress=progress)
    if json_:
        emit_json(summary)
    elif not quiet:
        err.print(f"{out_}  {summary['examples']:,} examples of {len(summary['tasks'])} tasks", markup=False)
