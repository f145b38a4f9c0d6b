"""`openflan study`"""

from pathlib import Path
from typing import Annotated

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, out, shown_progress

app = typer.Typer(no_args_is_help=True, help="Studies of the paper, each one command, one page and one figure.")


@app.command("contamination")
def contamination(
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            "--corpus",
            help="Folder of .txt, .jsonl, .csv (also .gz, .zst) and .parquet files. May be repeated.",
            show_default="text of the micro-world",
        ),
    ] = None,
    field: Annotated[
        str | None, typer.Option("--field", help="Text column of records.", show_default="text, else every text")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", help="Tasks; comma-separated or repeated.", show_default="all that can be read"),
    ] = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option("--hold-out", help="Clusters instead of tasks; comma-separated or repeated.", metavar="CLUSTER"),
    ] = None,
    catalog: options.Catalogs = None,
    data_root: options.DataRoot = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Finished run: its scores on all, clean and dirty rows.")
    ] = None,
    rule: Annotated[
        str, typer.Option("--rule", help="paper or strict: which one tables and scores go by; both are computed.")
    ] = "paper",
    limit: options.Limit = None,
    world_tokens: Annotated[
        int, typer.Option("--world-tokens", min=1_000, help="Tokens of micro-world text, where no corpus is named.")
    ] = 2_000_000,
    world_seed: Annotated[
        int | None, typer.Option(help="Which rows of the micro-world are generated.", show_default="the run's, or 0")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read the corpus.", show_default="one a core")
    ] = None,
    seed: options.Seed = 0,
    out_: Annotated[
        Path, typer.Option("--out", help="Folder of the study; a killed one goes on where it stood.")
    ] = Path("runs/contamination"),
    json_: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Which evaluated rows a corpus holds, and what a run scores on the others (the paper's appendix on contamination).

    Example: openflan study contamination --corpus pretraining-text --hold-out nli --data-root data --run runs/nli
    """
    from openflan.errors import ConfigError, Problem, nearest
    from openflan.mixture.contamination import RULES
    from openflan.reports.contamination import render_contamination, write_contamination
    from openflan.studies.contamination import ContaminationSettings
    from openflan.studies.contamination import contamination as study

    if rule not in RULES:
        raise ConfigError(Problem("--rule", f"no rule {rule!r}", nearest(rule, RULES)))
    settings = ContaminationSettings(
        corpora=tuple(corpus or ()),
        column=field,
        catalogs=tuple(options.listed(catalog)),
        tasks=tuple(options.listed(tasks)),
        hold_out=tuple(options.listed(hold_out)),
        data_root=data_root,
        world_seed=world_seed,
        limit=limit,
        run=run,
        rule=rule,
        world_tokens=world_tokens,
        seed=seed,
    )
    with shown_progress(quiet=quiet) as progress:
        found = study(settings, out_, workers=workers or options.cores(), progress=progress)
    page = write_contamination(found, out_)
    if json_:
        emit_json(found)
    else:
        out.print(render_contamination(found))
    if not quiet:
        err.print(str(page), markup=False)
