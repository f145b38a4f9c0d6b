"""The processes of one tuning run, and a model sharded over them. torchrun starts them, each with the same command.

Every process knows every row of a step and computes its share (`loss.py`); FSDP2 keeps a shard of each parameter, of
its gradient and of its optimizer state in each. Without torchrun there is one process, and nothing here does anything.
"""

import contextlib
import functools
import itertools
import os
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage] -- public in the docs
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from openflan.errors import RunError

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long processes wait while the first reads rows or writes a model. If it dies torchrun ends the others at once."""

TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""How torchrun tells a process which of how many it is."""


@dataclass(frozen=True, eq=False)
class World:
    """This process among those of the run."""

    rank: int = 0
    """From 0."""
    size: int = 1
    device: torch.device | None = None
    """Where this process computes; None where it is alone, and computes where its model is."""
    waiting: Any = field(default=None, repr=False)
    """The process group that waits with `PATIENCE`."""

    @property
    def first(self) -> bool:
        """Whether this process writes what a run leaves."""
        return self.rank == 0

    @property
    def loading_device(self) -> str:
        """Where a model is loaded to be tuned: several processes read its weights when it is their turn."""
        return "auto" if self.size == 1 else "meta"

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier(self.waiting)

    @contextlib.contextmanager
    def first_alone(self) -> Generator[None, None, None]:
        """The block run by the first process, and only when it is through by the others."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    @contextlib.contextmanager
    def in_turn(self) -> Generator[None, None, None]:
        """The block run by the processes of a machine one after another, so that one model at a time is there whole."""
        place, places = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        turns = max(self.gathered(max(places, place + 1)))
        for _ in range(place):
            self.wait()
        yield
        for _ in range(turns - place):
            self.wait()

    def gathered(self, mine: T) -> list[T]:
        """What each process gave, by rank."""
        if self.size == 1:
            return [mine]
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, mine, self.waiting)
        return every

    def summed(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes, in float64."""
        if self.size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        return cast("list[float]", totals.tolist())


ALONE = World()
_world = ALONE
_joins = itertools.count()
_GONE = re.compile("closed by peer|reset by peer|broken pipe|remote process", re.IGNORECASE)


def world() -> World:
    """The processes that `joined` has brought together; otherwise this one alone."""
    return _world


@contextlib.contextmanager
def joined() -> Generator[World, None, None]:
    """The processes that torchrun started, brought together for the block: NCCL between GPUs, gloo between CPUs.

    Inside another such block it is that one's world. Raises RunError where torchrun started more processes on a machine
    than it has GPUs, and where another process has gone.
    """
    global _world
    if _world.size > 1 or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield _world
        return
    device = _own_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, size = _meeting_place()
    # Under a name of its own: addresses of an earlier group would be taken for those of this one.
    dist.init_process_group(backend, store=PrefixStore(f"join-{next(_joins)}", store), rank=rank, world_size=size)
    waiting: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    _world = World(dist.get_rank(), dist.get_world_size(), device, waiting)
    try:
        yield _world
    except RuntimeError as error:
        if _GONE.search(str(error)):
            raise RunError("another process of this run has ended; what it said tells why") from error
        raise
    finally:
        _world = ALONE
    # After an error the others may be in the middle of a reduction: leaving in good order would wait for them.
    dist.destroy_process_group()


def go_on_alone() -> None:
    """For the process that works on when the others have ended: `joined` would wait for them, in its children too."""
    for name in TORCHRUN_VARIABLES:
        os.environ.pop(name, None)


@functools.cache
def _meeting_place() -> tuple[Any, int, int]:
    """(store in which processes find each other, rank, number of processes), as torchrun's variables say."""
    return next(rendezvous("env://"))


def mesh_of(world: World) -> DeviceMesh:
    """The processes' devices in a row; all processes call this together."""
    assert world.device is not None
    return init_device_mesh(world.device.type, (world.size,))


def shard(model: PreTrainedModel, root: nn.Module, mesh: DeviceMesh, *, bfloat16: bool) -> None:
    """Shard the parameters of `root`, whose forward computes with `model`, over the devices of `mesh`, in place.

    Every process calls this with the same weights, at any time: it keeps its part of them, and nothing is sent. Each
    decoder layer is gathered when its turn comes, the rest while `root` runs. Gradients are summed over processes, not
    averaged, in float32; with `bfloat16` layers compute in it, on float32 parameters.
    """
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bfloat16 else MixedPrecisionPolicy()
    for module in (*_decoder_layers(model), root):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other, and a factor of 1 needs no other


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, in every process; others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _own_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise RunError(
            f"torchrun started process {local_rank + 1} on a machine with {torch.cuda.device_count()} GPUs: "
            "--nproc-per-node must not exceed that"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The longest list of modules in the model's body that is not inside another (as a layer's experts are)."""
    return max(_outer_lists(model.base_model), key=len, default=nn.ModuleList())


def _outer_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _outer_lists(child)
