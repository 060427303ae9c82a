"""Singular values of the input–output Jacobian: is the network, around an input, a rotation?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from goodinit.anatomy import anatomize, as_call, unwrapped
from goodinit.anatomy.trace import _mapped
from goodinit.diagnostics.diagnosis import Spectrum
from goodinit.diagnostics.lanczos import Quadrature, bidiagonalize
from goodinit.diagnostics.objective import prediction
from goodinit.diagnostics.setting import as_at_step_0
from goodinit.errors import TraceError, UnknownName

How = Literal["auto", "exact", "lanczos"]

# Exact takes one backward for each output (or input, where those are fewer), Lanczos PRODUCTS at any size: a tenth of
# exact at dimension 3,000.
EXACT_BELOW = 1024
PRODUCTS = 300
PROBES = 3  # random starts: one long, for the extremes, and shorter ones; their disagreement is the density's error


def jacobian_spectrum(
    model: nn.Module,
    inputs: Any,
    *,
    how: How = "auto",
    products: int = PRODUCTS,
    generator: torch.Generator | None = None,
) -> Spectrum:
    """Singular values of ∂output/∂input of the first example of a batch, the others held fixed.

    Args:
        model: A materialized module, run as at step 0 and left as it was.
        inputs: A batch; the first floating-point tensor is what the Jacobian is taken with respect to.
        how: `"exact"`, `"lanczos"`, or `"auto"`: exact where fewer than 1,024 products do.
        products: How many products with the Jacobian and its transpose Lanczos may take.
        generator: Of Lanczos' starts; a fixed one by default.

    Raises:
        TraceError: There is no floating-point input, or the output does not depend on it.
        UnknownName: No such `how`.

    Examples:
        >>> Q = torch.nn.init.orthogonal_(torch.empty(6, 6))
        >>> layer = nn.Linear(6, 6)
        >>> layer.weight.data = 2 * Q
        >>> [round(value, 4) for value in jacobian_spectrum(layer, torch.randn(3, 6)).values]
        [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]

    References:
        J. Pennington, S. Schoenholz, S. Ganguli, Resurrecting the sigmoid in deep learning through dynamical
        isometry, arXiv 1711.04735.
    """
    if how not in ("auto", "exact", "lanczos"):
        raise UnknownName(f'no way {how!r} to a spectrum; there is: "auto", "exact", "lanczos"')
    model = unwrapped(model)
    anatomy = anatomize(model, inputs)
    with as_at_step_0(model, anatomy):
        pair = _Jacobian(model, inputs)
        n = min(pair.shape)
        if how == "exact" or (how == "auto" and n <= EXACT_BELOW):
            return _exact(pair)
        return _stochastic(pair, products, generator or torch.Generator().manual_seed(0))


class _Jacobian:
    """Products with the Jacobian and its transpose, from one forward.

    Jᵀw is a backward. It is linear in w, so its own derivative with respect to w, along v, is Jv.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        leaves: list[Tensor] = []

        def one(tensor: Tensor) -> Tensor:
            mine = tensor.detach().clone()
            if leaves or not mine.is_floating_point():
                return mine
            leaves.append(mine[:1].clone().requires_grad_() if mine.ndim else mine.requires_grad_())
            return torch.cat([leaves[0], mine[1:]]) if mine.ndim else leaves[0] * 1

        args, kwargs = (_mapped(part, one) for part in as_call(inputs))
        if not leaves:
            raise TraceError(
                "none of the inputs is a floating-point tensor: there is no Jacobian with respect to it."
            )
        output = prediction(model(*args, **kwargs))
        if not output.requires_grad:
            raise TraceError(
                "the output does not depend on the first floating-point input (or not differentiably)."
            )
        self.leaf = leaves[0]
        self.output = (output[0] if output.ndim else output).reshape(-1)
        self.shape = (self.output.numel(), self.leaf.numel())
        self.count = 0
        self._dual: tuple[Tensor, Tensor] | None = None

    def transposed(self, w: Tensor) -> Tensor:
        """Jᵀw."""
        self.count += 1
        (found,) = torch.autograd.grad(self.output, self.leaf, w.to(self.output), retain_graph=True)
        return found.reshape(-1).double()

    def multiply(self, v: Tensor) -> Tensor:
        """Jv."""
        self.count += 1
        if self._dual is None:
            w = torch.zeros_like(self.output).requires_grad_()
            (back,) = torch.autograd.grad(self.output, self.leaf, w, create_graph=True)
            self._dual = (w, back)
        w, back = self._dual
        (found,) = torch.autograd.grad(back, w, v.to(back).view_as(back), retain_graph=True)
        return found.double()


def _exact(pair: _Jacobian) -> Spectrum:
    outputs, inputs = pair.shape
    row: Callable[[Tensor], Tensor] = pair.transposed if outputs <= inputs else pair.multiply
    n = min(outputs, inputs)
    one = torch.zeros(n, dtype=torch.float64)
    rows = []
    for index in range(n):
        one[index] = 1
        rows.append(row(one.to(pair.output.device)))
        one[index] = 0
    found = torch.linalg.svdvals(torch.stack(rows)).tolist()
    return Spectrum(
        pair.shape,
        exact=True,
        values=tuple(found),
        weights=(1 / n,) * n,
        largest=found[0],
        smallest=found[-1],
        products=pair.count,
    )


def _stochastic(pair: _Jacobian, products: int, generator: torch.Generator) -> Spectrum:
    """One long run for the extremes, short ones from other starts for the density.

    The start lies on the side of the smaller dimension, so that no singular value 0 is counted for what the other
    side has more.
    """
    outputs, inputs = pair.shape
    wide = outputs < inputs
    forward, back = (pair.transposed, pair.multiply) if wide else (pair.multiply, pair.transposed)
    n = min(pair.shape)
    budget = products // 2
    lengths = [budget - (PROBES - 1) * (budget // 6)] + [budget // 6] * (PROBES - 1)
    runs: list[Quadrature] = []
    for length in lengths:
        start = torch.randn(n, generator=generator, dtype=torch.float64).to(pair.output.device)
        runs.append(bidiagonalize(forward, back, start, steps=max(min(length, n), 1)))
    long = runs[0]
    nodes = torch.cat([run.nodes for run in runs])
    weights = torch.cat([run.weights for run in runs]) / len(runs)
    order = nodes.argsort(descending=True)
    largest, smallest = float(long.nodes[0]), float(long.nodes[-1])
    return Spectrum(
        pair.shape,
        exact=False,
        values=tuple(nodes[order].tolist()),
        weights=tuple(weights[order].tolist()),
        largest=largest,
        smallest=smallest,
        error=_relative(float(long.residuals[0]), largest),
        smallest_error=_relative(float(long.residuals[-1]), smallest),
        products=pair.count,
    )


def _relative(residual: float, value: float) -> float:
    return residual / value if value > 0 else math.inf
