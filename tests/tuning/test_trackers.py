"""Trackers are given the same values, and go on where a stopped run does."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from openflan.errors import ConfigError
from openflan.tuning.trackers import Trackers

STEPS = {10: {"tune/loss": 2.5, "tune/fill": 0.875}, 20: {"tune/loss": 1.25, "tune/fill": 0.75}}


class FakeLibrary(ModuleType):
    """The part of trackio and wandb that is used: `init` gives a run with `log` and `finish`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.given: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, *, project: str, name: str, config: dict[str, Any], resume: str, **more: Any) -> "FakeLibrary":
        self.given = {"project": project, "name": name, "config": config, "resume": resume, **more}
        return self

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def log_all(trackers: Trackers) -> None:
    trackers.open(1)
    for step, values in STEPS.items():
        trackers.log(step, values)
    trackers.close()
    trackers.close()


def test_fakes_of_trackio_and_wandb_get_the_values_and_are_finished_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = {name: FakeLibrary(name) for name in ("trackio", "wandb")}
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    log_all(Trackers(("trackio", "wandb"), tmp_path, run="nli-tuned", identity="0123456789abcdef", config={"lr": 0.5}))
    for fake in fakes.values():
        assert fake.logged == list(STEPS.items())
        assert fake.finished == 1
        assert fake.given["project"] == "openflan"
        assert fake.given["config"] == {"lr": 0.5}
        assert fake.given["resume"] == "allow"
    # What a resumed run is known by: the one has an id for it, the other knows names only.
    assert fakes["wandb"].given["id"] == "0123456789abcdef"
    assert fakes["wandb"].given["name"] == "nli-tuned"
    assert fakes["trackio"].given["name"] == "nli-tuned-01234567"


@pytest.mark.slow
def test_tensorboard_files_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra: trackers")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_all(Trackers(("tensorboard",), tmp_path, run="r", identity="i" * 16, config={}))
    resumed = Trackers(("tensorboard",), tmp_path, run="r", identity="i" * 16, config={})
    resumed.open(16)
    resumed.log(20, {"tune/loss": 1.5})
    resumed.close()
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(read.Tags()["scalars"]) == {"tune/loss", "tune/fill"}
    assert [(event.step, event.value) for event in read.Scalars("tune/loss")] == [(10, 2.5), (20, 1.5)]
    assert [event.step for event in read.Scalars("tune/fill")] == [10]


def test_libraries_that_are_missing_are_named_together_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, package: str | None = None) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigError) as raised:
        Trackers(("tensorboard", "wandb"), tmp_path, run="r", identity="i", config={})
    assert [problem.where for problem in raised.value.problems] == ["tracker tensorboard", "tracker wandb"]
    assert "openflan[trackers]" in str(raised.value)


def test_without_names_nothing_is_written(tmp_path: Path) -> None:
    log_all(Trackers((), tmp_path, run="r", identity="i", config={}))
    assert not list(tmp_path.iterdir())
