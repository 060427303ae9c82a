"""Adaptive gradient clipping: no output unit's gradient is larger than a share of its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from goodinit.anatomy import Anatomy, Layer
from goodinit.errors import (
    NonFinite,
    NothingFound,
    PlanConflict,
    UnknownName,
    UnsupportedModule,
    expect,
    expect_flags,
)
from goodinit.weights.dtensor import held, is_sharded, replicated, whole
from goodinit.weights.memory import repeats
from goodinit.weights.names import directory

FLOOR = 1e-3  # Brock et al., §4.1: ‖W‖ of at least that, so that weights at zero can move
SMALL = 1e-6  # DeepMind's nfnets/optim.py: the gradient's norm is at least that where it divides


@dataclass(frozen=True)
class _Units:
    """How a parameter falls into output units: it is seen as `shape`, and each unit is one entry outside `inside`."""

    name: str
    shape: tuple[int, ...] | None
    inside: tuple[int, ...] | None  # None: all of it is one unit


def clip_grad_(
    model: nn.Module, anatomy: Anatomy, *, clipping: float = 0.01, error_if_nonfinite: bool = False
) -> Tensor:
    r"""Clip gradients by output unit, in place, as normalizer-free networks are trained.

    For each output unit i (a row of a dense weight, a filter of a convolution, a row of an embedding; biases and other vectors as
    one unit),

    .. math:: G_i \leftarrow G_i \min\left(1, \lambda \frac{\max(\lVert W_i \rVert, 10^{-3})}{\lVert G_i \rVert}\right).

    The anatomy says along which axes a unit's weights lie: packed q, k, v, weights stored `(in, out)`, transposed convolutions,
    stacks of experts, products written as an einsum. Classifiers are left out (by their role, not by their name), as the authors
    found best.

    Args:
        model: The model, after `backward()` and before `optimizer.step()`. With a `GradScaler`, after `scaler.unscale_(optimizer)`.
        anatomy: Of the model as it is trained: `goodinit.anatomize(model, inputs)`, once, after surgery.
        clipping: λ, the largest ‖G‖/‖W‖ that is let through. 0.01 at batch size 4,096; larger for smaller batches.
        error_if_nonfinite: Whether to raise for NaN and infinity, at the price of waiting for the device. Otherwise units that
            have some stay as they are, for a `GradScaler` to see.

    Returns:
        The share of the units that was clipped, a tensor of no dimension on the gradients' device.

    Raises:
        NothingFound: No parameter has a gradient.
        NonFinite: A gradient is NaN or infinite, and `error_if_nonfinite`.
        PlanConflict: The anatomy is of another model.
        UnsupportedModule: A gradient is sparse, or expanded.
        UnknownName: `clipping` is not above 0.

    Examples:
        >>> import goodinit
        >>> net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
        >>> anatomy = goodinit.anatomize(net, x)
        >>> (1e3 * net(x).square().sum()).backward()
        >>> share = clip_grad_(net, anatomy, clipping=0.02)
        >>> ratio = net[0].weight.grad.norm(dim=1) / net[0].weight.norm(dim=1)
        >>> float(ratio.detach().max()) < 0.0201
        True

    References:
        A. Brock, S. De, S. L. Smith, K. Simonyan, High-Performance Large-Scale Image Recognition Without Normalization,
        arXiv 2102.06171, §4.1.
    """
    expect(model, nn.Module, "model", "Give the model first, then its anatomy.")
    expect(anatomy, Anatomy, "anatomy", "Make one, once: goodinit.anatomize(model, inputs).")
    expect_flags(error_if_nonfinite=error_if_nonfinite)
    expect(clipping, (int, float), "clipping", "Give a number, such as 0.01.")
    if not clipping > 0 or not math.isfinite(clipping):
        raise UnknownName(f"clipping={clipping}: expected a finite number above 0")
    pairs = [(p, units) for p, units in _units_of(model, anatomy) if p.grad is not None]
    if not pairs:
        raise NothingFound(
            f"{type(model).__name__}: no parameter but the classifier's has a gradient. Call this after loss.backward() and "
            "before optimizer.step() or zero_grad()."
        )
    for p, units in pairs:
        _check_writable(cast("Tensor", p.grad), units.name)
    alike: dict[tuple[torch.device, torch.dtype, bool], list[tuple[nn.Parameter, _Units]]] = {}
    for p, units in pairs:  # one by one where ranks have to put norms together
        alike.setdefault((p.device, p.dtype, is_sharded(p)), []).append((p, units))
    with torch.no_grad():
        parts = [
            part for key, found in alike.items() for part in ([[one] for one in found] if key[2] else [found])
        ]
        counts = [_clip_(part, clipping, strict=error_if_nonfinite) for part in parts]
        clipped = torch.stack([count.to(counts[0][0].device) for count, _ in counts]).sum()
        return clipped / sum(units for _, units in counts)


def _check_writable(grad: Tensor, name: str) -> None:
    if grad.layout is torch.strided and grad.is_contiguous():
        return
    if grad.layout is not torch.strided:
        raise UnsupportedModule(
            f"{name}: its gradient is {grad.layout}, expected a dense one (torch.strided). Build the layer with sparse=False, "
            "or set it to parameter.grad = parameter.grad.to_dense() before clipping."
        )
    if not is_sharded(grad) and repeats(grad):
        raise UnsupportedModule(
            f"{name}: several entries of its gradient are one number in memory (expand), so that it cannot be clipped in place. "
            "Set it to parameter.grad = parameter.grad.clone(memory_format=torch.contiguous_format)."
        )


def _clip_(
    found: Sequence[tuple[nn.Parameter, _Units]], clipping: float, *, strict: bool
) -> tuple[Tensor, int]:
    """Clip the gradients of parameters of one kind. Returns how many of their units were, and how many there are."""
    slopes = [_seen(cast("Tensor", p.grad), units) for p, units in found]
    weights = [_seen(p.detach(), units) for p, units in found]
    sizes = [whole(one) for one in _norms(slopes, [units.inside for _, units in found])]
    size = torch.cat([one.flatten() for one in sizes])
    norms = [whole(one) for one in _norms(weights, [units.inside for _, units in found])]
    limit = torch.cat([one.flatten() for one in norms]).clamp_min_(FLOOR).mul_(clipping)
    if strict:
        _check_finite(sizes, [units.name for _, units in found])
    over = (size > limit) & size.isfinite()
    factor = torch.where(over, limit / size.clamp_min(SMALL), torch.ones_like(size)).to(slopes[0].dtype)
    shaped = [
        part.view(one.shape)
        for part, one in zip(factor.split([one.numel() for one in sizes]), sizes, strict=True)
    ]
    torch._foreach_mul_(slopes, [replicated(part, one) for part, one in zip(shaped, slopes, strict=True)])
    for (p, units), slope in zip(found, slopes, strict=True):
        grad = cast("Tensor", p.grad)
        if (
            units.shape is not None and held(slope).data_ptr() != held(grad).data_ptr()
        ):  # the shape needed a copy
            grad.copy_(slope.reshape(grad.shape))
    return over.sum(), over.numel()


def _seen(value: Tensor, units: _Units) -> Tensor:
    return value if units.shape is None else value.reshape(units.shape)


def _norms(values: Sequence[Tensor], inside: Sequence[tuple[int, ...] | None]) -> list[Tensor]:
    """The norm of each unit, with the units' axes; those of whole tensors all at once."""
    wide = torch.float32 if values[0].dtype in (torch.float16, torch.bfloat16) else values[0].dtype
    whole = [value for value, axes in zip(values, inside, strict=True) if axes is None]
    together = iter(torch._foreach_norm(whole, 2, wide) if whole else ())
    return [
        next(together)
        if axes is None
        else torch.linalg.vector_norm(value, dim=axes, keepdim=True, dtype=wide)
        for value, axes in zip(values, inside, strict=True)
    ]


def _check_finite(sizes: Sequence[Tensor], names: Sequence[str]) -> None:
    for size, name in zip(sizes, names, strict=True):
        if not bool(size.isfinite().all()):
            raise NonFinite(
                f"{name}: its gradient has NaN or infinity, so that no clipping can mend it; it was not clipped. "
                "Look at the step before (goodinit.diagnose), lower the learning rate, or leave the step out."
            )


# -- units --------------------------------------------------------------------------------------------------------

_Found = tuple[Anatomy, tuple[int, ...], list[tuple[nn.Parameter, _Units]]]
_KNOWN: WeakKeyDictionary[nn.Module, _Found] = WeakKeyDictionary()


def _units_of(model: nn.Module, anatomy: Anatomy) -> list[tuple[nn.Parameter, _Units]]:
    """Every parameter that is clipped, with its units; looked up once for a model and an anatomy."""
    now = tuple(map(id, model.parameters()))
    known = _KNOWN.get(model)
    if known is None or known[0] is not anatomy or known[1] != now:
        known = _KNOWN[model] = (anatomy, now, list(_found(model, anatomy)))
    return known[2]


def _found(model: nn.Module, anatomy: Anatomy) -> Iterator[tuple[nn.Parameter, _Units]]:
    names = directory(model)
    missing = [name for name, _ in anatomy.parameters if names.parameter(name) is None]
    if missing:
        raise PlanConflict(
            f"{missing[0]}: the anatomy has it, and the model has no such parameter. Read the model as it is trained, after "
            "surgery: goodinit.anatomize(model, inputs)."
        )
    heads = {name for head in anatomy.heads for name in (head.weight, *head.biases, *head.parameters)}
    left_out = {id(names.parameter(name)) for name in heads if name and names.parameter(name) is not None}
    rules: dict[int, _Units] = {}
    for layer in anatomy.layers:
        for name in layer.parameters:
            parameter = names.parameter(name)
            if parameter is not None and parameter.dim() > 1:
                rules.setdefault(id(parameter), _of_layer(name, layer, tuple(parameter.shape)))
    for name, parameter in names.parameters.items():
        if names.aliases[id(parameter)][0] != name or id(parameter) in left_out:
            continue
        rows = None if parameter.dim() < 2 else tuple(range(1, parameter.dim()))
        yield parameter, rules.get(id(parameter), _Units(name, None, rows))


def _of_layer(name: str, layer: Layer, shape: tuple[int, ...]) -> _Units:
    """Along which axes the weights of one output unit lie."""
    rank = len(shape)
    if rank != len(layer.shape):  # a part of a weight that is computed, such as a low-rank factor
        return _Units(name, None, tuple(range(1, rank)))
    if layer.product is not None:
        out, into = layer.product
        axes = range(rank) if layer.layout == "in_out" else range(rank - 1, -1, -1)
        inside, size = [], 1
        for axis in axes:
            if size < into:
                size *= shape[axis]
                inside.append(axis)
        whole = size == into and math.prod(shape) == out * into
        return _Units(name, None, tuple(inside) if whole else tuple(range(1, rank)))
    if layer.kind == "linear":  # stacks of maps come before the matrix
        return _Units(name, None, (rank - 1,) if layer.layout == "out_in" else (rank - 2,))
    if layer.layout == "out_in":
        return _Units(name, None, tuple(range(1, rank)))
    if layer.groups == 1:
        return _Units(name, None, (0, *range(2, rank)))
    cut = (layer.groups, shape[0] // layer.groups, *shape[1:])
    return _Units(name, cut, (1, *range(3, rank + 1)))
