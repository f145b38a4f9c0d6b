"""`openflan run`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, out, processes, shown_progress


def run(
    recipe: Annotated[str | None, typer.Argument(help="Recipe file, or the name of a shipped one.")] = None,
    model: Annotated[str | None, typer.Option(help=options.ANY_MODEL)] = None,
    hold_out: options.HoldOut = None,
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of tuning.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="Arm to run; comma-separated or repeated.")] = None,
    require_all: options.RequireAll = False,
    limit: options.Limit = None,
    shots: options.Shots = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    world_seed: Annotated[int | None, typer.Option(help="Which rows of the micro-world are generated.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the arms.")] = 1,
    dev_every: options.DevEvery = None,
    track: options.Track = None,
    out_: Annotated[
        Path | None, typer.Option("--out", help="Run folder.", show_default="runs/<held-out>-<name>")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the split; run nothing.")
    ] = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """One recipe, start to end: tune on the other clusters, score the held-out ones before and after, compare.

    Example: openflan run --model HuggingFaceTB/SmolLM2-135M --hold-out nli --out runs/nli
    """
    from openflan.artifacts import read_json
    from openflan.reports.report import write_report
    from openflan.reports.table import render_table
    from openflan.studies.recipe import resolve
    from openflan.studies.rows import refuse_tuned_base, split_of, store_split
    from openflan.studies.run import run_many, tune_arms

    resolved = resolve(
        recipe,
        {
            "tuning": {"steps": steps, "lr": lr, "dev_every": dev_every, "track": options.listed(track) or None},
            "evaluation": {
                "items": limit,
                "dev_items": limit and min(limit, 20),
                "shots": options.numbers(shots),
            },
        },
        model=model,
        hold_out=options.listed(hold_out),
        catalogs=options.listed(catalog),
        data_root=None if data_root is None else str(data_root),
        require_all=require_all or None,
        arms=options.listed(arms),
        seed=seed,
        world_seed=world_seed,
    )
    if dry_run:
        show_plan(resolved, json_=json_)
        return
    refuse_tuned_base(resolved)  # before rows are read, which can take long
    folder = out_ or Path("runs") / f"{'-'.join(resolved.hold_out)}-{resolved.fingerprint[:8]}"
    with shown_progress(quiet=quiet) as progress:
        if processes() > 1:
            from openflan.tuning.distributed import go_on_alone, joined

            with joined() as world:
                if world.first:
                    store_split(split_of(resolved), resolved, workers=options.cores(), progress=progress)
                world.wait()
                tune_arms(resolved, folder, resolved.arms, progress=progress)
            if not world.first:
                return
            go_on_alone()
        else:
            store_split(split_of(resolved), resolved, workers=options.cores(), progress=progress)
        run_many({folder: resolved}, workers=workers, progress=progress)
    page = write_report(folder)
    result = read_json(folder / "result.json")
    if json_:
        emit_json(result)
    else:
        out.print(render_table(result))
    if not quiet:
        err.print(str(page), markup=False)


def show_plan(recipe: Any, *, json_: bool) -> None:
    """What a run would do: the resolved recipe, and which tasks stand where."""
    from openflan.studies.rows import split_of

    split = split_of(recipe).to_json()
    if json_:
        emit_json({"recipe": recipe.model_dump(mode="json"), "fingerprint": recipe.fingerprint, "split": split})
        return
    out.print(recipe.to_toml(), markup=False, highlight=False)
    for key in ("evaluated", "train"):
        out.print(f"{key} ({len(split[key])}): {', '.join(split[key])}", markup=False)
    for excluded in split["excluded"]:
        out.print(f"left out: {excluded['task']}: {excluded['reason']}", markup=False)
