"""Where the numbers of a tuning run go while it runs: TensorBoard, trackio, Weights & Biases.

Takes values at steps, hands the same ones to each tracker. A tracker's library is imported only where it is asked for.
Read next: `studies/follow.py`.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from openflan.errors import ConfigError, Problem
from openflan.tuning.settings import TrackerName

PROJECT = "openflan"

_MODULES: dict[TrackerName, str] = {
    "tensorboard": "torch.utils.tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}


class Tracker(Protocol):
    """Something that draws values over steps."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values after `step` steps, by name; steps do not fall."""
        ...

    def close(self) -> None:
        """Nothing comes any more."""
        ...


class Trackers:
    """Several trackers as one; none where no name is given.

    run: what the run is called. identity: what it goes by where it was stopped and goes on, equal only for that run.
    config: what decides its numbers, as plain data.

    Raises ConfigError where a tracker's library is not installed, naming all of them.
    """

    def __init__(
        self, names: tuple[TrackerName, ...], folder: Path, *, run: str, identity: str, config: Mapping[str, Any]
    ) -> None:
        problems: list[Problem] = []
        self._libraries: dict[TrackerName, Any] = {}
        for name in names:
            try:
                self._libraries[name] = importlib.import_module(_MODULES[name])
            except ImportError as error:
                hint = "pip install 'openflan[trackers]'"
                problems.append(Problem(f"tracker {name}", f"its library cannot be imported: {error}", hint))
        if problems:
            raise ConfigError(problems)
        self._folder, self._run, self._identity, self._config = folder, run, identity, dict(config)
        self._open: list[Tracker] = []

    def open(self, step: int) -> None:
        """Start, or go on with, a run whose next step is `step`, counted from 1."""
        self._open = [self._opened(name, library, step) for name, library in self._libraries.items()]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand the values to each tracker."""
        for tracker in self._open:
            tracker.log(step, values)

    def close(self) -> None:
        """Close each tracker that was opened."""
        for tracker in self._open:
            tracker.close()
        self._open = []

    def _opened(self, name: TrackerName, library: Any, step: int) -> Tracker:
        if name == "tensorboard":
            return TensorBoard(library, self._folder / "tensorboard", step)
        if name == "trackio":
            return Trackio(library, f"{self._run}-{self._identity[:8]}", self._config)
        return WeightsAndBiases(library, self._folder, self._run, self._identity, self._config)


class TensorBoard:
    """Event files in a folder; what a run that was stopped there wrote of `step` and later is hidden."""

    def __init__(self, library: Any, folder: Path, step: int) -> None:
        self._writer = library.SummaryWriter(str(folder), purge_step=step if step > 1 else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Trackio:
    """A run of trackio's, which knows one by its name."""

    def __init__(self, library: Any, name: str, config: dict[str, Any]) -> None:
        self._run = library.init(project=PROJECT, name=name, config=config, resume="allow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class WeightsAndBiases:
    """A run of Weights & Biases; where it goes is for its own environment variables to say (WANDB_MODE=offline)."""

    def __init__(self, library: Any, folder: Path, run: str, identity: str, config: dict[str, Any]) -> None:
        self._run = library.init(project=PROJECT, name=run, id=identity, resume="allow", dir=str(folder), config=config)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
