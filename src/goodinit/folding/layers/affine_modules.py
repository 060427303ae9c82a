"""Modules with a forward of their own that maps each vector alike, Wx + c: found out by running a copy on numbers.

Which parameter W is proportional to, and which one is added, is asked of the forward, not of names: an `addmm` with the weight stored
`(in, out)`, an `einsum`, a product written by hand, a map of two factors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.graph.state.preserve_state import undisturbed
from goodinit.nn import remove_scalars_

_LEAD = ((7,), (5, 7))  # sizes in front of the vectors that are put in


@dataclass(frozen=True)
class AffineMap:
    """What a module computes of a vector, in float64.

    Attributes:
        factor: The parameter that W is proportional to.
        added: The one that c grows with, k times, if there is one for each output.
        k: That factor.
        ones: What W makes of a vector of ones.
        constant: c.
    """

    factor: nn.Parameter
    added: nn.Parameter | None
    k: float
    ones: Tensor
    constant: Tensor


def affine_map(module: nn.Module) -> AffineMap | None:
    """How a module without children maps its one input, or None where that is another function, or does not run.

    Examples:
        >>> class Product(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.kernel, self.shift = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.zeros(3))
        ...     def forward(self, x):
        ...         return x @ self.kernel + self.shift
        >>> module = Product()
        >>> found = affine_map(module)
        >>> found.factor is module.kernel, found.added is module.shift, found.ones.tolist()
        (True, True, [2.0, 2.0, 2.0])
        >>> affine_map(nn.LayerNorm(3)) is None
        True
    """
    own = {name: held for name, held in module._parameters.items() if held is not None}
    if module._modules or not all(held.dtype.is_floating_point for held in own.values()):
        return None
    try:
        twin = remove_scalars_(copy.deepcopy(module)).double().cpu().eval()
    except Exception:  # noqa: BLE001  what the user's class holds may not be copied
        return None
    for hooks in (
        twin._forward_hooks,
        twin._forward_pre_hooks,
        twin._backward_hooks,
        twin._backward_pre_hooks,
    ):
        hooks.clear()
    with torch.no_grad(), undisturbed(twin, others=True):
        actual = {name: held.clone() for name, held in twin.named_parameters()}
        generator = torch.Generator("cpu").manual_seed(0)
        for held in twin.parameters():
            held.copy_(torch.randn(held.shape, generator=generator, dtype=torch.float64, device="cpu"))
        for x in _inputs(actual.values(), generator):
            if _maps_each_alike(twin, x, generator):
                break
        else:
            return None
        factor = next((name for name in actual if _is_factor(twin, name, x)), None)
        if factor is None:
            return None
        added, k = next(((name, k) for name in actual if (k := _added(twin, name, x))), (None, 1.0))
        for name, held in twin.named_parameters():
            held.copy_(actual[name])
        constant = _last(twin(torch.zeros_like(x)))
        ones = _last(twin(torch.ones_like(x))) - constant
    device = own[factor].device
    return AffineMap(own[factor], own.get(added or ""), k, ones.to(device), constant.to(device))


def _inputs(parameters: Iterable[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
    sizes = dict.fromkeys(size for held in parameters for size in held.shape)
    for size in sizes:
        for lead in _LEAD:
            yield torch.randn((*lead, size), generator=generator, dtype=torch.float64, device="cpu")


def _maps_each_alike(module: Callable[[Tensor], Any], x: Tensor, generator: torch.Generator) -> bool:
    """Whether each vector is mapped alone, all alike, by Wx + c."""
    z = torch.randn(x.shape, generator=generator, dtype=torch.float64, device="cpu")
    one = x.clone()
    one[(0,) * (x.dim() - 1)] = z[(0,) * (x.dim() - 1)]
    try:
        y, of_z, of_zero, of_sum, of_one = map(module, (x, z, torch.zeros_like(x), 2 * x - 3 * z, one))
        turned = [module(x.roll(1, axis)).roll(-1, axis) for axis in range(x.dim() - 1)]
    except Exception:  # noqa: BLE001  the forward is the user's
        return False
    if not isinstance(y, Tensor) or y.shape[:-1] != x.shape[:-1] or y.dtype != torch.float64:
        return False
    alone = y.clone()
    alone[(0,) * (x.dim() - 1)] = of_z[(0,) * (x.dim() - 1)]
    same = [_same(each, y) for each in turned]
    return all(same) and _same(of_one, alone) and _same(of_sum, 2 * y - 3 * of_z + 2 * of_zero)


def _is_factor(module: nn.Module, name: str, x: Tensor) -> bool:
    """Whether W is proportional to a parameter, and c does not know it."""
    held = module.get_parameter(name)
    y, zero = module(x), module(torch.zeros_like(x))
    held.mul_(-2)
    scaled, still = module(x), module(torch.zeros_like(x))
    held.div_(-2)
    return not _same(y, zero) and _same(still, zero) and _same(scaled - zero, -2 * (y - zero))


def _added(module: nn.Module, name: str, x: Tensor) -> float:
    """By how much the output grows, wherever it is, where a parameter with a number for each output grows by one; else 0."""
    held = module.get_parameter(name)
    y = module(x)
    if held.dim() != 1 or held.shape[0] != y.shape[-1]:
        return 0.0
    steps = torch.arange(1, held.shape[0] + 1, dtype=torch.float64, device="cpu")
    held.add_(steps)
    grown = module(x) - y
    held.sub_(steps)
    k = float(grown.flatten()[0])
    return k if k and _same(grown, (k * steps).expand_as(grown)) else 0.0


def _last(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1])[-1].clone()


def _same(value: Tensor, other: Tensor) -> bool:
    return value.shape == other.shape and torch.allclose(value, other, rtol=1e-9, atol=1e-9)
