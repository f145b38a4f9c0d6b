"""Checkpoints a killed run continues from: trainable weights, optimizer, cursor and random state.

Takes the state of a run, gives it back bit for bit. A checkpoint takes its name in one rename, and is read only if
every file has the SHA-256 that was written down, so that a damaged one is passed over for the one before it.
"""

import json
import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import (
    load_file,  # pyright: ignore[reportUnknownVariableType] -- its PathLike is unspecific
    save_file,  # pyright: ignore[reportUnknownVariableType]
)
from torch import Tensor
from transformers import PreTrainedModel

from openflan.artifacts import file_sha256, write_json
from openflan.tuning.feed import Cursor

logger = logging.getLogger(__name__)

MANIFEST, STATE, WEIGHTS, OPTIMIZER = "manifest.json", "state.json", "weights.safetensors", "optimizer.pt"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come: finished steps, and the rows that come next."""

    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)


def save_checkpoint(
    folder: Path, progress: Progress, model: PreTrainedModel, optimizer: torch.optim.Optimizer, *, keep: int
) -> Path:
    """Write `folder/step-000200` and remove all but the last `keep` checkpoints."""
    final = folder / f"step-{progress.step:06d}"
    work = folder / f".{final.name}.{os.getpid()}.part"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    save_file({name: p.detach().cpu().contiguous() for name, p in _trainable(model).items()}, work / WEIGHTS)
    torch.save({"optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}, work / OPTIMIZER)
    cursor = {"block": progress.cursor.block, "row": progress.cursor.row}
    write_json(work / STATE, {"format": 1, "step": progress.step, "cursor": cursor})
    write_json(work / MANIFEST, {name: file_sha256(work / name) for name in (OPTIMIZER, STATE, WEIGHTS)})
    shutil.rmtree(final, ignore_errors=True)
    work.replace(final)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Progress:
    """Put the last sound checkpoint's state into model and optimizer; a fresh `Progress` where there is none."""
    for part in folder.glob(".step-*.part"):
        shutil.rmtree(part, ignore_errors=True)
    for checkpoint in reversed(checkpoints(folder)):
        if _is_sound(checkpoint):
            return _restore(checkpoint, model, optimizer)
        logger.warning("%s is damaged and passed over", checkpoint)
    return Progress()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))


def _is_sound(checkpoint: Path) -> bool:
    try:
        manifest: dict[str, str] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest) and all(file_sha256(checkpoint / name) == sha for name, sha in manifest.items())
    except (OSError, ValueError):
        return False


def _restore(checkpoint: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Progress:
    weights = load_file(checkpoint / WEIGHTS)
    with torch.no_grad():
        for name, parameter in _trainable(model).items():
            parameter.copy_(weights[name])
    kept = cast("dict[str, Any]", torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True))
    optimizer.load_state_dict(kept["optimizer"])
    torch.set_rng_state(kept["random"])
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return Progress(int(state["step"]), Cursor(**state["cursor"]))


def _trainable(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
