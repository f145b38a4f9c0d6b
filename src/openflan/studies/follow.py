"""What one sees of a tuning run while it runs: one set of numbers for the progress line and for every tracker.

Takes `StepReport`s, tells progress and trackers every `log_every` steps. Read next: `run.py`.
"""

import contextlib
import math
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openflan.artifacts import fingerprint
from openflan.studies.progress import Progress, ProgressEvent
from openflan.tuning.settings import TuningSettings
from openflan.tuning.trackers import Trackers

if TYPE_CHECKING:
    from openflan.tuning.tune import StepReport


@contextlib.contextmanager
def followed(
    job: str, settings: TuningSettings, folder: Path, config: Mapping[str, Any], progress: Progress
) -> "Generator[Callable[[StepReport], None], None, None]":
    """What `tune` is given as `report`, for the job of that name tuning in `folder`; `config` is what trackers show.

    Raises ConfigError where a tracker's library is not installed.
    """
    identity = fingerprint([str(folder.resolve()), config])
    trackers = Trackers(settings.track, folder, run=job.replace("/", "-"), identity=identity, config=config)
    since: list[StepReport] = []
    told: int | None = None  # the step of the dev loss that was handed on last

    def report(step: "StepReport") -> None:
        nonlocal told
        if told is None:
            trackers.open(step.step)
            # A run that goes on has told its last one; before the first step there is one nobody was told of.
            told = step.step - 1 if step.step > 1 else -1
        if step.dev is not None and step.dev.step > told:
            told = step.dev.step
            losses = {"dev/loss": step.dev.all} | {f"dev_tasks/{name}": task for name, task in step.dev.tasks.items()}
            trackers.log(told, {name: mean.loss for name, mean in losses.items() if math.isfinite(mean.loss)})
        since.append(step)
        if step.step % settings.log_every == 0 or step.step == settings.steps:
            values = means(since)
            since.clear()
            progress(ProgressEvent(f"{job}: tune", step.step, settings.steps, note(values, step)))
            trackers.log(step.step, values)

    try:
        yield report
    finally:
        trackers.close()


def means(steps: "list[StepReport]") -> dict[str, float]:
    """Some steps as one: loss and fill weighted by what they are means over, rates over all their seconds."""
    tokens, targets = sum(s.tokens for s in steps), sum(s.target_tokens for s in steps)
    seconds = math.fsum(s.seconds for s in steps)
    return {
        "tune/loss": math.fsum(s.loss * s.target_tokens for s in steps) / targets,
        "tune/grad_norm": math.fsum(s.grad_norm for s in steps) / len(steps),
        "tune/lr": steps[-1].lr,
        "tune/fill": tokens / math.fsum(s.tokens / s.fill for s in steps),
        "tune/tokens_per_second": tokens / seconds,
        "tune/target_tokens_per_second": targets / seconds,
        "tune/waited_share": math.fsum(s.waited_seconds for s in steps) / seconds,
    }


def note(values: Mapping[str, float], step: "StepReport") -> str:
    """The words beside a progress bar."""
    dev = [] if step.dev is None else [f"dev {step.dev.all.loss:.3f}"]
    return " · ".join([
        f"loss {values['tune/loss']:.3f}",
        *dev,
        f"{values['tune/tokens_per_second']:,.0f} tokens/s",
        f"{values['tune/target_tokens_per_second']:,.0f} target tokens/s",
        f"fill {values['tune/fill']:.0%}",
        f"waited {values['tune/waited_share']:.0%}",
    ])  # fmt: skip
