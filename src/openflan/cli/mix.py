"""`openflan mix`"""

from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, shown_progress


def mix(
    recipe: Annotated[
        str | None, typer.Argument(help="Recipe file, or the name of a shipped one; none takes the paper's mixture.")
    ] = None,
    out_: Annotated[Path | None, typer.Option("--out", help="Folder for the data.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="parquet, messages, prompt-completion, segments or lm-eval.")
    ] = "parquet",
    examples: Annotated[int, typer.Option(min=1, help="Examples to write.")] = 10_000,
    hold_out: options.HoldOut = None,
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    require_all: options.RequireAll = False,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    verify: Annotated[
        Path | None, typer.Option(help="A mixture.lock: prove that today's rows and templates still give it.")
    ] = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a tuning mixture for another trainer, with its lock file; without --hold-out it is over every task.

    Example: openflan mix --hold-out nli --data-root data --out mixture --format messages --examples 100000
    """
    from openflan.errors import ConfigError
    from openflan.interop.mix import export_mixture, verify_lock
    from openflan.studies.recipe import resolve

    resolved = resolve(
        recipe,
        needs=(),
        hold_out=options.listed(hold_out),
        catalogs=options.listed(catalog),
        data_root=None if data_root is None else str(data_root),
        require_all=require_all or None,
        seed=seed,
    )
    if (out_ is None) == (verify is None):
        raise ConfigError("give either --out with a new folder or --verify with a mixture.lock")
    with shown_progress(quiet=quiet) as progress:
        cores = options.cores()
        if verify is not None:
            lock = verify_lock(resolved, verify, workers=cores, progress=progress)
            summary = {"fingerprint": lock["fingerprint"], "tasks": sorted(lock["tasks"]), "verified": True}
            told = f"{verify}  verified: {lock['fingerprint']}, {len(lock['tasks'])} tasks"
        else:
            assert out_ is not None, "one of the two was given"
            summary = export_mixture(resolved, out_, format_, num_examples=examples, workers=cores, progress=progress)
            told = "\n".join(
                [*summary["notes"], f"{out_}  {summary['examples']:,} examples of {len(summary['tasks'])} tasks"]
            )
    if json_:
        emit_json(summary)
    elif not quiet:
        err.print(told, markup=False)
