"""`openflan evaluate`"""

from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, out, shown_progress
from openflan.errors import ConfigError


def evaluate(
    model: Annotated[str, typer.Option(help=options.ANY_MODEL)],
    hold_out: Annotated[
        list[str] | None,
        typer.Option("--hold-out", metavar="CLUSTER", help="Clusters to score; comma-separated or repeated."),
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option("--tasks", help="Tasks; comma-separated or repeated.")] = None,
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    require_all: options.RequireAll = False,
    limit: options.Limit = None,
    shots: options.Shots = None,
    seed: options.Seed = 0,
    world_seed: options.WorldSeed = 0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest generated answer, in tokens.", show_default="64")
    ] = None,
    completion: Annotated[
        bool, typer.Option("--completion", help="Ask through completion templates, as one asks untuned models.")
    ] = False,
    out_: Annotated[Path | None, typer.Option("--out", help="Folder for samples and result.")] = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score one model as it is, with or without exemplars, over all templates of the clusters' or tasks' datasets.

    Example: openflan evaluate --model runs/nli/model --hold-out nli --shots 0,5 --data-root data
    """
    from openflan.artifacts import read_json
    from openflan.reports.table import render_table
    from openflan.studies.evaluate import evaluate_only
    from openflan.studies.recipe import resolve

    clusters, names = options.listed(hold_out), options.listed(tasks)
    if bool(clusters) == bool(names):
        raise ConfigError("give either --hold-out with clusters or --tasks with task names")
    recipe = resolve(
        None,
        {
            "evaluation": {
                "items": limit,
                "dev_items": limit and min(limit, 20),
                "shots": options.numbers(shots),
                "max_new_tokens": max_new_tokens,
            }
        },
        model=model,
        hold_out=clusters or names,
        catalogs=options.listed(catalog),
        data_root=None if data_root is None else str(data_root),
        require_all=require_all or None,
        seed=seed,
        world_seed=world_seed,
        arms=["model_completion" if completion else "model"],
    )
    folder = out_ or Path("runs") / f"evaluate-{recipe.fingerprint[:8]}"
    with shown_progress(quiet=quiet) as progress:
        evaluate_only(recipe, names, folder, progress=progress)
    result = read_json(folder / "result.json")
    if json_:
        emit_json(result)
    else:
        out.print(render_table(result))
    if not quiet:
        err.print(str(folder / "result.json"), markup=False)
