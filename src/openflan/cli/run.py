"""`openflan run`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, out, shown_progress
from openflan.errors import ConfigError


def run(
    recipe: Annotated[str | None, typer.Argument(help="Recipe file, or the name of a shipped one.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder, or world:small|base|base-1|base-2.")] = None,
    hold_out: options.HoldOut = None,
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of tuning.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="Arm to run; comma-separated or repeated.")] = None,
    limit: options.Limit = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    world_seed: Annotated[int | None, typer.Option(help="Which rows of the micro-world are generated.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the arms.")] = 1,
    out_: Annotated[Path | None, typer.Option("--out", help="Run folder.", show_default="runs/<held-out>-<name>")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and the split; run nothing.")] = False,
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """One recipe, start to end: tune on the other clusters, score the held-out ones before and after, compare.

    Example: openflan run --model HuggingFaceTB/SmolLM2-135M --hold-out nli --out runs/nli
    """
    from openflan.reports.report import write_report
    from openflan.reports.table import render_table
    from openflan.studies.run import run_many

    resolved = resolve(
        recipe, model=model, hold_out=options.listed(hold_out), catalogs=options.listed(catalog), data_root=data_root,
        steps=steps, lr=lr, arms=options.listed(arms), limit=limit, seed=seed, world_seed=world_seed,
    )  # fmt: skip
    if dry_run:
        show_plan(resolved, json_=json_)
        return
    folder = out_ or Path("runs") / f"{'-'.join(resolved.hold_out)}-{resolved.fingerprint[:8]}"
    with shown_progress(quiet=quiet) as progress:
        run_many({folder: resolved}, workers=workers, progress=progress)
    page = write_report(folder)
    from openflan.artifacts import read_json

    result = read_json(folder / "result.json")
    if json_:
        emit_json(result)
    else:
        out.print(render_table(result))
    if not quiet:
        err.print(str(page), markup=False)


def resolve(
    recipe: str | None,
    *,
    model: str | None = None,
    hold_out: list[str] | None = None,
    catalogs: list[str] | None = None,
    data_root: Path | None = None,
    steps: int | None = None,
    lr: float | None = None,
    arms: list[str] | None = None,
    limit: int | None = None,
    seed: int | None = None,
    world_seed: int | None = None,
) -> Any:
    """The recipe a command line means: a file's (or a shipped one's) with the flags on top."""
    from openflan.studies.demo import shipped_recipe
    from openflan.studies.recipe import load_recipe, recipe_from

    table: dict[str, Any] = {}
    if recipe is not None:
        file = Path(recipe)
        table = load_recipe(file if file.suffix == ".toml" or file.exists() else shipped_recipe(recipe)).model_dump(mode="json")
    top = {"model": model, "hold_out": hold_out, "catalogs": catalogs, "arms": arms, "seed": seed, "world_seed": world_seed,
           "data_root": None if data_root is None else str(data_root)}  # fmt: skip
    table |= {key: value for key, value in top.items() if value not in (None, [])}
    for section, key, value in (("tuning", "steps", steps), ("tuning", "lr", lr), ("evaluation", "items", limit)):
        if value is not None:
            table[section] = {**table.get(section, {}), key: value}
    if missing := [flag for key, flag in (("model", "--model"), ("hold_out", "--hold-out")) if not table.get(key)]:
        raise ConfigError(f"give a recipe, or {' and '.join(missing)}")
    return recipe_from(table, "command line" if recipe is None else recipe)


def show_plan(recipe: Any, *, json_: bool) -> None:
    """What a run would do: the resolved recipe, and which tasks stand where."""
    from openflan.catalog.holdout import hold_out
    from openflan.catalog.load import load_catalog

    split = hold_out(load_catalog(*recipe.catalogs), recipe.hold_out, rule=recipe.hold_out_rule).to_json()
    if json_:
        emit_json({"recipe": recipe.model_dump(mode="json"), "fingerprint": recipe.fingerprint, "split": split})
        return
    out.print(recipe.to_toml(), markup=False, highlight=False)
    for key in ("evaluated", "train"):
        out.print(f"{key} ({len(split[key])}): {', '.join(split[key])}", markup=False)
    for excluded in split["excluded"]:
        out.print(f"left out: {excluded['task']}: {excluded['reason']}", markup=False)
