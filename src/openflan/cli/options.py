"""Flags that several verbs share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from openflan.errors import ConfigError, Problem

ANY_MODEL = (
    "Hub id, folder, world:NAME (tiny, mini, small, base, large; docs/studies.md), or an endpoint: remote:MODEL@URL "
    "(docs/remote.md)."
)
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no talk.")]
Catalogs = Annotated[
    list[str] | None,
    typer.Option(
        "--catalog", help="Catalog: flan, world, or a folder of task files. May be repeated.", show_default="flan"
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="OPENFLAN_DATA_ROOT",
        help="Folder of local rows, one folder per task in hub layout; tried before the hub.",
    ),
]
RequireAll = Annotated[
    bool,
    typer.Option(
        "--require-all", help="A dataset that cannot be loaded is an error; else it is left out, and said so."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
WorldSeed = Annotated[int, typer.Option("--world-seed", help="Which rows of the micro-world are generated.")]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, help="At most this many test rows of each task, and up to 20 of its dev rows.",
        show_default="the recipe's, or 100",
    ),
]  # fmt: skip
HoldOut = Annotated[
    list[str] | None,
    typer.Option("--hold-out", help="Cluster to hold out; comma-separated or repeated.", metavar="CLUSTER"),
]

HeldOut = Annotated[
    list[str] | None,
    typer.Option("--held-out", help="Held-out cluster; comma-separated or repeated.", metavar="CLUSTER"),
]


Shots = Annotated[
    list[str] | None,
    typer.Option(
        "--shots",
        metavar="K,…",
        help="Exemplars shown before each row; comma-separated or repeated: every number is asked for.",
        show_default="0",
    ),
]


DevEvery = Annotated[
    int | None,
    typer.Option(
        "--dev-every", min=1, metavar="STEPS", help="Steps between two dev losses of the tuning tasks.",
        show_default="never",
    ),
]  # fmt: skip
Track = Annotated[
    list[str] | None,
    typer.Option("--track", help="Follow tuning in tensorboard, trackio or wandb too; comma-separated or repeated."),
]


def numbers(values: list[str] | None, option: str = "--shots") -> list[int] | None:
    """The whole numbers of `option`, which may be repeated or comma-separated; None where it was not given.

    Raises ConfigError for what is none.
    """
    given = listed(values)
    if wrong := [value for value in given if not value.isdecimal()]:
        raise ConfigError(Problem(option, f"{', '.join(wrong)}: expected whole numbers", f"for example {option} 0,5"))
    return [int(value) for value in given] or None


def cores() -> int:
    """How many processes share work that is not the model's."""
    return os.cpu_count() or 1


def models_at_once() -> int:
    """How many processes load and tune a model each: one where they would share a GPU. Found without torch."""
    return 1 if any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")) else min(cores(), 4)


def listed(values: list[str] | None) -> list[str]:
    """Values of an option that may be repeated or comma-separated."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]
