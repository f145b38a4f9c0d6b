"""Instruction tuning of one model on one machine's one device: the loop, and what it leaves in its folder.

Takes a `LanguageModel` and mixture blocks of `Encoded`, gives the tuned `LanguageModel`. Read next: `scoring/`.

    FOLDER/
      tuning.json    what the weights depend on: settings, base model, prompt format
      steps.jsonl    one line a step: loss (nats per target token), lr, grad_norm, tokens, target_tokens, examples,
                     fill (share of the rows' room in use), block (of the mixture, of its last row),
                     timing {seconds, tokens_per_second, waited_seconds (for its rows)}
      dev.jsonl      the loss on dev rows at fixed steps, where there are any (`dev.py`)
      checkpoints/   while it runs
      model/         written last; plain transformers loads it. Of soft prompts, and of LoRA beside quantized weights
                     (merging would round them anew): the adapter alone, in peft's layout
      adapter/       LoRA only: the adapter by itself; `model/` has it merged

Calling `tune` again after a crash continues at the last sound checkpoint; on a CPU the weights end as if nothing had
happened, bit for bit.
"""

import contextlib
import copy
import dataclasses
import functools
import json
import logging
import math
import shutil
import signal
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from openflan import artifacts
from openflan.encoding.pack import PackedRow
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ModelError, Problem, RunError
from openflan.models.adapters import Adapted, add_lora
from openflan.models.load import LanguageModel, load_model, save_model
from openflan.models.packed_forward import Way
from openflan.models.packing import packing_of
from openflan.models.soft_prompt import add_soft_prompt, save_soft_prompt
from openflan.seeding import derive
from openflan.tuning.checkpoint import Progress, load_checkpoint, save_checkpoint
from openflan.tuning.dev import DevLog, DevLoss, DevSet
from openflan.tuning.feed import Blocks, num_workers, row_length, steps_from
from openflan.tuning.loss import backward, target_nats
from openflan.tuning.optimizer import make_optimizer
from openflan.tuning.settings import TuningSettings

if TYPE_CHECKING:
    from types import FrameType

logger = logging.getLogger(__name__)

LOG_FILE = "steps.jsonl"


@dataclass(frozen=True, slots=True)
class StepReport:
    """One optimizer step."""

    step: int
    """From 1."""
    loss: float
    """Nats per target token, before the step."""
    lr: float
    grad_norm: float
    """Before clipping."""
    tokens: int
    target_tokens: int
    examples: int
    fill: float
    """Tokens as a share of what the step's rows had room for."""
    block: int
    """Of the mixture, the one its last row is from."""
    seconds: float
    waited_seconds: float
    """Part of `seconds`: until its rows were there."""
    dev: DevLoss | None = None
    """The last one measured, if any."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Plain data; only what stands under "timing" differs between equal runs."""
        plain = dataclasses.asdict(self)
        del plain["dev"]
        timing = {"seconds": round(plain.pop("seconds"), 4), "waited_seconds": round(plain.pop("waited_seconds"), 4)}
        return plain | {"timing": timing | {"tokens_per_second": round(self.tokens_per_second, 1)}}


def tune(
    lm: LanguageModel,
    blocks: Blocks,
    settings: TuningSettings,
    folder: Path,
    *,
    prompt_format: PromptFormat | None = None,
    report: Callable[[StepReport], None] | None = None,
    dev: DevSet | None = None,
    in_place: bool = False,
) -> LanguageModel:
    """The model after `settings.steps` steps on `blocks`, also saved in `folder/model`.

    blocks: gives the encoded examples of mixture block 0, 1, ...; asked again for the same block it must give the same.
    prompt_format: what the examples were encoded with, saved with the weights; default the model's own.
    report: called after every step.
    dev: examples whose loss is measured every `settings.dev_every` steps, before the first and after the last.
    in_place: tune `lm.model` itself where memory has no room for a copy; otherwise `lm` stays as it is.

    Raises RunError where the folder belongs to other settings, ModelError where the loss is not finite. On SIGTERM and
    SIGINT it saves a checkpoint and leaves with SystemExit or KeyboardInterrupt.
    """
    prompt_format = prompt_format or lm.prompt_format or PromptFormat()
    _claim(folder, lm, settings, prompt_format)
    if not (folder / "model").is_dir():
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(settings.seed, "tune") % 2**63)
            _run(lm if in_place else _copied(lm), blocks, settings, folder, prompt_format, report, dev)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return _finished(lm, folder)


def _run(
    lm: LanguageModel,
    blocks: Blocks,
    settings: TuningSettings,
    folder: Path,
    prompt_format: PromptFormat,
    report: Callable[[StepReport], None] | None,
    dev: DevSet | None,
) -> None:
    lm, adapted = _made_trainable(lm, settings)
    optimizer = make_optimizer(lm.model.parameters(), settings)
    progress = load_checkpoint(folder / "checkpoints", lm.model, optimizer)
    _cut_log(folder / LOG_FILE, progress.step)
    way = _way(lm, settings)
    lm.model.train()
    nats = functools.partial(target_nats, lm.model, bfloat16=_in_bfloat16(lm, settings), way=way)
    dev_log = DevLog(dev or {}, lm, settings, nats, folder)
    dev_log.measure(progress.step)
    workers = num_workers(blocks, settings, on_gpu=lm.device.type == "cuda")
    feed = steps_from(progress.cursor, blocks, settings, lm.context, prefix_ids=lm.prefix_ids, workers=workers)
    with (
        _asked_to_stop() as stop,
        contextlib.closing(feed),
        (folder / LOG_FILE).open("a", encoding="utf-8") as log,
    ):
        while progress.step < settings.steps:
            started = time.perf_counter()
            rows, cursor = next(feed)
            waited = time.perf_counter() - started
            loss, norm = _step(lm, rows, optimizer, settings, progress.step, way, folder)
            progress = Progress(progress.step + 1, cursor)
            done = _described(progress, rows, loss, norm, settings, lm, time.perf_counter() - started, waited)
            log.write(json.dumps(done.to_json()) + "\n")
            log.flush()
            dev_log.measure(progress.step)
            if report is not None:
                report(dataclasses.replace(done, dev=dev_log.last))
            if stop or (progress.step % settings.checkpoint_every == 0 and progress.step < settings.steps):
                save_checkpoint(folder / "checkpoints", progress, lm.model, optimizer, keep=settings.keep_checkpoints)
            if stop:
                raise KeyboardInterrupt if stop[0] == signal.SIGINT else SystemExit(128 + stop[0])
    _save(lm, adapted, folder, prompt_format)


def _step(
    lm: LanguageModel,
    rows: Sequence[PackedRow],
    optimizer: torch.optim.Optimizer,
    settings: TuningSettings,
    step: int,
    way: Way,
    folder: Path,
) -> tuple[float, float]:
    """One optimizer step: (loss, gradient norm before clipping)."""
    optimizer.zero_grad(set_to_none=True)
    bfloat16 = _in_bfloat16(lm, settings)
    loss = backward(lm.model, rows, forward_tokens=settings.forward_tokens, bfloat16=bfloat16, way=way)
    trainable = [p for p in lm.model.parameters() if p.requires_grad]
    norm = float(torch.nn.utils.clip_grad_norm_(trainable, settings.clip_norm or math.inf))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        row_ids = [name for row in rows for name in row.row_ids]
        path = folder / "not_finite.json"
        artifacts.write_json(path, {"step": step + 1, "loss": str(loss), "grad_norm": str(norm), "row_ids": row_ids})
        raise ModelError(
            f"step {step + 1}: loss {loss}, gradient norm {norm}; its {len(row_ids)} examples are named in {path}, "
            f"the first is {row_ids[0]}"
        )
    for group in optimizer.param_groups:
        group["lr"] = settings.lr_at(step)
    optimizer.step()
    return loss, norm


def _in_bfloat16(lm: LanguageModel, settings: TuningSettings) -> bool:
    return settings.precision == "bfloat16" or (settings.precision == "auto" and computes_bfloat16(lm.device))


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 itself; others emulate it, several times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Torch's own names, which a release may take away: then float32 is the answer.
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(supported is not None and supported() for supported in known)


def last_block(folder: Path) -> int:
    """The block of the mixture that the last row tuned on in `folder` is from."""
    return int(json.loads((folder / LOG_FILE).read_text(encoding="utf-8").splitlines()[-1])["block"])


def _described(
    progress: Progress,
    rows: Sequence[PackedRow],
    loss: float,
    norm: float,
    settings: TuningSettings,
    lm: LanguageModel,
    seconds: float,
    waited: float,
) -> StepReport:
    tokens = sum(len(row.input_ids) for row in rows)
    room = len(rows) * row_length((), settings, lm.context)
    return StepReport(
        step=progress.step,
        loss=loss,
        lr=settings.lr_at(progress.step - 1),
        grad_norm=norm,
        tokens=tokens,
        target_tokens=sum(len(row.labels) for row in rows),
        examples=sum(len(row.row_ids) for row in rows),
        fill=min(1.0, tokens / room),
        block=progress.cursor.last_block,
        seconds=seconds,
        waited_seconds=waited,
    )


def _made_trainable(lm: LanguageModel, settings: TuningSettings) -> tuple[LanguageModel, Adapted | None]:
    if settings.method == "lora":
        adapted = add_lora(lm, settings.lora, seed=settings.seed)
        return adapted.lm, adapted
    if settings.method == "soft_prompt":
        return add_soft_prompt(lm, num_tokens=settings.soft_prompt_tokens, seed=settings.seed), None
    if lm.quantize is not None:
        raise ModelError(f"{lm.name} is held in {lm.quantize}, which only method lora can tune")
    lm.model.requires_grad_(True)
    return lm, None


def _way(lm: LanguageModel, settings: TuningSettings) -> Way:
    """How examples go through the model; where that is not the cheapest way, it is said."""
    with torch.autocast(lm.device.type, torch.bfloat16, enabled=_in_bfloat16(lm, settings)):
        packing = packing_of(lm.model, row_length((), settings, lm.context))
    if packing.refused:
        logger.warning("%s", packing)
    return packing.way


def _save(lm: LanguageModel, adapted: Adapted | None, folder: Path, prompt_format: PromptFormat) -> None:
    """Fill `folder/model` and give it its name in one rename."""
    work = folder / "model.part"
    shutil.rmtree(work, ignore_errors=True)
    lm = dataclasses.replace(lm, prompt_format=prompt_format)
    if lm.prefix_ids:
        save_soft_prompt(lm, work)
    elif adapted is not None:
        adapted.save(folder / "adapter", prompt_format)
        if lm.quantize is None:
            save_model(dataclasses.replace(lm, model=adapted.merged().model), work, prompt_format)
        else:
            adapted.save(work, prompt_format)
    else:
        save_model(lm, work, prompt_format)
    work.replace(folder / "model")


def _finished(lm: LanguageModel, folder: Path) -> LanguageModel:
    """The model in `folder/model`, read back from there: what is returned is what was saved."""
    dtype = str(lm.model.dtype).removeprefix("torch.")
    return load_model(str(folder / "model"), dtype=dtype, device=str(lm.device))


def _claim(folder: Path, lm: LanguageModel, settings: TuningSettings, prompt_format: PromptFormat) -> None:
    """Write what the weights depend on, or raise RunError where the folder has something else written down."""
    content = {
        "format": 1,
        "base": lm.identity,
        "settings": settings.content(),
        "prompt_format": prompt_format.model_dump(mode="json"),
    }
    path = folder / "tuning.json"
    if not path.exists():
        artifacts.write_json(path, content)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != content:
        raise RunError(list(_differences(content, found, path)))


def _differences(wanted: dict[str, Any], found: dict[str, Any], path: Path) -> Generator[Problem, None, None]:
    for key in sorted(wanted.keys() | found.keys()):
        ours, theirs = wanted.get(key), found.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differences(ours, theirs, path)
        elif ours != theirs:
            yield Problem(str(path), f"{key} = {theirs!r}, now {ours!r}", "choose another folder or remove this one")


def _copied(lm: LanguageModel) -> LanguageModel:
    return dataclasses.replace(lm, model=copy.deepcopy(lm.model))


def _cut_log(path: Path, step: int) -> None:
    """Keep the lines of steps up to `step`: later ones, and a torn last one, come again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()[:step]
        artifacts.write_text(path, "".join(line + "\n" for line in lines))


@contextlib.contextmanager
def _asked_to_stop() -> Generator[list[int], None, None]:
    """A list that gets the number of a signal asking to stop; outside the main thread nothing changes."""
    asked: list[int] = []

    def note(number: int, frame: "FrameType | None") -> None:
        asked.append(number)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
