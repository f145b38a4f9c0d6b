"""`openflan tune`"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import err, shown_progress
from openflan.errors import ConfigError, Problem


def tune(
    recipe: Annotated[str | None, typer.Argument(help="Recipe file, or the name of a shipped one.")] = None,
    model: Annotated[str | None, typer.Option(help="Base model: hub id, folder, or world:NAME.")] = None,
    hold_out: options.HoldOut = None,
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    require_all: options.RequireAll = False,
    method: Annotated[
        str | None, typer.Option(help="full, lora or soft_prompt.", show_default="the recipe's, or full")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="Hold the base in few bits beside LoRA: nf4 or int8 (extra: qlora).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate.", show_default="3e-5; lora 2e-4, soft_prompt 0.3")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    dev_every: options.DevEvery = None,
    track: options.Track = None,
    out_: Annotated[Path | None, typer.Option("--out", help="Run folder; the model goes to OUT/model.")] = None,
    quiet: options.Quiet = False,
) -> None:
    """Tune only: the recipe's first tuned arm, on everything its held-out clusters allow.

    On several GPUs: torchrun --nproc-per-node 8 -m openflan tune RECIPE (docs/tuning.md).

    Example: openflan tune --model gpt2 --hold-out nli --data-root data --method lora --steps 2000 --out runs/lora
    """
    from openflan.studies.recipe import TUNED_WITH, Arm, resolve
    from openflan.studies.rows import refuse_tuned_base, split_of, store_split
    from openflan.studies.run import tune_only
    from openflan.tuning.distributed import joined

    resolved = resolve(
        recipe,
        {
            "tuning": {
                "steps": steps,
                "lr": lr,
                "method": method,
                "lora": quantize and {"quantize": quantize},
                "dev_every": dev_every,
                "track": options.listed(track) or None,
            }
        },
        model=model,
        hold_out=options.listed(hold_out),
        catalogs=options.listed(catalog),
        data_root=None if data_root is None else str(data_root),
        require_all=require_all or None,
        seed=seed,
    )
    if quantize is not None and resolved.tuning.method != "lora":
        raise ConfigError(
            Problem("--quantize", f"is for LoRA, the method is {resolved.tuning.method}", "--method lora")
        )
    refuse_tuned_base(resolved)
    tuned_arms: list[Arm] = [name for name in resolved.arms if name in TUNED_WITH]
    arm: Arm = tuned_arms[0] if tuned_arms else "tuned"
    folder = out_ or Path("runs") / f"tune-{resolved.fingerprint[:8]}"
    with joined() as world, shown_progress(quiet=quiet) as progress:
        if world.first:
            store_split(split_of(resolved), resolved, workers=options.cores(), progress=progress)
        world.wait()
        model_folder = tune_only(resolved, folder, arm=arm, progress=progress)
    if not world.first:
        return
    typer.echo(str(model_folder))
    if not quiet:
        command = ["openflan", "evaluate", "--model", str(model_folder), "--hold-out", ",".join(resolved.hold_out)]
        named = [word for name in resolved.catalogs for word in ("--catalog", name)]
        command += [] if resolved.catalogs == ("flan",) else named
        command += [] if resolved.data_root is None else ["--data-root", resolved.data_root]
        command += ["--world-seed", str(resolved.world_seed)] if resolved.world_seed else []
        err.print("evaluate it with:", shlex.join(command), markup=False, soft_wrap=True)
