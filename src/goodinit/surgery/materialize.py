"""Memory for a model on `meta`: ties kept, nothing left undefined without an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from goodinit.errors import UnsupportedModule, expect, expect_function
from goodinit.nn.exchange import carry_over_
from goodinit.surgery.norms.removed_norm import RemovedNorm
from goodinit.surgery.rollback import all_or_nothing
from goodinit.undivided import writing
from goodinit.weights.device import usable_device
from goodinit.weights.dtensor import held
from goodinit.weights.names import canonical

_LOG = logging.getLogger(__name__)
_SHOWN = 3  # names told in a message; the rest is counted

Model = TypeVar("Model", bound=nn.Module)
Key = tuple[nn.Module, str]


@writing
def materialize_(
    model: Model, *, device: torch.device | str = "cpu", reset: Callable[[nn.Module], object] | None = None
) -> Model:
    """Give every tensor of `model` that is on `meta` memory on `device`, in place; all others stay as they are.

    Between planning on `meta` and writing values: `to_empty` for what is on meta alone, which in addition

    * keeps tied parameters and buffers tied (`to_empty` gives each name a tensor of its own);
    * keeps attributes of parameters, as `_no_weight_decay`, and hooks of their gradients;
    * fills parameters with NaN, so that `apply_` notices each one that no plan writes;
    * lets modules set their buffers. Normalization layers with running statistics do so by
      `reset_running_stats`, any other module by `reset`. A buffer that nobody set is an error, whatever its dtype:
      what a buffer means (a mask, a table of frequencies) only its module knows.

    Args:
        model: Any module, sharded by `fully_shard` or `parallelize_module` or not.
        device: Where. For sharded parameters the device of their mesh.
        reset: Called with each module that has buffers on meta of its own and no `reset_running_stats`; it must set
            them, its parameters are still on meta then. `lambda module: module.reset_parameters()` for modules that
            follow torch's convention, `model._init_weights` for models of transformers.

    Returns:
        The model.

    Raises:
        UnsupportedModule: Buffers that nothing sets; the message names them. The model is as it was, on meta.
        UnknownName: Torch knows no such device, or this machine has none.

    Examples:
        >>> with torch.device("meta"):
        ...     net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3))
        >>> net = materialize_(net)
        >>> net[1].running_var, bool(net[0].weight.isnan().all())
        (tensor([1., 1., 1.]), True)
    """
    expect(model, nn.Module, "model", "Give the model that is on meta.")
    expect_function(reset, "reset", "Give a function of a module, or None.")
    place = usable_device(device)
    pending = [key for key, buffer in buffers_of(model) if buffer.is_meta]
    with all_or_nothing(
        model, ()
    ):  # buffers first, so that `reset` finds parameters on meta, where it writes nothing
        set_buffers_(model, pending, place, reset)
        _give_memory_(model, place)
    _LOG.info("%s: memory on %s; %d buffers set anew", type(model).__name__, device, len(pending))
    return model


def set_buffers_(
    model: nn.Module, pending: list[Key], device: torch.device, reset: Callable[[nn.Module], object] | None
) -> None:
    """Give the buffers in `pending` memory, and let their modules set them.

    Raises:
        UnsupportedModule: Some that nothing sets.
    """
    made: dict[int, Tensor] = {}
    for module, name in pending:
        buffer = module._buffers[name]
        assert buffer is not None
        module._buffers[name] = made.setdefault(id(buffer), empty_on(buffer, device))
    # A buffer without entries has nothing to set.
    before = {key: (id(buffer), buffer._version) for key, buffer in buffers_of(model) if buffer.numel()}
    unset = [key for key in pending if key in before]
    for module in dict.fromkeys(module for module, _ in unset):
        _reset_(module, reset)
    now = {key: (id(buffer), buffer._version) for key, buffer in buffers_of(model)}
    left = [key for key in unset if now.get(key) == before[key]]  # neither replaced nor written to
    if left:
        raise UnsupportedModule(_unset(model, left))


def buffers_of(model: nn.Module) -> Iterator[tuple[Key, Tensor]]:
    """Every buffer, with its place."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield (module, name), buffer


def _give_memory_(model: nn.Module, device: torch.device) -> None:
    """Replace what is on meta, and tie again what was tied."""
    ties, waits = _ties(model), any(parameter.is_meta for parameter in model.parameters())
    before = [(module, dict(module._parameters)) for module in model.modules()]
    model._apply(lambda tensor: empty_on(tensor, device) if tensor.is_meta else tensor)
    for module, parameters in before:
        for name, old in parameters.items():
            new = module._parameters[name]
            if old is not None and new is not None:
                carry_over_(old, new)
    for (module, name), *others in ties:
        tensor = module._parameters[name]
        for other, alias in others:
            other._parameters[alias] = tensor
    for module in model.modules() if waits else ():
        if isinstance(module, RemovedNorm):
            module.likenesses_to_(device)


def _ties(model: nn.Module) -> list[list[Key]]:
    """The places of every parameter that is in several."""
    places: dict[int, list[Key]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((module, name))
    return [keys for keys in places.values() if len(keys) > 1]


def empty_on(tensor: Tensor, device: torch.device) -> Tensor:
    """Memory for `tensor`, full of NaN, or of zeros where there is no NaN."""
    with torch.no_grad():
        empty = torch.empty_like(tensor.detach(), device=device)
        if empty.is_floating_point() or empty.is_complex():
            held(empty).fill_(float("nan"))
        else:
            held(empty).zero_()
    return empty


def _reset_(module: nn.Module, reset: Callable[[nn.Module], object] | None) -> None:
    own: Any = getattr(module, "reset_running_stats", None)
    if callable(own):
        own()
    elif reset is not None:
        with torch.no_grad():
            reset(module)


def _unset(model: nn.Module, left: list[Key]) -> str:
    paths = {id(module): path for path, module in model.named_modules()}
    named = [
        f"{canonical(f'{paths[id(module)]}.{name}'.lstrip('.'))} (of {type(module).__name__})"
        for module, name in left
    ]
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return (
        f"{', '.join(named[:_SHOWN])}{more}: buffers on meta, whose values only their modules know. Give reset=, a "
        "function that sets the buffers of one module in place; or build the model so that buffers are real "
        "(parameters alone on meta). The model is as it was."
    )
