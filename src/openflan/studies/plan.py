"""What a recipe takes on given hardware: FLOPs, memory, hours and energy, with everything that was assumed.

Takes a `Recipe` and `Hardware`, gives a `Plan`. FLOPs and the bytes of weights, gradients and optimizer states are
counted; activations are traced; hours rest on an assumed share of the hardware's peak and are ranges. Read next:
`reports/plan.py`.

T = tokens of some rows, S = sum of their examples' squared lengths.
"""

import bisect
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from openflan.evaluation.samples import SEEN_ARMS
from openflan.models.shape import Kept, Method, ModelShape, kept_bytes, model_shape
from openflan.studies.hardware import CPU, Hardware, Precision, Range, measured_cpu
from openflan.studies.recipe import Recipe
from openflan.studies.workload import (
    EvaluationWorkload,
    RowSize,
    TuningWorkload,
    evaluation_workload,
    local_tokenizer,
    tuned_models,
    tuning_workload,
)
from openflan.tuning.settings import TuningSettings

GIB = 2**30
RESERVED_GIB = 1.0
"""Of a GPU's memory, for its context and libraries."""
FRAGMENTATION = 0.08
"""Room that the allocator holds and cannot use, as a share of what is in use."""
NF4_BYTES, INT8_BYTES = 0.5 + 0.127 / 8, 1.0
"""Bytes of a quantized weight; NF4 with doubly quantized scales has 0.127 bits more (Dettmers et al. 2023 §3)."""
ATTENTION_BACKWARD = 2.5
"""FLOPs of attention's backward pass over those of its forward pass: fused kernels compute the scores once more."""
LAUNCH_SECONDS = 5e-6
"""For the host to launch one operation: small models wait for it."""
ADAFACTOR_OPERATIONS, ADAMW_BYTES, ADAFACTOR_BYTES = 20, 28, 40
"""Of one update: operations for each parameter tensor (AdamW is fused), memory traffic in bytes for each parameter."""
LINK_SHARE = Range(0.5, 0.7, 0.85)
"""Share of a link's rate that collectives reach."""
OVERLAP = Range(0.0, 0.5, 1.0)
"""Share of the shorter one of computing and communicating that hides behind the longer one."""
MOST_DEVICES = 8_192
DECODED_TOGETHER = 32
"""Answers generated in one batch."""
PUE = 1.2
"""Power of the building over power of the boards."""


class Assumption(NamedTuple):
    """Something a plan takes to be so."""

    what: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating point operations of some rows' forward and backward pass."""

    body: float
    head: float
    attention: float
    adapters: float = 0.0
    recomputed: float = 0.0
    """Of layers computed once more by gradient checkpointing."""

    @property
    def total(self) -> float:
        return self.body + self.head + self.attention + self.adapters + self.recomputed


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest device, by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    """Weights in the precision computed in: of all layers, or sharded, of those that are gathered at a time."""
    activations: float
    logits: float
    temporaries: float
    """Of the update, when activations are gone."""
    capacity: float

    @property
    def needed(self) -> float:
        """At the fullest moment, fragmentation included."""
        kept = self.weights + self.gradients + self.optimizer
        return (kept + max(self.gathered + self.activations + self.logits, self.temporaries)) * (1 + FRAGMENTATION)

    @property
    def fits(self) -> bool:
        return self.needed <= self.capacity


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of an optimizer step; `low` is the shortest."""

    compute: Range
    update: float
    communication: Range
    seconds: Range

    @property
    def bound_by(self) -> str:
        return "communication" if self.communication.expected > self.compute.expected else "computing"


@dataclass(frozen=True, slots=True)
class Cost:
    """Hours on all devices together, and what they take."""

    hours: Range
    kwh: Range | None
    """None where the power is not known."""
    kg_co2: Range | None
    """None where the grid is not."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything `openflan plan` shows."""

    recipe: Recipe
    hardware: Hardware
    devices: int
    precision: Precision
    shape: ModelShape
    workload: TuningWorkload
    evaluation: EvaluationWorkload
    flops: Flops
    """Of a step, all devices together."""
    evaluation_flops: float
    memory: Memory
    fewest: int | None
    """Devices of this kind that the recipe needs; None where no number of them is enough."""
    instead: dict[str, int | None]
    """Changes that save memory, and how many devices would be enough then; empty where the recipe fits as it is."""
    step: StepTime
    tuned: tuple[str, ...]
    tuning: Cost
    """Of one model."""
    evaluating: Cost
    total: Cost
    assumptions: tuple[Assumption, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data. Bytes, seconds, FLOPs; ranges as low, expected, high."""
        shape, load = self.shape, self.workload
        return {
            "format": 1,
            "model": {
                "name": shape.name,
                "parameters": shape.parameters,
                "body": shape.body,
                "head": shape.head,
                "layers": shape.layers,
                "hidden": shape.hidden,
                "vocabulary": shape.vocabulary,
                "source": shape.source,
            },
            "hardware": {"name": self.hardware.name, "devices": self.devices, "precision": self.precision},
            "step": {
                "tokens": load.tokens_per_step,
                "target_tokens": load.targets_per_step,
                "examples": load.examples_per_step,
                "rows": load.rows_per_step,
                "lengths_measured": load.measured,
                "flops": dataclasses.asdict(self.flops) | {"total": self.flops.total},
                "seconds": {
                    "compute": _plain(self.step.compute),
                    "update": self.step.update,
                    "communication": _plain(self.step.communication),
                    "all": _plain(self.step.seconds),
                    "bound_by": self.step.bound_by,
                },
            },
            "memory": dataclasses.asdict(self.memory)
            | {"needed": self.memory.needed, "fits": self.memory.fits, "fewest_devices": self.fewest}
            | ({"instead": self.instead} if self.instead else {}),
            "tuning": _cost(self.tuning)
            | {"steps": self.recipe.tuning.steps, "models": list(self.tuned)}
            | {"flops": self.flops.total * self.recipe.tuning.steps},
            "evaluation": _cost(self.evaluating)
            | {"flops": self.evaluation_flops}
            | {"prompts": self.evaluation.prompts, "tokens": self.evaluation.tokens}
            | {"arms": list(self.evaluation.arms), "tasks": self.evaluation.tasks},
            "total": _cost(self.total),
            "assumptions": [assumption._asdict() for assumption in self.assumptions],
            "warnings": list(self.warnings),
        }


def plan(
    recipe: Recipe,
    devices: int,
    hardware: Hardware,
    *,
    shape: ModelShape | None = None,
    pue: float = PUE,
    kg_co2_per_kwh: float | None = None,
) -> Plan:
    """What a recipe takes on that many devices.

    shape: of the model, where it is not the one the recipe's model has. Raises ModelError where that cannot be had.
    """
    shape = shape or model_shape(recipe.model)
    tokenizer = local_tokenizer(recipe.model)
    workload = tuning_workload(recipe, tokenizer, shape.context)
    asked = evaluation_workload(recipe, tokenizer, shape.context)
    settings = recipe.tuning
    if hardware.name == CPU:
        widest = max(shape.matrices, key=lambda m: m.number * m.inputs * m.outputs)
        tokens = round(min(settings.forward_tokens, workload.tokens_per_step))
        hardware = measured_cpu(hardware, tokens, widest.inputs, widest.outputs)
    precision = precision_of(settings, hardware)
    kept = _kept(shape, settings, precision)
    flops = tuning_flops(shape, settings, [row for step in workload.steps for row in step])
    flops = Flops(*(value / len(workload.steps) for value in dataclasses.astuple(flops)))
    memory = tuning_memory(shape, settings, workload, kept, precision, hardware, devices)
    fewest = _fewest(shape, settings, workload, kept, precision, hardware)
    step = step_time(shape, settings, workload, kept, precision, hardware, devices)
    models = tuned_models(recipe)
    evaluation_flops, evaluation_hours = _evaluation(shape, asked, kept, hardware)

    def cost(hours: Range, used: int) -> Cost:
        kwh = hours.times(hardware.watts * used * pue / 1000) if hardware.watts else None
        return Cost(hours, kwh, None if kwh is None or kg_co2_per_kwh is None else kwh.times(kg_co2_per_kwh))

    tuning = cost(step.seconds.times(settings.steps / 3600), devices)
    evaluating = cost(evaluation_hours, 1)
    made = Plan(
        recipe=recipe,
        hardware=hardware,
        devices=devices,
        precision=precision,
        shape=shape,
        workload=workload,
        evaluation=asked,
        flops=flops,
        evaluation_flops=evaluation_flops,
        memory=memory,
        fewest=fewest,
        instead={} if memory.fits else _instead(shape, settings, workload, kept, precision, hardware),
        step=step,
        tuned=tuple(models),
        tuning=tuning,
        evaluating=evaluating,
        total=_sum(_scaled(tuning, len(models)), evaluating),
        assumptions=_assumptions(recipe, shape, workload, asked, kept, precision, hardware, pue, kg_co2_per_kwh),
        warnings=(),
    )
    return dataclasses.replace(made, warnings=tuple(_warnings(made)))


def precision_of(settings: TuningSettings, hardware: Hardware) -> Precision:
    """What the forward and backward pass compute in there."""
    if settings.precision != "auto":
        return settings.precision
    if hardware.name != CPU:
        return "bfloat16"
    import torch

    from openflan.tuning.tune import computes_bfloat16

    return "bfloat16" if computes_bfloat16(torch.device("cpu")) else "float32"


def tuning_flops(shape: ModelShape, settings: TuningSettings, rows: Sequence[RowSize]) -> Flops:
    """FLOPs of these rows' forward and backward pass; a multiplication and an addition are two.

    Forward: 2 for each token and weight of the body, 2 for each target and weight of the head, 4 S for each layer and
    unit of attention's width (the causal half that kernels may skip is counted). Backward: as much for the gradient of
    what comes in, and once more for that of weights that are tuned. Element by element operations are left out.

    With LoRA this is up to 2 T more for each weight of the first layer than is done: nothing asks for the gradient of
    what comes into that.
    """
    tokens, targets, squares = (sum(part) for part in zip(*map(dataclasses.astuple, rows), strict=True))
    body, head = 2 * shape.body * tokens, 2 * shape.head * targets
    attention = 4.0 * shape.attention_width * shape.layers * squares
    passes = 3 if settings.method == "full" else 2
    adapters = 2.0 * shape.adapted(settings.lora) * tokens if settings.method == "lora" else 0.0
    return Flops(
        body=passes * body,
        head=passes * head,
        attention=(1 + ATTENTION_BACKWARD) * attention,
        adapters=3 * adapters,
        recomputed=body + attention + adapters if settings.gradient_checkpointing else 0.0,
    )


def shared_out(rows: Sequence[RowSize], devices: int) -> list[list[RowSize]]:
    """The rows of each device: the longest first, each to the one with the fewest tokens, as tuning does it."""
    shares: list[list[int]] = [[] for _ in range(devices)]
    tokens = [0] * devices
    for index in sorted(range(len(rows)), key=lambda i: -rows[i].tokens):
        least = tokens.index(min(tokens))
        shares[least].append(index)
        tokens[least] += rows[index].tokens
    return [[rows[index] for index in sorted(share)] for share in shares]


def forward_passes(rows: Sequence[RowSize], most_tokens: int) -> list[list[RowSize]]:
    """A device's rows, grouped up to `most_tokens`; at least one in each group."""
    groups: list[list[RowSize]] = []
    for row in rows:
        if not groups or sum(r.tokens for r in groups[-1]) + row.tokens > most_tokens:
            groups.append([])
        groups[-1].append(row)
    return groups


def trainable(shape: ModelShape, settings: TuningSettings) -> int:
    """Parameters that are tuned."""
    if settings.method == "full":
        return shape.parameters
    return shape.adapted(settings.lora) if settings.method == "lora" else settings.soft_prompt_tokens * shape.hidden


def optimizer_bytes(shape: ModelShape, settings: TuningSettings) -> int:
    """Bytes of the optimizer's states: AdamW two numbers a parameter, Adafactor a row and a column of each matrix."""
    if settings.optimizer == "adamw":
        return 8 * trainable(shape, settings)
    if settings.method == "full":
        return 4 * shape.factored
    if settings.method == "soft_prompt":
        return 4 * (settings.soft_prompt_tokens + shape.hidden)
    rank = settings.lora.rank
    return 4 * sum(m.number * (m.inputs + m.outputs + 2 * rank) for m in shape.adapted_matrices(settings.lora))


def weight_bytes(shape: ModelShape, settings: TuningSettings) -> float:
    """Bytes of all weights as they lie in memory: float32, but for a quantized base."""
    quantized = {None: None, "nf4": NF4_BYTES, "int8": INT8_BYTES}[settings.quantize]
    own = 4.0 * trainable(shape, settings) if settings.method != "full" else 0.0
    if quantized is None:
        return 4.0 * shape.parameters + own
    matrices = sum(m.number * m.inputs * m.outputs for m in shape.matrices)
    return quantized * matrices + 2.0 * (shape.parameters - matrices) + own


def tuning_memory(
    shape: ModelShape,
    settings: TuningSettings,
    workload: TuningWorkload,
    kept: Kept,
    precision: Precision,
    hardware: Hardware,
    devices: int,
) -> Memory:
    """Bytes on the fullest device. More than one share parameters, gradients and states out (FSDP2)."""
    width = 2 if precision == "bfloat16" else 4
    full = settings.method == "full"
    quantized = settings.quantize is not None
    tuned = trainable(shape, settings)
    passes = [
        group
        for step in workload.steps
        for share in shared_out(step, devices)
        for group in forward_passes(share, settings.forward_tokens)
    ]
    tokens = max(sum(row.tokens for row in group) for group in passes)
    targets = max(sum(row.targets for row in group) for group in passes)
    if settings.gradient_checkpointing:
        layer_by_layer = 4.0 * shape.hidden * shape.layers + kept.token_of_layer  # the residual stream is float32
        copies = kept.weights + kept.weights_of_layer
    else:
        layer_by_layer = kept.token_of_layer * shape.layers
        copies = kept.weights + kept.weights_of_layer * shape.layers
    if quantized:
        copies = 2 * max(m.inputs * m.outputs for m in shape.matrices)  # made anew in the backward pass, one at a time
    elif devices > 1:
        # One layer computed and the next one gathered; what is in no layer all the while; one of them has its gradient.
        largest = max(shape.largest_layer, shape.outside)
        copies = width * (2 * shape.largest_layer + shape.outside) + (width + 4) * largest * full
    update = 0 if settings.optimizer == "adamw" else 8 * (shape.largest_tensor if full else 0)
    capacity = hardware.memory_gib * GIB
    return Memory(
        weights=weight_bytes(shape, settings) / (1 if quantized else devices),
        gradients=4.0 * tuned / devices,
        optimizer=optimizer_bytes(shape, settings) / devices,
        gathered=float(copies),
        activations=tokens * (kept.token + layer_by_layer),
        # Logits, their log-softmax and its gradient in float32; in bfloat16 the head's own output and its gradient too.
        logits=float(targets * shape.vocabulary * (16 if precision == "bfloat16" else 12)),
        temporaries=update / devices,
        capacity=capacity if hardware.name == CPU else capacity - RESERVED_GIB * GIB,
    )


def step_time(
    shape: ModelShape,
    settings: TuningSettings,
    workload: TuningWorkload,
    kept: Kept,
    precision: Precision,
    hardware: Hardware,
    devices: int,
) -> StepTime:
    """Seconds of a step, as long as its busiest device takes."""
    shares = [shared_out(step, devices) for step in workload.steps]
    busiest = _mean([max(_flops(shape, settings, share) for share in step) for step in shares])
    passes = _mean([max(len(forward_passes(share, settings.forward_tokens)) for share in step) for step in shares])
    recomputing = 4 if settings.gradient_checkpointing else 3
    launches = passes * shape.layers * kept.operations_of_layer * recomputing * LAUNCH_SECONDS
    peak = hardware.peak(precision)
    computing = Range(*(busiest / (peak * share) for share in reversed(hardware.share)))
    # A processor launches and computes by turns; beside a GPU the host runs ahead, or the GPU waits for it.
    compute = (
        computing.plus(Range(launches, launches, launches))
        if hardware.name == CPU
        else Range(*(max(seconds, launches) for seconds in computing))
    )
    tuned = trainable(shape, settings)
    traffic = ADAMW_BYTES if settings.optimizer == "adamw" else ADAFACTOR_BYTES
    update = traffic * tuned / devices / hardware.bandwidth
    if settings.optimizer == "adafactor" and settings.method == "full":
        update = max(update, ADAFACTOR_OPERATIONS * shape.tensors * LAUNCH_SECONDS)
    communication = Range(0.0, 0.0, 0.0)
    if devices > 1:
        width = 2 if precision == "bfloat16" else 4
        moved = passes * (devices - 1) / devices * (2 * width * shape.parameters + 4 * tuned)
        rate = link_rate(hardware, devices)
        communication = Range(*(moved / (rate * share) for share in reversed(LINK_SHARE)))
    seconds = Range(
        *(
            max(c, m) + (1 - hidden) * min(c, m) + update
            for c, m, hidden in zip(compute, communication, reversed(OVERLAP), strict=True)
        )
    )
    return StepTime(compute, update, communication, seconds)


def link_rate(hardware: Hardware, devices: int) -> float:
    """Bytes/s at which every device can receive in a collective: between nodes, all of a node's network together."""
    if devices <= hardware.per_node:
        return hardware.link
    return min(hardware.link, hardware.network * hardware.per_node)


def _flops(shape: ModelShape, settings: TuningSettings, rows: Sequence[RowSize]) -> float:
    return tuning_flops(shape, settings, rows).total if rows else 0.0


def _kept(shape: ModelShape, settings: TuningSettings, precision: Precision) -> Kept:
    method: Method = settings.method
    # Traced beside float32 weights: quantized ones are computed with in the same precision.
    lora = settings.lora.model_copy(update={"quantize": None})
    return kept_bytes(shape, bfloat16=precision == "bfloat16", method=method, lora=cast(Any, lora))


def _fewest(
    shape: ModelShape,
    settings: TuningSettings,
    workload: TuningWorkload,
    kept: Kept,
    precision: Precision,
    hardware: Hardware,
) -> int | None:
    """The smallest number of devices on which the recipe fits."""

    def fits(devices: int) -> bool:
        return tuning_memory(shape, settings, workload, kept, precision, hardware, devices).fits

    # Up to a row a device, more devices change the forward passes; from there on they only make shards smaller.
    rows = max(map(len, workload.steps))
    most = 1 if hardware.name == CPU or settings.quantize is not None else MOST_DEVICES
    for devices in range(1, min(rows, most) + 1):
        if fits(devices):
            return devices
    found = bisect.bisect_left(range(rows + 1, most + 1), True, key=fits) + rows + 1
    return found if found <= most else None


def _instead(
    shape: ModelShape,
    settings: TuningSettings,
    workload: TuningWorkload,
    kept: Kept,
    precision: Precision,
    hardware: Hardware,
) -> dict[str, int | None]:
    """Settings that take less memory, each beside those before it, and how many devices are enough then."""
    less = {"forward_tokens": max(row.tokens for step in workload.steps for row in step)}
    changes: dict[str, dict[str, Any]] = {f"tuning.forward_tokens = {less['forward_tokens']}": dict(less)}
    changes["gradient_checkpointing = true too"] = less = less | {"gradient_checkpointing": True}
    changes['optimizer = "adafactor" too'] = less | {"optimizer": "adafactor"}
    changes['method = "lora" too'] = lora = less | {"method": "lora", "optimizer": "adamw"}
    changes['lora.quantize = "nf4" too'] = lora | {"lora": settings.lora.model_copy(update={"quantize": "nf4"})}
    found: dict[str, int | None] = {}
    tried = [settings]
    for name, change in changes.items():
        changed = settings.model_copy(update=change)
        if changed not in tried:
            tried.append(changed)
            its = kept if changed.method == settings.method else _kept(shape, changed, precision)
            found[name] = _fewest(shape, changed, workload, its, precision, hardware)
    return found


def _evaluation(shape: ModelShape, asked: EvaluationWorkload, kept: Kept, hardware: Hardware) -> tuple[float, Range]:
    """(FLOPs, hours on one device) of all arms' answers: forward passes in float32, as models are loaded."""
    prompt = asked.tokens / max(1, asked.prompts)
    attention = 4 * shape.attention_width * shape.layers * prompt * asked.tokens
    read = 2 * shape.body * asked.tokens + 2 * shape.head * asked.scored + attention
    written = 2 * (shape.body + shape.head) * asked.generated
    computing = Range(*((read + written) / (hardware.peak("float32") * share) for share in reversed(hardware.share)))
    passes = asked.generated / DECODED_TOGETHER
    each = max(4 * shape.parameters / hardware.bandwidth, shape.layers * kept.operations_of_layer * LAUNCH_SECONDS)
    return read + written, computing.plus(Range(*[passes * each] * 3)).times(1 / 3600)


def _warnings(made: Plan) -> list[str]:
    said: list[str] = []
    hardware, memory = made.hardware, made.memory
    if not memory.fits:
        enough = f"at least {made.fewest} are needed" if made.fewest else "no number of them is enough"
        said.append(
            f"does not fit: needs {memory.needed / GIB:,.0f} GiB on the fullest device, which has "
            f"{memory.capacity / GIB:,.0f}; {enough}"
        )
    rows = made.workload.rows_per_step
    if made.devices > rows:
        said.append(
            f"a step has about {rows:.1f} rows: {math.ceil(made.devices - rows)} of {made.devices} devices have none; "
            "a smaller tuning.row_length makes more of them"
        )
    if made.devices > 1:
        together = min(made.devices, hardware.per_node)
        said.append(
            f"while it loads, the {together} processes of a node hold the whole model in the host's memory by turns, "
            f"{4 * made.shape.parameters / GIB:,.0f} GiB"
        )
    if made.devices > 1 and made.recipe.tuning.quantize is not None:
        said.append("weights in few bits cannot be sharded: `tune` takes one process, so plan for one device")
    if made.step.bound_by == "communication":
        said.append(
            f"bound by communication: gathering weights takes {made.step.communication.expected:.2g} s of a step, "
            f"computing {made.step.compute.expected:.2g} s; more tuning.tokens_per_step would share it out"
        )
    if seen := [arm for arm in made.recipe.arms if arm in SEEN_ARMS]:
        said.append(f"tuning on each evaluated task, of {', '.join(seen)}, is not in these hours")
    if made.precision == "float32" and hardware.name != CPU:
        ratio = hardware.bfloat16 / hardware.float32
        said.append(f'tuning.precision = "float32": the device multiplies {ratio:.0f} times as fast in bfloat16')
    if 4 * made.shape.parameters * (1 + FRAGMENTATION) > memory.capacity:
        said.append(
            f"evaluation holds the model on one device in float32, {4 * made.shape.parameters / GIB:,.0f} GiB, and "
            "does not fit there: its hours are those of a device that is large enough"
        )
    return said


def _assumptions(
    recipe: Recipe,
    shape: ModelShape,
    workload: TuningWorkload,
    asked: EvaluationWorkload,
    kept: Kept,
    precision: Precision,
    hardware: Hardware,
    pue: float,
    kg_co2_per_kwh: float | None,
) -> tuple[Assumption, ...]:
    low, expected, high = hardware.share
    found = [
        Assumption("model", f"{shape.layers} layers, counted without weights", shape.source),
        *(Assumption("model", part, "assumed") for part in shape.assumed),
        Assumption("hardware", hardware.title, hardware.source),
        Assumption(
            "peak",
            f"{hardware.peak(precision) / 1e12:,.3g} TFLOP/s in {precision}",
            "measured now" if hardware.name == CPU else "vendor",
        ),
        Assumption(
            "share of the peak reached", f"{low:.0%} to {high:.0%}, {expected:.0%} expected", hardware.share_source
        ),
        Assumption("lengths in tuning", f"{workload.tokens_per_step:,.0f} tokens a step", workload.source),
        Assumption("lengths in evaluation", f"{asked.tokens:,.0f} tokens", asked.source),
        Assumption(
            "shared beginnings in evaluation",
            f"{asked.tokens / max(1.0, asked.unshared):.2f} of the tokens of feeding each option with its prompt",
            "a prompt once with its options, and 0.74 of that (0.20 with fixed exemplars): measured, 1,000 prompts",
        ),
        Assumption(
            "activations",
            f"{kept.token_of_layer / 1024:,.0f} KiB a token and layer",
            "traced over the model's own layers"
            if kept.traced
            else "34 bytes a hidden unit at 16 bits: could not be traced",
        ),
        Assumption(
            "operations of a layer",
            f"{kept.operations_of_layer} forward",
            f"each launched in {LAUNCH_SECONDS * 1e6:.0f} µs: guess",
        ),
        Assumption("room lost to fragmentation", f"{FRAGMENTATION:.0%}, and {RESERVED_GIB:.0f} GiB of a GPU", "guess"),
        Assumption(
            "attention",
            "all pairs of an example's tokens; backward 2.5 times forward",
            "as torch counts its fused kernels",
        ),
    ]
    if hardware.name != CPU and hardware.per_node:
        low, expected, high = LINK_SHARE
        found.append(
            Assumption(
                "communication",
                f"{hardware.link / 1e9:,.0f} GB/s in a node of {hardware.per_node}, "
                f"{hardware.network * hardware.per_node / 1e9:,.0f} GB/s a node between them; "
                f"{low:.0%} to {high:.0%} of it",
                "vendor's link; one network card a device, and the share reached: guess",
            )
        )
    if hardware.watts:
        grid = "" if kg_co2_per_kwh is None else f", {kg_co2_per_kwh:g} kg CO2 a kWh"
        found.append(
            Assumption(
                "power",
                f"{hardware.watts:,.0f} W a board all the time, PUE {pue:g}{grid}",
                "vendor; the rest given or guess",
            )
        )
    if len(tuned_models(recipe)) == 0:
        found.append(Assumption("tuning", "no arm of this recipe is tuned", "the recipe's arms"))
    return tuple(found)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _scaled(cost: Cost, factor: int) -> Cost:
    def times(part: Range | None) -> Range | None:
        return None if part is None else part.times(factor)

    return Cost(cost.hours.times(factor), times(cost.kwh), times(cost.kg_co2))


def _sum(first: Cost, second: Cost) -> Cost:
    def added(a: Range | None, b: Range | None) -> Range | None:
        return None if a is None or b is None else a.plus(b)

    return Cost(first.hours.plus(second.hours), added(first.kwh, second.kwh), added(first.kg_co2, second.kg_co2))


def _plain(value: Range | None) -> dict[str, float] | None:
    return None if value is None else value._asdict()


def _cost(cost: Cost) -> dict[str, Any]:
    return {"hours": _plain(cost.hours), "kwh": _plain(cost.kwh), "kg_co2": _plain(cost.kg_co2)}
