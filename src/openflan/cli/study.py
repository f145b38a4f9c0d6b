"""`openflan study`"""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from openflan.cli import options
from openflan.cli.console import emit_json, err, out, shown_progress
from openflan.errors import ConfigError, Problem

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
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many rows of each task.")] = None,
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


FIGURES = {
    "holdout": "Figure 5: zero-shot on clusters never seen, beside baselines and a ceiling.",
    "clusters": "Figure 6: the number of clusters tuned on, in several orders.",
    "scale": "Figure 7: what tuning did at each size of the base model.",
    "instructions": "Figure 8: the role of instructions, apart from that of the list of options.",
    "shots": "Figure 9: exemplars in front.",
    "prompt_tuning": "Figure 10: soft prompts on the untuned and on the tuned model.",
    "breadth": "Figure 11: datasets of each cluster, and templates of each dataset.",
    "templates": "Beyond the paper: a task asked through templates it was tuned with, and through others.",
}
ALL = "all"


def _figures(chosen: str) -> Callable[..., None]:
    """The command of one study, or of all that the settings have models for."""

    def command(
        settings: Annotated[
            str | None, typer.Option("--settings", help="Settings file or shipped settings.", show_default="world")
        ] = None,
        recipe: Annotated[
            str | None, typer.Option("--recipe", help="Recipe that all systems share, in place of the settings' own.")
        ] = None,
        model: Annotated[
            list[str] | None, typer.Option("--model", help="Base models of one size; comma-separated or repeated.")
        ] = None,
        hold_out: Annotated[
            list[str] | None,
            typer.Option("--hold-out", metavar="SPLIT", help="A split each; clusters of one are joined by +."),
        ] = None,
        together: Annotated[
            list[str] | None,
            typer.Option("--together", metavar="CLUSTER", help="Clusters held out at once, where one model is tuned."),
        ] = None,
        catalog: options.Catalogs = None,
        data_root: options.DataRoot = None,
        seeds: Annotated[
            list[str] | None, typer.Option("--seeds", help="Seeds of mixture and tuning; comma-separated or repeated.")
        ] = None,
        world_seed: Annotated[int | None, typer.Option(help="Which rows of the micro-world are generated.")] = None,
        steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of tuning.")] = None,
        limit: options.Limit = None,
        workers: Annotated[
            int | None,
            typer.Option(
                min=1, help="Processes, each with a model.", show_default="the cores, at most 4; 1 beside a GPU"
            ),
        ] = None,
        out_: Annotated[
            Path, typer.Option("--out", help="Folder that studies share: what is there is not computed again.")
        ] = Path("runs/studies"),
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be run; run nothing.")] = False,
        json_: options.Json = False,
        quiet: options.Quiet = False,
    ) -> None:
        from openflan.reports.study_markdown import write_summary
        from openflan.reports.study_page import render_study_table, write_index, write_study_report
        from openflan.studies.all_studies import STUDIES, possible
        from openflan.studies.settings import resolve_settings
        from openflan.studies.study import run_study

        resolved, file = resolve_settings(
            settings,
            recipe,
            models=options.listed(model),
            splits=[split.split("+") for split in options.listed(hold_out)],
            together=options.listed(together),
            seeds=options.numbers(seeds, "--seeds") or (),
            sections={
                "tuning": {"steps": steps},
                "evaluation": {"items": limit, "dev_items": limit and min(limit, 20)},
            },
            catalogs=options.listed(catalog),
            data_root=None if data_root is None else str(data_root),
            world_seed=world_seed,
        )
        studies = possible(resolved) if chosen == ALL else [STUDIES[chosen]]
        if together and all("together" not in study.grids for study in studies):
            raise ConfigError(Problem("--together", f"{chosen} holds out split by split", "use --hold-out"))
        if dry_run:
            show_studies(studies, resolved, out_, json_=json_)
            return
        found: dict[str, Any] = {}
        for study in studies:
            with shown_progress(quiet=quiet) as progress:
                found[study.name] = run_study(
                    study,
                    resolved,
                    out_,
                    settings_file=file,
                    command=shlex.join(["openflan", *sys.argv[1:]]),
                    workers=workers or options.models_at_once(),
                    progress=progress,
                )
            page = write_study_report(out_ / study.name)
            write_summary(out_ / study.name)
            if not json_:
                out.print(render_study_table(found[study.name]))
            if not quiet:
                err.print(str(page), markup=False)
        if chosen == ALL:
            page = write_index(out_, list(found))
            if not quiet:
                err.print(str(page), markup=False)
        if json_:
            emit_json(found if chosen == ALL else found[chosen])

    command.__doc__ = FIGURES.get(chosen, "Every study that the settings have models for, and one page over all.") + (
        f"\n\n    Example: openflan study {chosen} --out runs/studies"
    )
    return command


for _name in (*FIGURES, ALL):
    app.command(_name)(_figures(_name))


def show_studies(studies: Sequence[Any], settings: Any, folder: Path, *, json_: bool) -> None:
    """What studies would run: systems, models and soft prompts to tune, and how many systems are there already."""
    from openflan.studies.study import check_splits, is_done

    rows: list[dict[str, Any]] = []
    known: set[str] = set()
    planned = [(study, study.plan(settings.of_study(study.name)).systems) for study in studies]
    check_splits([system for _, systems in planned for system in systems])
    for study, systems in planned:
        tuned = set[str]().union(*(system.tuned for system in systems))
        rows.append({
            "study": study.name,
            "figure": study.figure or "beyond",
            "systems": len(systems),
            "to tune": len(tuned),
            "first here": len(tuned - known),
            "done": sum(is_done(system, folder) for system in systems),
        })  # fmt: skip
        known |= tuned
    if json_:
        emit_json({"settings": settings.model_dump(mode="json"), "studies": rows})
        return
    for row in rows:
        out.print("  ".join(f"{key} {value}" for key, value in row.items()), markup=False)
