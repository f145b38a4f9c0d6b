"""Predictions against what torch counts over the real thing."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from typer.testing import CliRunner

from openflan.cli.app import app
from openflan.encoding.pack import PackedRow
from openflan.errors import ConfigError, ModelError
from openflan.models.adapters import LoraSettings, add_lora
from openflan.models.load import LanguageModel, load_model
from openflan.models.packed_attention import collate, target_logits
from openflan.models.shape import SHAPES, kept_bytes, model_shape, shape_from_size
from openflan.models.soft_prompt import add_soft_prompt
from openflan.studies.hardware import CPU, known_hardware, measured_cpu, parse_gpus
from openflan.studies.plan import (
    forward_passes,
    optimizer_bytes,
    plan,
    shared_out,
    trainable,
    tuning_flops,
    tuning_memory,
    weight_bytes,
)
from openflan.studies.recipe import RECIPES, load_recipe, resolve
from openflan.studies.workload import RowSize, assumed_tuning, local_tokenizer, tuning_workload
from openflan.tuning.loss import backward
from openflan.tuning.optimizer import make_optimizer
from openflan.tuning.settings import TuningSettings

ATEN = torch.ops.aten
MODELS = ("world:small", "world:base")


def row(*segments: tuple[int, int]) -> PackedRow:
    """A row of examples of (prompt, target) tokens."""
    lengths = [prompt + target for prompt, target in segments]
    starts = [0, *itertools.accumulate(lengths)]
    places = [start + prompt + i - 1 for start, (prompt, target) in zip(starts, segments, strict=False)
              for i in range(target)]  # fmt: skip
    return PackedRow(
        input_ids=np.arange(sum(lengths), dtype=np.int32) % 90 + 4,
        position_ids=np.concatenate([np.arange(n) for n in lengths]).astype(np.int32),
        segment_lengths=np.array(lengths, np.int32),
        target_positions=np.array(places, np.int32),
        labels=np.full(len(places), 7, np.int32),
        row_ids=tuple(f"t {i} t" for i in range(len(lengths))),
    )


ROWS = [row((300, 9), (40, 2)), row((120, 30), (90, 1), (11, 5))]


def size(packed: PackedRow) -> RowSize:
    return RowSize(len(packed.input_ids), len(packed.labels), sum(int(n) ** 2 for n in packed.segment_lengths))


def made_trainable(name: str, settings: TuningSettings) -> LanguageModel:
    lm = load_model(name, device="cpu")
    if settings.method == "lora":
        return add_lora(lm, settings.lora).lm
    return lm if settings.method == "full" else add_soft_prompt(lm, num_tokens=settings.soft_prompt_tokens)


def counted_flops(lm: LanguageModel) -> int:
    """What torch counts over the forward and backward pass of a step on ROWS."""

    def forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def back(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    # torch knows its attention kernels of GPUs; that of CPUs is given the same formula.
    kernels = {
        ATEN._scaled_dot_product_flash_attention_for_cpu: forward,
        ATEN._scaled_dot_product_flash_attention_for_cpu_backward: back,
    }
    with FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        backward(lm.model, ROWS, forward_tokens=4096)
    return counter.get_total_flops()


@pytest.mark.parametrize("method", ["full", "lora", "soft_prompt"])
@pytest.mark.parametrize("name", MODELS)
def test_flops_are_those_torch_counts_over_a_packed_step(name: str, method: Any) -> None:
    settings = TuningSettings(method=method, lora=LoraSettings(rank=4))
    shape = model_shape(name)
    told = tuning_flops(shape, settings, [size(packed) for packed in ROWS])
    counted = counted_flops(made_trainable(name, settings))
    if method == "lora":  # what its docstring says: the first layer's inputs need no gradient
        tokens = sum(len(packed.input_ids) for packed in ROWS)
        most = 2 * tokens * (shape.largest_layer + sum(m.inputs * 4 for m in shape.matrices))
        assert 0 <= told.total - counted <= most
    else:
        assert told.total == pytest.approx(counted, rel=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("method", ["full", "lora", "soft_prompt"])
def test_bytes_are_those_of_the_real_model_and_optimizer(method: Any, optimizer: Any) -> None:
    settings = TuningSettings(method=method, optimizer=optimizer, lora=LoraSettings(rank=4))
    shape = model_shape("world:small")
    lm = made_trainable("world:small", settings)
    tuned = [p for p in lm.model.parameters() if p.requires_grad]
    assert trainable(shape, settings) == sum(p.numel() for p in tuned)
    assert weight_bytes(shape, settings) == sum(p.numel() * p.element_size() for p in lm.model.parameters())
    made = make_optimizer(lm.model.parameters(), settings)
    backward(lm.model, ROWS, forward_tokens=4096)
    made.step()
    states = [v for state in made.state.values() for v in state.values() if isinstance(v, torch.Tensor) and v.ndim]
    assert optimizer_bytes(shape, settings) == sum(v.numel() * v.element_size() for v in states)


@pytest.mark.parametrize("method", ["full", "lora", "soft_prompt"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_activations_are_those_a_real_forward_pass_keeps(method: Any, bfloat16: bool) -> None:
    settings = TuningSettings(method=method, lora=LoraSettings(rank=4))
    shape = model_shape("world:small")
    lm = made_trainable("world:small", settings)
    lm.model.train()
    rows = [row((500, 12))] * 3
    weights = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            kept[place] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        logits = target_logits(lm.model, collate(rows))
    real = sum(t.untyped_storage().nbytes() for t in kept.values())
    told = kept_bytes(shape, bfloat16=bfloat16, method=method, lora=settings.lora)
    assert told.traced
    tokens = sum(len(packed.input_ids) for packed in rows)
    predicted = told.weights + shape.layers * told.weights_of_layer
    predicted += tokens * (told.token + shape.layers * told.token_of_layer)
    assert logits.grad_fn is not None
    assert predicted == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("name", sorted(__import__("tomllib").loads(SHAPES.read_text())))
def test_shapes_have_the_parameters_their_publishers_count(name: str) -> None:
    known = __import__("tomllib").loads(SHAPES.read_text())[name]
    assert model_shape(name).parameters == pytest.approx(known["parameters"], rel=1e-4)
