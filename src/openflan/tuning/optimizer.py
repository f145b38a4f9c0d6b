"""The optimizers, with the settings that make them the paper's or the field's usual ones."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from openflan.tuning.settings import TuningSettings


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TuningSettings) -> torch.optim.Optimizer:
    """The optimizer over the trainable ones of `parameters`, sharded or whole; its rate is set before each step.

    Adafactor has an external learning rate, no momentum and update clipping at 1 (its defaults in Shazeer & Stern
    2018); AdamW is torch's fused one.
    """
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
    return Adafactor(groups, lr=settings.lr, scale_parameter=settings.scale_parameter)


class Adafactor(torch.optim.Optimizer):
    """Adafactor (Shazeer & Stern 2018, algorithm 4) without momentum, with an external learning rate.

    The update is that of transformers' Adafactor with `relative_step=False`, which does not run on parameters sharded
    over processes; torch's own scales by the parameter always. A sharded matrix keeps the statistics of its own rows;
    those of columns, and norms, are summed over the processes: two reductions a step, whatever the parameters.

    A step overwrites the gradients.
    """

    def __init__(
        self,
        parameters: Iterable[dict[str, Any]],
        *,
        lr: float,
        scale_parameter: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "scale_parameter": scale_parameter, "weight_decay": weight_decay}
        fixed = {"eps": (1e-30, 1e-3), "clip_threshold": 1.0, "decay_rate": -0.8}
        super().__init__(parameters, defaults | fixed)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        parts = [
            _Part(parameter, self.state[parameter], group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        _sum_over_processes([sums for part in parts for sums in part.average()])
        _sum_over_processes([sums for part in parts for sums in part.precondition()])
        for part in parts:
            part.apply()


class _Part:
    """What this process does for one parameter: all of it, or its shard of the rows (dimension 0).

    The methods are called in order. What the first two give is summed over the processes, in place, before the next.
    """

    def __init__(self, parameter: nn.Parameter, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(_first_state(parameter))
        self.group, self.shape, self.sharded = group, parameter.shape, isinstance(parameter, DTensor)
        self.weights, self.gradient = _local(parameter), _local(cast(Tensor, parameter.grad)).float()
        self.state = {name: _local(value) for name, value in state.items()}
        self.state["step"] += 1
        self.kept = 1.0 - math.pow(self.state["step"].item(), group["decay_rate"])
        self.update_sum, self.weight_sum = self.gradient.new_zeros(()), self.gradient.new_zeros(())

    def average(self) -> list[Tensor]:
        """Move the running averages of the squared gradient by what is here."""
        squared = self.gradient.square() + self.group["eps"][0]
        summed: list[Tensor] = []
        if self.group["scale_parameter"]:
            self.weight_sum = self.weights.float().norm(2).square()
            summed.append(self.weight_sum)
        if len(self.shape) < 2:
            self.state["exp_avg_sq"].mul_(self.kept).add_(squared, alpha=1.0 - self.kept)
        else:
            self.state["exp_avg_sq_row"].mul_(self.kept).add_(squared.mean(-1), alpha=1.0 - self.kept)
            self.row_sum, self.col_sum = self.state["exp_avg_sq_row"].sum(-1, keepdim=True), squared.sum(-2)
            if len(self.shape) == 2:  # of more dimensions the first is sharded, and these sums are whole
                summed += [self.row_sum, self.col_sum]
        return summed if self.sharded else []

    def precondition(self) -> list[Tensor]:
        """Turn the gradient into the update, not yet clipped."""
        if len(self.shape) < 2:
            update = self.state["exp_avg_sq"].rsqrt()
        else:
            rows = self.shape[-2]
            row, col = self.state["exp_avg_sq_row"], self.state["exp_avg_sq_col"]
            col.mul_(self.kept).add_(self.col_sum / rows, alpha=1.0 - self.kept)
            update = (row / (self.row_sum / rows)).rsqrt()[..., None] * col.rsqrt()[..., None, :]
        self.update = self.gradient.mul_(update)
        self.update_sum = self.update.norm(2).square()
        return [self.update_sum] if self.sharded else []

    def apply(self) -> None:
        """Clip the update and take it."""
        root = math.sqrt(self.shape.numel())
        lr = self.group["lr"]
        if self.group["scale_parameter"]:
            lr = lr * (self.weight_sum.sqrt() / root).clamp(min=self.group["eps"][1])
        clipped = (self.update_sum.sqrt() / root / self.group["clip_threshold"]).clamp(min=1.0)
        update = self.update.div_(clipped).mul_(lr)
        weights = self.weights.float()
        if self.group["weight_decay"]:
            weights.sub_(weights * (self.group["weight_decay"] * lr))
        weights.sub_(update)
        if weights is not self.weights:
            self.weights.copy_(weights)


def _first_state(parameter: nn.Parameter) -> dict[str, Tensor]:
    """Zeros in the shapes of the running averages, sharded as the parameter is."""
    state = {"step": torch.tensor(0.0)}
    shape = parameter.shape
    if len(shape) < 2:
        return state | {"exp_avg_sq": torch.zeros_like(parameter, dtype=torch.float32)}
    row = _zeros(parameter, tuple(shape[:-1]))
    # A matrix's columns cross all shards: every process has their statistics.
    col = _zeros(parameter, (*shape[:-2], shape[-1]), whole=len(shape) == 2)
    return state | {"exp_avg_sq_row": row, "exp_avg_sq_col": col}


def _zeros(like: nn.Parameter, shape: tuple[int, ...], *, whole: bool = False) -> Tensor:
    if whole or not isinstance(like, DTensor):
        return torch.zeros(shape, device=like.device)
    zeros = torch.zeros((like.to_local().shape[0], *shape[1:]), device=like.device)
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        zeros, like.device_mesh, [Shard(0)], run_check=False, shape=torch.Size(shape), stride=stride
    )


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _sum_over_processes(sums: Sequence[Tensor]) -> None:
    """Replace each by its sum over all processes; they hold tensors of the same shapes in the same order."""
    if not sums:
        return
    flat = torch.cat([part.reshape(-1) for part in sums])
    dist.all_reduce(flat)
    for part, total in zip(sums, flat.split([part.numel() for part in sums]), strict=True):
        part.copy_(total.view_as(part))
