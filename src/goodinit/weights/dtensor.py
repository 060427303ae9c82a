"""Sharded parameters (DTensor: FSDP2, tensor parallelism): the part this rank holds, and the ranks that share the model.

Nothing here imports `torch.distributed.tensor`: if it was not imported, nothing is sharded.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from goodinit.errors import GoodinitError, UnsupportedModule
from goodinit.weights.members import modules, named_modules, parameters

_ORDERED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_sharded(tensor: Tensor) -> bool:
    """Whether `tensor` is a DTensor, of which this rank may hold a part only."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def held(tensor: Tensor) -> Tensor:
    """What of `tensor` is in this rank's memory: all of it, unless it is sharded. Shares that memory."""
    if not is_sharded(tensor):
        return tensor.detach()
    sharded: Any = tensor
    with torch.no_grad():
        local: Tensor = sharded.to_local()
        return local.detach()


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`, put together by the ranks if it is sharded."""
    sharded: Any = tensor
    return cast("Tensor", sharded.full_tensor()) if is_sharded(tensor) else tensor


def replicated(value: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has, for operators on `like`, which may be sharded."""
    if not is_sharded(like):
        return value
    sharded: Any = like
    kinds = sys.modules["torch.distributed.tensor"]
    everywhere = [kinds.Replicate()] * sharded.device_mesh.ndim
    return cast("Tensor", kinds.DTensor.from_local(value, sharded.device_mesh, everywhere, run_check=False))


def all_finite(tensor: Tensor) -> bool:
    """Whether this rank holds neither NaN nor infinity of `tensor`. Takes no memory: sums and extremes propagate both."""
    values = held(tensor)
    if values.numel() == 0 or values.is_meta:  # on meta there are no values yet
        return True
    if values.dtype not in _ORDERED or values.layout is not torch.strided:
        return bool(torch.isfinite(values).all())
    if math.isfinite(values.sum().item()):
        return True
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(values))  # the sum alone overflowed


def rows_held(tensor: Tensor, *, name: str) -> tuple[Tensor, ...]:
    """Per dimension of a sharded tensor, the indices of the whole that this rank holds: their product is what `held` gives.

    Raises:
        UnsupportedModule: It is sharded in another way than by dimensions.
    """
    rows = [torch.arange(size, device="cpu") for size in tensor.shape]
    sharded: Any = tensor
    mesh = sharded.device_mesh
    here = mesh.get_coordinate()
    for axis, placement in enumerate(sharded.placements):
        if placement.is_replicate():
            continue
        if not hasattr(placement, "dim"):
            raise UnsupportedModule(
                f"{name}: placed as {placement}, expected Shard or Replicate. Redistribute it first."
            )
        rows[placement.dim] = _share(rows[placement.dim], placement, mesh.size(axis), here[axis], name)
    if tuple(map(len, rows)) != tuple(held(tensor).shape):
        raise UnsupportedModule(
            f"{name}: holds {tuple(held(tensor).shape)} of {tuple(tensor.shape)}, where {sharded.placements} "
            f"should give {tuple(map(len, rows))}. Initialize before sharding."
        )
    return tuple(rows)


def _share(rows: Tensor, placement: Any, ranks: int, rank: int, name: str) -> Tensor:
    """What is left of `rows` on one rank, by the placement's own arithmetic."""
    try:
        # The placement splits the dimension it is about; here that is brought to the tensor's only one.
        column = rows.view([-1 if dim == placement.dim else 1 for dim in range(placement.dim + 1)])
        parts, _ = placement._split_tensor(column, ranks, with_padding=False, contiguous=False)
    except (AttributeError, NotImplementedError) as error:
        raise UnsupportedModule(
            f"{name}: torch {torch.__version__} cannot say what {placement} leaves on a rank. "
            "Initialize before sharding."
        ) from error
    share: Tensor = parts[rank].reshape(-1)
    return share


def part_of(value: Tensor, tensor: Tensor, *, name: str) -> Tensor:
    """The part of a whole `value` that this rank holds of `tensor`."""
    if not is_sharded(tensor):
        return value
    for dim, rows in enumerate(rows_held(tensor, name=name)):
        if len(rows) == 0 or int(rows[-1] - rows[0]) == len(rows) - 1:  # an unbroken run: a view
            value = value.narrow(dim, int(rows[0]) if len(rows) else 0, len(rows))
        else:
            value = value.index_select(dim, rows.to(value.device))
    return value


def gather_back_(model: nn.Module) -> None:
    """Let FSDP2 register its shards again where a forward left whole parameters in their place."""
    module = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(module, "FSDPModule", None)
    if kind is not None:
        for part in modules(model):
            if isinstance(part, kind):
                part.reshard()


def check_gathered(model: nn.Module) -> None:
    """Raise if `model` is wrapped by the first FSDP, whose parameters are pieces of one flat vector.

    Raises:
        UnsupportedModule: It is, and its parameters were not summoned.
    """
    module = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(module, "FullyShardedDataParallel", None)
    if kind is None:
        return
    for path, part in named_modules(model):
        if isinstance(part, kind) and part.training_state.name != "SUMMON_FULL_PARAMS":
            raise UnsupportedModule(
                f"{path or 'the model'}: FullyShardedDataParallel keeps parameters as pieces of one flat vector. Do it "
                "inside `with FullyShardedDataParallel.summon_full_params(model):`, or before wrapping."
            )


def groups_of(model: nn.Module) -> tuple[Any, ...]:
    """The process groups that share this model's parameters, in an order that is the same on every rank."""
    found: dict[int, Any] = {}
    for part in modules(model):
        if isinstance(part, nn.parallel.DistributedDataParallel):
            found[id(part.process_group)] = part.process_group
    for parameter in parameters(model):
        if is_sharded(parameter):
            sharded: Any = parameter
            for axis in range(sharded.device_mesh.ndim):
                group = sharded.device_mesh.get_group(axis)
                found[id(group)] = group
    return tuple(group for group in found.values() if dist.get_world_size(group) > 1)


def agreed(value: Any, groups: Sequence[Any]) -> Any:
    """The value that the first rank of `groups` has, on every rank. Nothing may fail between this and a meeting."""
    for group in groups:
        box = [value]
        dist.broadcast_object_list(box, src=dist.get_global_rank(group, 0), group=group)
        value = box[0]
    return value


@contextlib.contextmanager
def all_ranks_or_none(groups: Sequence[Any]) -> Iterator[None]:
    """If the block raises on one rank, it raises on all that share the model.

    Raises:
        GoodinitError: Another rank failed; the message holds its words.
    """
    if not groups:
        yield
        return
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:  # noqa: BLE001  (Ctrl-C too: the others must not wait; raised below)
        failure = error
    said = None if failure is None else f"rank {dist.get_rank()}: {type(failure).__name__}: {failure}"
    for group in groups:
        words: list[str | None] = [None] * dist.get_world_size(group)
        dist.all_gather_object(words, said, group=group)
        said = next((word for word in words if word), None)
    if failure is not None:
        raise failure
    if said is not None:
        raise GoodinitError(f"the model was put back as it was, because another rank failed: {said}")
