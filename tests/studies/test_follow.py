"""What is seen of a tuning run: one set of numbers, told once, at the right steps."""

import sys
from pathlib import Path

import pytest

from openflan.studies.follow import followed, means
from openflan.studies.progress import ProgressEvent
from openflan.tuning.dev import DevLoss, MeanLoss
from openflan.tuning.settings import TuningSettings
from openflan.tuning.tune import StepReport
from tests.tuning.test_trackers import FakeLibrary

SETTINGS = TuningSettings(steps=5, log_every=2, track=("wandb",))


def step(number: int, *, dev: int | None = None, loss: float = 2.0, targets: int = 10) -> StepReport:
    mean = MeanLoss(1.5, 30, 3)
    return StepReport(
        step=number,
        loss=loss,
        lr=0.1,
        grad_norm=1.0,
        tokens=100,
        target_tokens=targets,
        examples=4,
        fill=0.5,
        block=0,
        seconds=2.0,
        waited_seconds=0.5,
        dev=None if dev is None else DevLoss(dev, mean, {"rte": mean}),
    )


def test_means_weigh_each_number_by_what_it_is_a_mean_over() -> None:
    found = means([step(1, loss=1.0, targets=10), step(2, loss=4.0, targets=20)])
    assert found["tune/loss"] == pytest.approx(3.0)
    assert found["tune/fill"] == pytest.approx(0.5)
    assert found["tune/tokens_per_second"] == pytest.approx(50)
    assert found["tune/target_tokens_per_second"] == pytest.approx(7.5)
    assert found["tune/waited_share"] == pytest.approx(0.25)


def test_progress_and_trackers_hear_the_same_at_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLibrary("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    seen: list[ProgressEvent] = []
    with followed("nli/tuned", SETTINGS, tmp_path, {}, seen.append) as report:
        for number in range(1, 6):
            report(step(number, dev=4 if number >= 4 else 0))
    assert [(event.done, event.total) for event in seen] == [(2, 5), (4, 5), (5, 5)]
    assert seen[0].note == "loss 2.000 · dev 1.500 · 50 tokens/s · 5 target tokens/s · fill 50% · waited 25%"
    tuned = [(at, values["tune/loss"]) for at, values in fake.logged if "tune/loss" in values]
    assert tuned == [(2, 2.0), (4, 2.0), (5, 2.0)]
    dev = [(at, values) for at, values in fake.logged if "dev/loss" in values]
    assert dev == [(at, {"dev/loss": 1.5, "dev_tasks/rte": 1.5}) for at in (0, 4)]
    assert [at for at, _ in fake.logged] == sorted(at for at, _ in fake.logged)
    assert fake.finished == 1


def test_a_run_that_goes_on_does_not_tell_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLibrary("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with followed("nli/tuned", SETTINGS, tmp_path, {}, lambda event: None) as report:
        report(step(4, dev=2))
        report(step(5, dev=5))
    assert [at for at, values in fake.logged if "dev/loss" in values] == [5]


def test_trackers_are_closed_when_tuning_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLibrary("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(KeyboardInterrupt), followed("r/tuned", SETTINGS, tmp_path, {}, lambda event: None) as report:
        report(step(1))
        raise KeyboardInterrupt
    assert fake.finished == 1
