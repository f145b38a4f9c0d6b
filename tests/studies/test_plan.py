"""Predictions against what torch counts over the real thing."""

import io
import itertools
import json
import tomllib
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from typer.testing import CliRunner

from openflan.cli.app import app
from openflan.encoding.pack import PackedRow
from openflan.errors import ConfigError, ModelError
from openflan.models.adapters import LoraSettings, add_lora
from openflan.models.load import LanguageModel, load_model
from openflan.models.packed_forward import attending, collate, target_logits
from openflan.models.shape import SHAPES, kept_bytes, model_shape, shape_from_size
from openflan.models.soft_prompt import add_soft_prompt
from openflan.reports.plan import plan_page
from openflan.studies.hardware import CPU, known_hardware, measured_cpu, parse_gpus
from openflan.studies.plan import (
    Memory,
    Plan,
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
from openflan.tuning import loss
from openflan.tuning.loss import backward
from openflan.tuning.optimizer import make_optimizer
from openflan.tuning.settings import TuningSettings

ATEN = torch.ops.aten


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


@pytest.mark.parametrize(
    ("name", "method"), [("world:base", "full"), ("world:base", "lora"), ("world:small-early", "soft_prompt")]
)
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
    shape = model_shape("world:small-early")
    lm = made_trainable("world:small-early", settings)
    tuned = [p for p in lm.model.parameters() if p.requires_grad]
    assert trainable(shape, settings) == sum(p.numel() for p in tuned)
    assert weight_bytes(shape, settings) == sum(p.numel() * p.element_size() for p in lm.model.parameters())
    made = make_optimizer(lm.model.parameters(), settings)
    backward(lm.model, ROWS, forward_tokens=4096)
    made.step()
    states = [v for state in made.state.values() for v in state.values() if isinstance(v, torch.Tensor) and v.ndim]
    assert optimizer_bytes(shape, settings) == sum(v.numel() * v.element_size() for v in states)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "bfloat16"), [("full", True), ("lora", True), ("soft_prompt", False)])
def test_activations_are_those_a_real_forward_pass_keeps(method: Any, bfloat16: bool) -> None:
    settings = TuningSettings(method=method, lora=LoraSettings(rank=4))
    shape = model_shape("world:small-early")
    lm = made_trainable("world:small-early", settings)
    lm.model.train()
    rows = [row((500, 12))] * 3
    weights = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            kept[place] = tensor
        return tensor

    with (
        attending(lm.model, "ragged"),
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


KNOWN = tomllib.loads(SHAPES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_shapes_have_the_parameters_their_publishers_count(name: str) -> None:
    assert model_shape(name).parameters == pytest.approx(KNOWN[name]["parameters"], rel=1e-4)


def test_a_shape_from_its_size_has_that_size_and_says_what_it_assumed() -> None:
    shape = shape_from_size(7e9)
    assert shape.body == pytest.approx(7e9, rel=1e-3)
    assert any(f"{shape.layers} layers" in said for said in shape.assumed)
    given = shape_from_size(137e9, layers=64, hidden=8192, vocabulary=50_000)
    assert (given.layers, given.hidden, given.vocabulary) == (64, 8192, 50_000)
    with pytest.raises(ModelError, match="fewer --layers"):
        shape_from_size(1e6, layers=64, hidden=8192)


def test_a_model_that_cannot_be_had_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelError, match="--params"):
        model_shape("nobody/no-such-model")


def test_rows_are_shared_out_and_grouped_as_tuning_does() -> None:
    rows = [row((n, 3)) for n in (90, 200, 40, 60, 150)]
    sizes = [size(packed) for packed in rows]
    for devices in (1, 2, 3, 7):
        told = [
            [[r.tokens for r in group] for group in forward_passes(share, 256)] for share in shared_out(sizes, devices)
        ]
        real = [[[len(r.input_ids) for r in group] for group in loss.forward_passes(share, 256)]
                for share in loss.shared_out(rows, devices)]  # fmt: skip
        assert told == real


def test_lengths_are_those_of_the_recipes_own_steps() -> None:
    recipe = resolve("demo", model="world:small-early")
    load = tuning_workload(recipe, local_tokenizer("world:small-early"), 1024)
    assert load.measured
    assert all(sum(r.tokens for r in step) <= recipe.tuning.tokens_per_step for step in load.steps)
    assert 0 < load.targets_per_step < load.tokens_per_step
    assert all(r.tokens <= r.squares <= r.tokens * recipe.tuning.row_length for step in load.steps for r in step)


def test_without_rows_or_tokenizer_lengths_are_assumed_and_said_so() -> None:
    load = assumed_tuning(load_recipe(RECIPES / "flan-paper.toml"), 8192, "why")
    assert not load.measured
    assert "assumed (why)" in load.source
    assert load.tokens_per_step <= 8192


@pytest.fixture(scope="module")
def paper() -> Plan:
    return plan(load_recipe(RECIPES / "flan-paper.toml"), *parse_gpus("8xH200"))


def test_the_papers_model_does_not_fit_and_the_fewest_devices_are_the_fewest(paper: Plan) -> None:
    settings = paper.recipe.tuning
    kept = kept_bytes(paper.shape, bfloat16=True, method="full", lora=settings.lora)

    def memory(devices: int) -> Memory:
        return tuning_memory(paper.shape, settings, paper.workload, kept, "bfloat16", paper.hardware, devices)

    for part in ("weights", "gradients", "optimizer"):  # more devices hold smaller shards
        assert getattr(memory(8), part) == pytest.approx(2 * getattr(memory(16), part))
    assert paper.fewest is not None
    assert memory(paper.fewest).fits
    assert not any(memory(devices).fits for devices in range(1, paper.fewest))
    assert all(devices is None or devices <= paper.fewest for devices in paper.instead.values())


def test_the_page_says_what_does_not_fit_and_all_that_was_assumed(paper: Plan) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan_page(paper, "flan-paper"))
    page = console.export_text()
    assert f"does not fit: needs at least {paper.fewest} of these" in page
    for assumption in paper.assumptions:
        assert " ".join(assumption.value.split()[:4]) in page


def test_small_steps_on_many_devices_are_bound_by_communication(paper: Plan) -> None:
    made = plan(paper.recipe, 64, paper.hardware, shape=paper.shape)
    assert made.step.bound_by == "communication"
    assert any("communication" in said for said in made.warnings)
    assert made.step.seconds.low <= made.step.seconds.expected <= made.step.seconds.high


def test_hardware_is_parsed_and_near_names_are_told() -> None:
    assert parse_gpus("8xh200") == (8, known_hardware()["H200"])
    assert parse_gpus("A100-80")[0] == 1
    for wrong in ("8xH20", "0xH100", "2xcpu", ""):
        with pytest.raises(ConfigError, match="--gpus"):
            parse_gpus(wrong)
    for hardware in known_hardware().values():
        assert hardware.share.low <= hardware.share.expected <= hardware.share.high < 1


def test_the_processor_is_measured() -> None:
    cpu = measured_cpu(known_hardware()[CPU], 64, 32, 32, seconds=0.02)
    assert min(cpu.float32, cpu.bfloat16, cpu.memory_gib) > 0


def told(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_the_verb_takes_a_recipes_path_and_a_size_and_prints_json() -> None:
    plain = json.loads(told("plan", "demo", "--model", "world:small-early", "--gpus", "cpu", "--json"))
    assert plain["step"]["lengths_measured"]
    assert plain["tuning"]["models"] == ["tuned", "no_template", "dataset_name"]
    assert plain["total"]["kwh"] is None
    command = ("plan", "recipes/flan-paper.toml", "--params", "7B", "--gpus", "A100-80", "--grid", "0.4", "--json")
    sized = json.loads(told(*command))
    assert sized["total"]["kg_co2"]["expected"] == pytest.approx(0.4 * sized["total"]["kwh"]["expected"])


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_every_shipped_recipe_resolves_and_its_model_has_a_shape_without_a_network(name: str) -> None:
    plain = json.loads(told("run", name, "--dry-run", "--json"))
    assert plain["split"]["train"]
    assert plain["split"]["evaluated"]
    assert model_shape(plain["recipe"]["model"]).parameters > 0
