"""Instruction tuning of one model, in one process or in those torchrun starts: the loop, and what it leaves behind.

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
happened, bit for bit. The number of processes may change meanwhile: it moves an update only by rounding.
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
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from torch.distributed.fsdp import FSDPModule

from openflan import artifacts
from openflan.encoding.pack import PackedRow
from openflan.encoding.prompt_format import PromptFormat
from openflan.errors import ModelError, Problem, RunError
from openflan.models.adapters import Adapted, add_lora, is_adapter
from openflan.models.load import LanguageModel, load_model, save_model
from openflan.models.packed_forward import Way
from openflan.models.packing import IN_ORDER, packing_of
from openflan.models.provenance import UNTUNED, TunedOn
from openflan.models.soft_prompt import add_soft_prompt, save_soft_prompt
from openflan.seeding import derive
from openflan.tuning.checkpoint import Progress, load_checkpoint, removed_on_error, save_checkpoint
from openflan.tuning.dev import DevLog, DevLoss, DevSet
from openflan.tuning.distributed import World, joined, mesh_of, shard, whole
from openflan.tuning.feed import Blocks, num_workers, row_length, steps_from
from openflan.tuning.loss import TargetLogits, backward, target_nats
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
    """Nats per target token, before the step: the mean over tokens or examples, as `loss_weighting` says."""
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
    tuned_on: TunedOn = UNTUNED,
) -> LanguageModel:
    """The model after `settings.steps` steps on `blocks`, also saved in `folder/model`.

    blocks: gives the encoded examples of mixture block 0, 1, ...; asked again for the same block it must give the same.
    prompt_format: what the examples were encoded with, saved with the weights; default the model's own.
    report: called after every step, in the first process.
    dev: examples whose loss is measured every `settings.dev_every` steps, before the first and after the last.
    in_place: tune `lm.model` itself where memory has no room for a copy; otherwise `lm` stays as it is.
    tuned_on: what the examples are of; it is saved with the weights, beside what the model was tuned on before.

    Under torchrun every process calls this alike, best with a model on the device "meta", whose weights are read when
    it is the process's turn. The first gives the tuned model on its CPU, the others none to compute with.

    Raises RunError where the folder belongs to other settings or the disk is full, ModelError where the loss is not
    finite. On SIGTERM and SIGINT it saves a checkpoint and leaves with SystemExit or KeyboardInterrupt.
    """
    prompt_format = prompt_format or lm.prompt_format or PromptFormat()
    lm = dataclasses.replace(lm, tuned_on=lm.tuned_on | tuned_on)
    device, dtype = str(lm.device), str(lm.dtype).removeprefix("torch.")
    with joined() as world:
        finished, *_ = world.gathered((folder / "model").is_dir())
        with world.first_alone():
            _claim(folder, lm, settings, prompt_format)
        if not finished:
            if settings.threads is not None:
                torch.set_num_threads(settings.threads)
            if not in_place and not _without_weights(lm):
                lm = dataclasses.replace(lm, model=copy.deepcopy(lm.model))
            with torch.random.fork_rng(devices=[]):
                tuning = _prepared(lm, settings, folder, world)
                _run(tuning, blocks, report, dev)
                _save(tuning, prompt_format)
                del tuning  # with its gradients and moments: the model that is read back needs the room
            if lm.device.type == "cuda" and lm.quantize is None:  # weights in few bits stay where they were put
                cast(Any, lm.model).to("cpu")
        if world.first:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    # Read back from there: what is returned is what was saved. A model that was sharded need not fit one device.
    if world.size > 1:
        device = "cpu" if world.first else "meta"
        if not world.first and is_adapter(folder / "model"):
            return lm  # an adapter cannot be read without its base's weights
    return load_model(str(folder / "model"), dtype=dtype, device=device)


@dataclass(frozen=True, eq=False)
class _Tuning:
    """A model made ready to be tuned, and everything a step needs."""

    lm: LanguageModel
    logits: TargetLogits
    adapted: Adapted | None
    optimizer: torch.optim.Optimizer
    settings: TuningSettings
    folder: Path
    world: World
    way: Way
    dtype: str
    """Of the weights, as the base has them: between passes shards may lie in another."""
    autocast: bool
    """To bfloat16. Sharded layers compute in it without being asked."""

    @property
    def trainable(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self.lm.model.named_parameters() if p.requires_grad}


def _prepared(lm: LanguageModel, settings: TuningSettings, folder: Path, world: World) -> _Tuning:
    if world.size > 1 and lm.quantize is not None:
        raise ModelError(f"{lm.name} is held in {lm.quantize}, which cannot be sharded: tune it in one process")
    bfloat16, dtype = _in_bfloat16(world.device or lm.device, settings), str(lm.dtype).removeprefix("torch.")
    mesh = mesh_of(world) if world.size > 1 else None
    with world.in_turn():
        lm = _with_weights(lm)
        _without_dropout(lm.model)
        lm, adapted = _made_trainable(lm, settings)
        tried: list[Way] = [_way(lm, settings, world)] if world.first else []
        if settings.gradient_checkpointing:
            _keep_less(lm)
        logits = TargetLogits(lm.model)
        if mesh is not None:
            shard(lm.model, logits, mesh, bfloat16=bfloat16)
    (way,), *_ = world.gathered(tried)
    optimizer = make_optimizer(lm.model.parameters(), settings)
    return _Tuning(lm, logits, adapted, optimizer, settings, folder, world, way, dtype, bfloat16 and world.size == 1)


def _without_weights(lm: LanguageModel) -> bool:
    return lm.device.type == "meta"


def _with_weights(lm: LanguageModel) -> LanguageModel:
    """The model as it is, or read from its files where it has no weights; RunError where these have changed."""
    return _read(lm, str(lm.dtype).removeprefix("torch.")) if _without_weights(lm) else lm


def _read(lm: LanguageModel, dtype: str) -> LanguageModel:
    found = load_model(lm.name, dtype=dtype, device="cpu", tokenizer=lm.tokenizer)
    if found.identity != lm.identity:
        raise RunError(f"{lm.name}: the model's files have changed since tuning began; nothing is saved")
    return dataclasses.replace(found, tuned_on=lm.tuned_on)


def _run(tuning: _Tuning, blocks: Blocks, report: Callable[[StepReport], None] | None, dev: DevSet | None) -> None:
    lm, settings, folder, world = tuning.lm, tuning.settings, tuning.folder, tuning.world
    progress = load_checkpoint(folder / "checkpoints", lm.model, tuning.optimizer, world)
    if world.first:
        _cut_log(folder / LOG_FILE, progress.step)
    lm.model.train()
    nats = functools.partial(target_nats, tuning.logits, bfloat16=tuning.autocast, way=tuning.way)
    dev_log = DevLog(dev or {}, lm, settings, nats, folder, way=tuning.way, world=world)
    dev_log.measure(progress.step)
    workers = num_workers(blocks, settings, on_gpu=lm.device.type == "cuda")
    feed = steps_from(
        progress.cursor,
        blocks,
        settings,
        lm.context,
        prefix_ids=lm.prefix_ids,
        known_tokens=lm.known_tokens,
        workers=workers,
    )
    with (
        _asked_to_stop() as asked,
        contextlib.closing(feed),
        _log(folder / LOG_FILE, world) as log,
        _without_configured_dropout(lm.model),
    ):
        while progress.step < settings.steps:
            started = time.perf_counter()
            rows, cursor = next(feed)
            waited = time.perf_counter() - started
            loss, norm, stop = _step(tuning, rows, progress.step, asked)
            progress = Progress(progress.step + 1, cursor)
            done = _described(progress, rows, loss, norm, settings, lm, time.perf_counter() - started, waited)
            log(json.dumps(done.to_json()) + "\n")
            dev_log.measure(progress.step)
            if report is not None and world.first:
                report(dataclasses.replace(done, dev=dev_log.last))
            due = progress.step % settings.checkpoint_every == 0 and progress.step < settings.steps
            if stop or due:
                keep = settings.keep_checkpoints
                save_checkpoint(folder / "checkpoints", progress, lm.model, tuning.optimizer, keep=keep, world=world)
            if stop:
                raise KeyboardInterrupt if stop == signal.SIGINT else SystemExit(128 + stop)


def _step(tuning: _Tuning, rows: Sequence[PackedRow], step: int, asked: Sequence[int]) -> tuple[float, float, int]:
    """One optimizer step: (loss, gradient norm before clipping, number of the signal that asks to stop or 0)."""
    settings, optimizer, world = tuning.settings, tuning.optimizer, tuning.world
    optimizer.zero_grad(set_to_none=True)
    # What a step draws (dropout) depends on step and process alone, so that nothing random need be kept to go on.
    torch.manual_seed(derive(settings.seed, "tune", step, world.rank) % 2**63)
    not_finite: list[str] = []
    nats = backward(
        tuning.logits,
        rows,
        forward_tokens=settings.forward_tokens,
        weighting=settings.loss_weighting,
        bfloat16=tuning.autocast,
        way=tuning.way,
        world=world,
        not_finite=not_finite,
    )
    loss, terminated, interrupted = world.summed([nats, asked.count(signal.SIGTERM), asked.count(signal.SIGINT)])
    clip = settings.clip_norm or math.inf
    norm = float(whole(torch.nn.utils.clip_grad_norm_(tuning.trainable.values(), clip)))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        _stop_not_finite(tuning, rows, step, loss, norm, not_finite)
    for group in optimizer.param_groups:
        group["lr"] = settings.lr_at(step)
    optimizer.step()
    return loss, norm, signal.SIGINT if interrupted else signal.SIGTERM if terminated else 0


def _stop_not_finite(
    tuning: _Tuning, rows: Sequence[PackedRow], step: int, loss: float, norm: float, own: Sequence[str]
) -> NoReturn:
    """Write down which rows a loss that is not finite comes from, and raise ModelError."""
    row_ids = [name for row in rows for name in row.row_ids]
    found = [name for part in tuning.world.gathered(list(own)) for name in part]
    path = tuning.folder / "not_finite.json"
    if tuning.world.first:
        numbers = {"step": step + 1, "loss": str(loss), "grad_norm": str(norm)}
        artifacts.write_json(path, numbers | {"row_ids": row_ids, "forward_pass": found})
    where = f"{len(found)} of them in the forward passes it appeared in" if found else "each of their losses is finite"
    raise ModelError(
        f"step {step + 1}: loss {loss}, gradient norm {norm}; its {len(row_ids)} examples are named in {path}, "
        f"{where}; the first is {(found or row_ids)[0]}"
    )


def _in_bfloat16(device: torch.device, settings: TuningSettings) -> bool:
    return settings.precision == "bfloat16" or (settings.precision == "auto" and computes_bfloat16(device))


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
    if lm.prefix_ids and settings.method != "soft_prompt":
        # Only the vectors of such a model are saved.
        raise ModelError(f"{lm.name} is a soft prompt: tune the model that it stands before")
    if settings.method == "lora":
        adapted = add_lora(lm, settings.lora, seed=settings.seed)
        return adapted.lm, adapted
    if settings.method == "soft_prompt":
        return add_soft_prompt(lm, num_tokens=settings.soft_prompt_tokens, seed=settings.seed), None
    if lm.quantize is not None:
        raise ModelError(f"{lm.name} is held in {lm.quantize}, which only method lora can tune")
    lm.model.requires_grad_(True)
    return lm, None


def _without_dropout(model: torch.nn.Module) -> None:
    """A base model's own dropout rates, from its pretraining, set to 0 (docs/deviations.md, D8); LoRA's come later."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and (name == "p" if isinstance(module, torch.nn.Dropout) else "drop" in name):
                setattr(module, name, 0.0)


@contextlib.contextmanager
def _without_configured_dropout(model: torch.nn.Module) -> Generator[None]:
    """The same for rates that layers read off their configuration in every pass; what is saved keeps them."""
    configs = {id(config): config for part in model.modules() if (config := getattr(part, "config", None)) is not None}
    rates = [
        (config, name, value)
        for config in configs.values()
        for name, value in vars(config).items()
        if isinstance(value, float) and "drop" in name
    ]
    for config, name, _ in rates:
        setattr(config, name, 0.0)
    try:
        yield
    finally:
        for config, name, value in rates:
            setattr(config, name, value)


def _way(lm: LanguageModel, settings: TuningSettings, world: World) -> Way:
    """How examples go through the model; where that is not the cheapest way, it is said."""
    # Of several processes' devices, where the model is not yet.
    ways = IN_ORDER.get((world.device or lm.device).type, IN_ORDER["cuda"])
    with torch.autocast(lm.device.type, torch.bfloat16, enabled=_in_bfloat16(lm.device, settings)):
        packing = packing_of(lm.model, row_length((), settings, lm.context), ways=ways)
    if packing.refused:
        logger.warning("%s", packing)
    return packing.way


def _keep_less(lm: LanguageModel) -> None:
    """Recompute layers in the backward pass."""
    model: Any = lm.model
    try:
        # The second name is that of earlier releases of transformers.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(f"{lm.name}: gradient_checkpointing: {error}") from error


def _save(tuning: _Tuning, prompt_format: PromptFormat) -> None:
    """Fill `folder/model` and give it its name in one rename; the first process does, with what the others hold."""
    folder, lm, adapted = tuning.folder, tuning.lm, tuning.adapted
    if tuning.world.size > 1:
        lm, adapted = _put_together(tuning)
    if tuning.world.first:
        work = folder / "model.part"
        shutil.rmtree(work, ignore_errors=True)
        lm = dataclasses.replace(lm, prompt_format=prompt_format)
        num_bytes = sum(p.numel() * p.element_size() for p in lm.model.parameters())
        meanwhile = "the run goes on from its last checkpoint"
        with artifacts.room_for(folder / "model", num_bytes, meanwhile), removed_on_error(work):
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
    tuning.world.wait()


def _put_together(tuning: _Tuning) -> tuple[LanguageModel, Adapted | None]:
    """The tuned model whole, on the CPU of the first process; in others what is given has no meaning.

    It is the base model loaded once more, with the tuned parameters put in place one by one.
    """
    lm, adapted = tuning.lm, tuning.adapted
    targets: dict[str, torch.nn.Parameter] = {}
    if tuning.world.first:
        lm, adapted = _made_trainable(_read(lm, tuning.dtype), tuning.settings)
        targets = dict(lm.model.named_parameters())
    tuning.world.wait()  # for the loading: the collectives below have less patience
    # A forward pass (the dev loss) leaves what belongs to no layer gathered, in the precision it computed in.
    cast(FSDPModule, tuning.logits).reshard()
    for name, parameter in tuning.trainable.items():
        value = whole(parameter.detach())
        if tuning.world.first:
            targets[name].data.copy_(value)
    return lm, adapted


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


def _cut_log(path: Path, step: int) -> None:
    """Keep the lines of steps up to `step`: later ones, and a torn last one, come again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()[:step]
        artifacts.write_text(path, "".join(line + "\n" for line in lines))


@contextlib.contextmanager
def _log(path: Path, world: World) -> Generator[Callable[[str], None], None, None]:
    """A function that adds a line to the log; in all but the first process it does nothing."""
    if not world.first:
        yield lambda line: None
        return
    with path.open("a", encoding="utf-8") as file:

        def add(line: str) -> None:
            with artifacts.room_for(path, len(line), "the run goes on from its last checkpoint"):
                file.write(line)
                file.flush()

        yield add


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
