"""`openflan tune`"""

from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import err, shown_progress


def tune(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped one.")],
    model: Annotated[str | None, typer.Option(help="Base model in place of the recipe's.")] = None,
    data_root: options.DataRoot = None,
    require_all: options.RequireAll = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    out_: Annotated[Path | None, typer.Option("--out", help="Run folder; the model goes to OUT/model.")] = None,
    quiet: options.Quiet = False,
) -> None:
    """Tune only: the recipe's first tuned arm, on everything its held-out clusters allow.

    On several GPUs: torchrun --nproc-per-node 8 -m openflan tune RECIPE (docs/tuning.md).

    Example: openflan tune demo --model world:small --out runs/tuned
    """
    from openflan.studies.recipe import TUNED_WITH, Arm, resolve
    from openflan.studies.rows import split_of, store_split
    from openflan.studies.run import tune_only
    from openflan.tuning.distributed import joined

    resolved = resolve(
        recipe,
        {"tuning": {"steps": steps}},
        model=model,
        data_root=None if data_root is None else str(data_root),
        require_all=require_all or None,
    )
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
        err.print(
            "evaluate it with: openflan evaluate --model", str(model_folder), "--hold-out", ",".join(resolved.hold_out)
        )
