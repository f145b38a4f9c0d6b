"""One epoch of tuning by openflan and by TRL's SFTTrainer, and the gradients both take; on a CPU or a GPU.

Both take a `LanguageModel` and tune it in place; give it loaded anew.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openflan.encoding.encode import Encoded
from openflan.encoding.pack import pack
from openflan.models.load import LanguageModel
from openflan.tuning.loss import backward, forward_passes
from openflan.tuning.settings import TuningSettings
from openflan.tuning.tune import StepReport, tune

PADDED, BFD, OURS = "TRL, padded", "TRL, packing bfd", "openflan"


@dataclass(frozen=True)
class Epoch:
    """One pass over the examples."""

    seconds: float
    """by the setting's clock"""
    tokens: int
    """fed to the model, padding included"""
    target_tokens: int
    steps: int


@dataclass(frozen=True)
class Setting:
    """How both tune, alike."""

    row_length: int = 1024
    """The most tokens of a packed row."""
    rows_per_step: int = 1
    padded_batch: int = 8
    """Examples of a step where they are padded."""
    lr: float = 1e-5
    bfloat16: bool = False
    """Forward and backward pass in bfloat16; weights and optimizer stay float32."""
    clock: Callable[[], float] = time.process_time

    @property
    def step_tokens(self) -> int:
        return self.row_length * self.rows_per_step


def openflan_epoch(
    lm: LanguageModel, encoded: Sequence[Encoded], setting: Setting, folder: Path | None = None
) -> Epoch:
    """Our `tune`, from its asking for the first block to the end of the last step.

    folder: where it writes, which processes of one run must share; one that is gone afterwards where none is given.
    """
    # What follows the epoch: rows that fill what room its last step has left, none where a step is one row.
    after = Encoded("after", "0", "one", (100,) * (setting.row_length - 1), (100,))
    # `tune` fills a step by the same rule as a forward pass.
    steps = len(list(forward_passes(pack(encoded, setting.row_length), setting.step_tokens)))
    settings = TuningSettings(
        steps=steps,
        tokens_per_step=setting.step_tokens,
        row_length=setting.row_length,
        forward_tokens=setting.step_tokens,
        optimizer="adamw",
        lr=setting.lr,
        precision="bfloat16" if setting.bfloat16 else "float32",
        checkpoint_every=steps + 1,
        log_every=1,
    )
    started = ended = 0.0
    reports: list[StepReport] = []

    def blocks(number: int) -> Sequence[Encoded]:
        nonlocal started
        if number == 0:
            started = setting.clock()
        return encoded if number == 0 else [after]

    def report(step: StepReport) -> None:
        nonlocal ended
        ended = setting.clock()
        reports.append(step)

    with tempfile.TemporaryDirectory() as passing:
        tune(lm, blocks, settings, folder or Path(passing), report=report, in_place=True)
    tokens, targets = sum(step.tokens for step in reports), sum(step.target_tokens for step in reports)
    following = (tokens - sum(len(e.prompt_ids) + len(e.target_ids) for e in encoded)) // setting.row_length
    return Epoch(ended - started, tokens, targets - following, len(reports))


def sft_trainer(
    lm: LanguageModel, dataset: Any, setting: Setting, *, packing: bool, folder: str, callbacks: Sequence[Any] = ()
) -> Any:
    """TRL's trainer, which packs or pads `dataset`."""
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=folder,
        max_length=setting.row_length,
        packing=packing,
        per_device_train_batch_size=setting.rows_per_step if packing else setting.padded_batch,
        num_train_epochs=1,
        learning_rate=setting.lr,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        bf16=setting.bfloat16,
        gradient_checkpointing=False,
        use_cpu=lm.device.type == "cpu",
        report_to="none",
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
    )
    return SFTTrainer(
        model=lm.model, args=config, train_dataset=dataset, processing_class=lm.tokenizer, callbacks=list(callbacks)
    )


def as_dataset(encoded: Sequence[Encoded]) -> Any:
    """Tokenized already, targets alone labelled: the trainer then only packs or pads."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "input_ids": [*e.prompt_ids, *e.target_ids],
                "labels": [-100] * len(e.prompt_ids) + list(e.target_ids),
            }
            for e in encoded
        ]
    )


def trl_epoch(lm: LanguageModel, encoded: Sequence[Encoded], setting: Setting, *, packing: bool) -> Epoch:
    """TRL's trainer, from the beginning of the epoch to the end of its last step; packing itself is left out."""
    from transformers import TrainerCallback

    started = ended = 0.0
    fed: list[tuple[int, int]] = []

    class Clock(TrainerCallback):
        def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
            nonlocal started
            started = setting.clock()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            nonlocal ended
            ended = setting.clock()

    with tempfile.TemporaryDirectory() as folder:
        trainer = sft_trainer(lm, as_dataset(encoded), setting, packing=packing, folder=folder, callbacks=[Clock()])
        collate = trainer.data_collator

        def counted(rows: Any) -> Any:
            batch = collate(rows)
            fed.append((batch["input_ids"].numel(), int((batch["labels"] != -100).sum())))
            return batch

        trainer.data_collator = counted
        trainer.train()
    return Epoch(ended - started, sum(n for n, _ in fed), sum(n for _, n in fed), len(fed))


Gradient = dict[str, torch.Tensor]


def one_by_one(lm: LanguageModel, encoded: Sequence[Encoded]) -> tuple[float, Gradient]:
    """Plain transformers, an example at a time: mean loss of all target tokens, and its gradient."""
    model: Any = lm.model.train()
    targets = sum(len(e.target_ids) for e in encoded)
    total = 0.0
    for e in encoded:
        ids = torch.tensor([[*e.prompt_ids, *e.target_ids]], device=lm.device)
        logits = model(ids, use_cache=False).logits[0, len(e.prompt_ids) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, ids[0, len(e.prompt_ids) :], reduction="sum") / targets
        loss.backward()
        total += loss.item()
    return total, taken(model)


def taken(model: Any) -> Gradient:
    """The model's gradient, which it no longer has after this."""
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def trl_gradient(
    lm: LanguageModel, encoded: Sequence[Encoded], setting: Setting, *, packing: bool
) -> tuple[float, Gradient]:
    """TRL's loss of all examples in one batch: one packed row, or padded."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = sft_trainer(lm, as_dataset(encoded), setting, packing=packing, folder=folder)
        batch = trainer.data_collator(list(trainer.train_dataset))
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
    return loss.item(), taken(lm.model)


def openflan_gradient(lm: LanguageModel, encoded: Sequence[Encoded], setting: Setting) -> tuple[float, Gradient]:
    lm.model.train()
    loss = backward(lm.model, pack(encoded, setting.row_length), forward_tokens=setting.row_length)
    return loss, taken(lm.model)


def agreement(
    fresh: Callable[[], LanguageModel], encoded: Sequence[Encoded], setting: Setting
) -> dict[str, tuple[float, float]]:
    """Of each engine: how far loss and gradient (norm of the difference over the norm) are from one at a time.

    fresh: gives the untuned model.
    """
    loss, alone = one_by_one(fresh(), encoded)
    norm = sum(float(g.double().square().sum()) for g in alone.values()) ** 0.5
    found: dict[str, tuple[float, float]] = {}
    for name, gradient in {
        PADDED: lambda: trl_gradient(fresh(), encoded, setting, packing=False),
        BFD: lambda: trl_gradient(fresh(), encoded, setting, packing=True),
        OURS: lambda: openflan_gradient(fresh(), encoded, setting),
    }.items():
        its_loss, its = gradient()
        off = sum(float((its[key] - alone[key]).double().square().sum()) for key in alone) ** 0.5
        found[name] = (abs(its_loss - loss), off / norm)
    return found


def fitting(encoded: Sequence[Encoded], number: int, row_length: int) -> list[Encoded]:
    """The first examples that share one row, at most so many."""
    found: list[Encoded] = []
    for e in encoded:
        if len(found) < number and sum(len(f.prompt_ids) + len(f.target_ids) for f in [*found, e]) <= row_length:
            found.append(e)
    return found
