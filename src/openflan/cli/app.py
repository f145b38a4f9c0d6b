"""The `openflan` command: verbs, and what an error looks like."""

import logging
import os
import sys
from typing import Annotated

import typer

from openflan.cli import (
    catalog,
    compare,
    demo,
    doctor,
    evaluate,
    mix,
    plan,
    render,
    report,
    run,
    score,
    study,
    tune,
    web,
)
from openflan.cli.console import err, processes, rank
from openflan.errors import ConfigError, OpenflanError, system_words

app = typer.Typer(
    name="openflan",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Instruction-tune a language model on task clusters and measure what it gained on clusters it has never seen.",
)
app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("tune")(tune.tune)
app.command("plan")(plan.plan)
app.command("evaluate")(evaluate.evaluate)
app.command("score")(score.score)
app.command("doctor")(doctor.doctor)
app.command("render")(render.render)
app.command("mix")(mix.mix)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("web")(web.web)
app.add_typer(catalog.app, name="catalog")
app.add_typer(study.app, name="study")


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("openflan"))
        raise typer.Exit


INTERRUPTED = 130
"""The exit code after Ctrl-C."""
TOGETHER = ("tune", "run")
"""Verbs that know what to do when torchrun starts several processes of them."""


@app.callback()
def _main(  # pyright: ignore[reportUnusedFunction] -- typer calls it
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what the library does.")] = False,
) -> None:
    if processes() > 1 and context.invoked_subcommand not in TOGETHER:
        raise ConfigError(
            f"torchrun starts several processes, which only {' and '.join(TOGETHER)} can share work among"
        )
    # What one process of several warns of, the others would say too.
    level = logging.ERROR if rank() > 0 else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)


def main() -> None:
    """Entry point: exit 0 done, 1 failed, 2 misused, 130 interrupted."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except OpenflanError as error:
        kind = type(error).__name__ + (f" in process {rank()}" if rank() > 0 else "")
        if error.problems:
            err.print(f"[bold red]{kind}[/]: {len(error.problems)} problem{'s' * (len(error.problems) > 1)}")
            for problem in error.problems:
                err.print(f"  - {problem}", markup=False)
        else:
            err.print(f"[bold red]{kind}[/]: ", end="")
            err.print(str(error), markup=False)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        logging.getLogger(__name__).info("raised here:", exc_info=error)
        err.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        err.print(system_words(error), markup=False, soft_wrap=True)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as left:  # typer makes the first into the second
        if isinstance(left, SystemExit) and left.code != INTERRUPTED:
            raise
        err.print("interrupted; what a run folder or --store holds is kept, and the same command goes on from there")
        sys.exit(INTERRUPTED)
