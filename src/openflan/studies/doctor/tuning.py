"""Whether tuning's fast way gives the logits, loss and gradient of one example at a time.

Read next: `scoring.py`.
"""

import itertools
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from openflan.encoding import Encoded, PackedRow
from openflan.models.packing import DONE
from openflan.studies.doctor.finding import Finding, Measure, judged, not_applicable
from openflan.studies.doctor.patient import (
    SIZES,
    Patient,
    alone,
    gradient_difference,
    relative,
    take_gradients,
    target_nats,
    vocabulary,
    watched,
)


def packing(patient: Patient) -> Finding:
    """Packed examples against each in a forward pass of its own: logits, loss and gradient."""
    in_order = packed_order(patient.examples, patient.rows)
    with watched(patient.model) as parameters:
        expected, total = _alone(patient, in_order)
        reference = take_gradients(parameters)
        with torch.no_grad():
            logits = patient.taken.logits(patient.model, patient.rows)
        loss = patient.taken.backward(patient.model, patient.rows)
        gradient = gradient_difference(take_gradients(parameters), reference)
        compared = f"the gradient of {len(parameters)} of {sum(1 for _ in patient.model.parameters())} parameters"
    allowed = patient.tolerances
    found = judged(
        [
            Measure("logits", relative(logits, expected), allowed.logits),
            Measure("loss", abs(loss - total) / abs(total) if total else abs(loss), allowed.loss),
            Measure("gradient", gradient, allowed.gradient),
        ],
        said=f"{len(in_order)} examples in {len(patient.rows)} rows get the logits, loss and gradient they get alone "
        f"({compared})",
        otherwise="tuning would learn something else than one example at a time teaches; do not tune this model",
    )
    if patient.taken.reason is None or found.outcome == "fail":
        return found
    if (fault := patient.control.taken.reason) is not None:
        return Finding("fail", f"not even a plain Llama can be packed here, so the fault is not the model's: {fault}")
    return Finding(
        "falls back",
        f"{patient.taken.reason}; {DONE[patient.taken.way]}; this was checked",
        found.measures,
        cost=f"in tuning {DONE[patient.taken.way]}",
    )


def isolation(patient: Patient) -> Finding:
    """The gradient of each packed example's loss with respect to the embeddings of the others."""
    if len(patient.token_ids) < len(SIZES):
        return not_applicable("the vocabulary is too small for examples that share no token")
    in_order = packed_order(patient.examples, patient.rows)
    leaked, reached = 0.0, 0
    with watched(patient.model) as parameters, shifted(patient, in_order) as shifts:
        for parameter in parameters:
            parameter.requires_grad_(False)
        logits = patient.taken.logits(patient.model, patient.rows)
        for at, (example, part) in enumerate(zip(in_order, _by_example(logits, in_order), strict=True)):
            (gradient,) = torch.autograd.grad(target_nats(part, example), shifts, retain_graph=True)
            size = gradient.float().abs().amax(-1).tolist()
            reached += size[at] > 0
            leaked = max(leaked, *(one for other, one in enumerate(size[:-1]) if other != at), 0.0)
    return judged(
        [
            Measure("gradient to other examples", leaked, 0.0),
            Measure("examples their own loss does not reach", len(in_order) - reached, 0.0),
        ],
        said=f"no loss of {len(in_order)} examples reaches the embeddings of another, and each reaches its own",
        otherwise="packed examples see each other; do not tune this model",
    )


def accumulation(patient: Patient) -> Finding:
    """One step's loss and gradient, rows cut into forward passes in several ways, against plain sums by hand."""
    in_order = packed_order(patient.examples, patient.rows)
    first_two = sum(len(row.input_ids) for row in patient.rows[:2])
    gradient = loss = 0.0
    with watched(patient.model) as parameters:
        _, total = _alone(patient, in_order)
        take_gradients(parameters)
        reference: list[Tensor | None] | None = None
        for tokens in (1 << 30, first_two, 1):
            found = patient.taken.backward(patient.model, patient.rows, forward_tokens=tokens)
            loss = max(loss, abs(found - total) / abs(total) if total else abs(found))
            gradients = take_gradients(parameters)
            if reference is None:
                reference = gradients
            gradient = max(gradient, gradient_difference(gradients, reference))
    targets = sum(len(one.target_ids) for one in in_order)
    return judged(
        [
            Measure("loss", loss, patient.tolerances.loss),
            Measure("gradient", gradient, patient.tolerances.gradient),
        ],
        said=f"{len(patient.rows)} rows in one forward pass, in two and one by one give one gradient, the mean over "
        f"all {targets} target tokens",
        otherwise="the step would depend on forward_tokens; do not tune this model",
    )


def _alone(patient: Patient, examples: Sequence[Encoded]) -> tuple[Tensor, float]:
    """Each example through the plain model: target logits [K, V] and mean loss; the gradient is left in place."""
    targets = sum(len(one.target_ids) for one in examples)
    parts: list[Tensor] = []
    total = 0.0
    for one in examples:
        logits = alone(patient.model, one.prompt_ids + one.target_ids)
        loss = target_nats(logits, one) / targets
        cast(Any, loss).backward()
        total += loss.item()
        parts.append(logits.detach()[-len(one.target_ids) - 1 : -1])
    return torch.cat(parts), total


def packed_order(examples: Sequence[Encoded], rows: Sequence[PackedRow]) -> list[Encoded]:
    """The examples as they stand in the rows."""
    named = {f"{one.task} {one.row_id} {one.template}": one for one in examples}
    return [named[name] for row in rows for name in row.row_ids]


def _by_example(logits: Tensor, examples: Sequence[Encoded]) -> Sequence[Tensor]:
    return logits.split([len(one.target_ids) for one in examples])


@contextmanager
def shifted(patient: Patient, examples: Sequence[Encoded]) -> Generator[Tensor, None, None]:
    """[S + 1, hidden] of zeros: row i is added to the embedding of each token of example i, the last to all others'.

    A gradient with respect to row i is one with respect to example i's embeddings, however a batch is laid out.
    """
    embedding: Any = patient.model.get_input_embeddings()
    owners = torch.full((vocabulary(patient.model) + len(patient.lm.prefix_ids),), len(examples))
    for at, one in enumerate(examples):
        own = set(itertools.chain(one.prompt_ids, one.target_ids)) - set(patient.lm.prefix_ids)
        owners[list(own)] = at
    owners = owners.to(patient.lm.device)
    weight = embedding.weight
    shifts = torch.zeros(len(examples) + 1, weight.shape[1], dtype=weight.dtype, device=weight.device)
    shifts.requires_grad_(True)

    def shift(_module: torch.nn.Module, given: tuple[Tensor, ...], found: Tensor) -> Tensor:
        return found + shifts[owners[given[0]]]

    hook = embedding.register_forward_hook(shift)
    try:
        yield shifts
    finally:
        hook.remove()
