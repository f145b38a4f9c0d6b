"""Checkpoints a killed run continues from: trainable weights, optimizer state, cursor; in torch's distributed format.

Takes the state of a run, gives it back bit for bit, to as many processes as there are now: each writes and reads its
shards. A checkpoint takes its name in one rename, and is read only if every file has the SHA-256 that was written down,
so that a damaged one is passed over for the one before it.

    checkpoints/step-000200/
      .metadata *.distcp   weights and optimizer state, by parameter name (torch.distributed.checkpoint)
      state.json           step and cursor; nothing random is kept, since every step draws from a seed of its own
      manifest.json        SHA-256 of each file
"""

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from transformers import PreTrainedModel

from openflan.artifacts import file_sha256, room_for, write_json
from openflan.tuning.distributed import World
from openflan.tuning.feed import Cursor

logger = logging.getLogger(__name__)

MANIFEST, STATE = "manifest.json", "state.json"
FORMAT = 2
_OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come: finished steps, and the rows that come next."""

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)


def save_checkpoint(
    folder: Path,
    progress: Progress,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
    world: World | None = None,
) -> Path:
    """Write `folder/step-000200` and remove all but the last `keep` checkpoints; every process takes part.

    Raises RunError where there is no room for it; earlier checkpoints stay, and nothing of this one.
    """
    world = world or World()
    final = folder / f"step-{progress.step:06d}"
    work = folder / f".{final.name}.part"
    state = _state(model, optimizer)
    if world.first:
        shutil.rmtree(work, ignore_errors=True)
    with room_for(final, _num_bytes(state), f"the run goes on from {_last(folder)}"), removed_on_error(work):
        if world.first:
            work.mkdir(parents=True)
        world.wait()
        _write(state, work, world)
        own = {path.name: file_sha256(path) for path in work.glob(f"__{world.rank}_*")}
        written = world.gathered(own)
        if world.first:
            cursor = {"block": progress.cursor.block, "row": progress.cursor.row}
            described = {"format": FORMAT, "step": progress.step, "cursor": cursor, "processes": world.size}
            write_json(work / STATE, described)
            manifest = {name: file_sha256(work / name) for name in (STATE, ".metadata")}
            write_json(work / MANIFEST, {**manifest, **{name: sha for part in written for name, sha in part.items()}})
            shutil.rmtree(final, ignore_errors=True)
            work.replace(final)
    if world.first:
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    world.wait()
    return final


def load_checkpoint(
    folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, world: World | None = None
) -> Progress:
    """Put the last sound checkpoint's state into model and optimizer; a fresh `Progress` where there is none."""
    world = world or World()
    if world.first:
        for part in folder.glob(".step-*.part"):
            shutil.rmtree(part, ignore_errors=True)
    found, *_ = world.gathered(checkpoints(folder))
    for checkpoint in reversed(found):
        if _is_sound(checkpoint, world):
            return _restore(checkpoint, model, optimizer)
        if world.first:
            logger.warning("%s is damaged or of an older version: passed over and removed", checkpoint)
            shutil.rmtree(checkpoint)  # else it would count as one of the last that are kept
    return Progress()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; copies of theirs under other names ("step-200 (copy)") are none."""
    steps = {path: path.name.removeprefix("step-") for path in folder.glob("step-*")}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


@contextlib.contextmanager
def removed_on_error(folder: Path) -> Generator[None, None, None]:
    """Remove a folder if the block that fills it fails."""
    try:
        yield
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _state(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer, options=_OPTIONS)
    return {"model": weights, "optimizer": moments}


def _num_bytes(state: Any) -> int:
    if isinstance(state, dict):
        return sum(map(_num_bytes, cast("dict[str, Any]", state).values()))
    return state.numel() * state.element_size() if isinstance(state, Tensor) else 0


def _write(state: dict[str, Any], work: Path, world: World) -> None:
    with _plain_errors():
        save(state, storage_writer=FileSystemWriter(work), no_dist=world.size == 1)


@contextlib.contextmanager
def _plain_errors() -> Generator[None, None, None]:
    """What torch raises for all processes together turned into the error of the first that had one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is meant
        try:
            yield
        except CheckpointException as error:
            _, (first, _) = min(error.failures.items())
            raise first from error


def _last(folder: Path) -> str:
    found = checkpoints(folder)
    return str(found[-1]) if found else "its beginning"


def _is_sound(checkpoint: Path, world: World) -> bool:
    """Whether all files are as written; each process reads its part of them."""
    try:
        manifest: dict[str, str] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        current = json.loads((checkpoint / STATE).read_text(encoding="utf-8")).get("format") == FORMAT
        own = sorted(manifest)[world.rank :: world.size]
        sound = current and all(file_sha256(checkpoint / name) == manifest[name] for name in own)
    except (OSError, ValueError):
        sound = False
    return all(world.gathered(sound))


def _restore(checkpoint: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Progress:
    state = _state(model, optimizer)
    with _plain_errors():
        load(state, checkpoint_id=checkpoint)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=_OPTIONS
    )
    kept = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return Progress(int(kept["step"]), Cursor(**kept["cursor"]))
