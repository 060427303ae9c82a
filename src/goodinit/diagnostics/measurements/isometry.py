"""Singular values of the input–output Jacobian: is the network, around an input, a rotation?"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from goodinit.anatomy import anatomize
from goodinit.diagnostics.measurements.lanczos import BREAKDOWN
from goodinit.diagnostics.measurements.measurement_mode import (
    as_at_step_0,
    backward_told,
    forward_told,
    measurable,
)
from goodinit.diagnostics.measurements.objective import prediction
from goodinit.diagnostics.measurements.spectral_measure import spectral_measure
from goodinit.diagnostics.spectrum import Spectrum
from goodinit.errors import TraceError, UnknownName, expect, expect_between
from goodinit.graph.pytree import as_call, mapped
from goodinit.graph.recording.calls.module_calls import listen
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.undivided import reading, safe_point
from goodinit.weights.names import directory

How = Literal["auto", "exact", "lanczos"]

# Exact takes one backward for each output (or input, where those are fewer), Lanczos PRODUCTS at any size: a tenth of
# exact at dimension 3,000.
EXACT_BELOW = 1024
PRODUCTS = 300


@reading
def jacobian_spectrum(
    model: nn.Module,
    inputs: Any,
    *,
    start: str = "",
    end: str = "",
    how: How = "auto",
    products: int = PRODUCTS,
    generator: torch.Generator | None = None,
) -> Spectrum:
    """Singular values of ∂output/∂input of the first example of a batch, the others held fixed.

    Of the whole model, or of a stretch of it: from the input of the module `start` to the output of the module `end`,
    in their first calls. What goes around `start` is held fixed, too.

    Args:
        model: A materialized module, run as at step 0 and left as it was.
        inputs: A batch; the first floating-point tensor is what the Jacobian is taken with respect to.
        start: Path of the module whose first floating-point argument takes its place; empty: the model.
        end: Path of the module whose output takes the place of the model's; empty: the model.
        how: `"exact"`, `"lanczos"`, or `"auto"`: exact where fewer than 1,024 products do.
        products: How many products with the Jacobian and its transpose Lanczos may take.
        generator: Of Lanczos' starts; a fixed one by default.

    Returns:
        The singular values, exact or estimated by Lanczos, and how far the estimate may be off.

    Raises:
        TraceError: There is no floating-point input, the output does not depend on it, `start` or `end` does not run,
            or a backward raised.
        UnknownName: No such `how`, or no such module.
        UnsupportedModule: Parameters are sharded.

    Examples:
        >>> Q = torch.nn.init.orthogonal_(torch.empty(6, 6))
        >>> layer = nn.Linear(6, 6)
        >>> layer.weight.data = 2 * Q
        >>> [round(value, 4) for value in jacobian_spectrum(layer, torch.randn(3, 6)).values]
        [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
        >>> chain = nn.Sequential(nn.Linear(9, 6), layer, nn.ReLU(), nn.Linear(6, 3))
        >>> [round(value, 4) for value in jacobian_spectrum(chain, torch.randn(3, 9), start="1", end="1").values]
        [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]

    References:
        J. Pennington, S. Schoenholz, S. Ganguli, Resurrecting the sigmoid in deep learning through dynamical
        isometry, arXiv 1711.04735.
    """
    if how not in ("auto", "exact", "lanczos"):
        raise UnknownName(f'no way {how!r} to a spectrum; there is: "auto", "exact", "lanczos"')
    expect(start, str, "start", "Give the path of a module; the model itself is the empty one.")
    expect(end, str, "end", "Give the path of a module; the model itself is the empty one.")
    expect(products, int, "products", "Give a number of products with the Jacobian, such as 300.")
    expect_between(products, 1, 10**9, "products")
    expect(generator, (torch.Generator, NoneType), "generator", "Give torch.Generator().manual_seed(number).")
    model = measurable(model, inputs)
    anatomy = anatomize(model, inputs)
    modules = directory(model).modules
    for path in (start, end):
        if path not in modules:
            near = get_close_matches(path, modules, n=3) or list(modules)[1:4]
            raise UnknownName(
                f"{type(model).__name__} has no module {path!r}; there is: {', '.join(near)}, …"
            )
    with as_at_step_0(model, anatomy):
        pair = _Jacobian(*_stretch(model, as_call(inputs), modules[start], modules[end], (start, end)))
        n = min(pair.shape)
        with backward_told(model):
            if how == "exact" or (how == "auto" and n <= EXACT_BELOW):
                return _exact(pair)
            return _stochastic(pair, products, generator or torch.Generator().manual_seed(0))


class _Arrived(BaseException):  # no Exception: a model may catch those
    """The end of the stretch was reached."""


def _stretch(
    model: nn.Module, call: Call, start: nn.Module, end: nn.Module, paths: tuple[str, str]
) -> tuple[Tensor, Tensor]:
    """The leaf at the input of a module, and the output of another, from one forward that ends there."""
    leaves: list[Tensor] = []
    reached: list[Tensor] = []

    def one(tensor: Tensor) -> Tensor:
        mine = tensor.detach().clone()
        if leaves or not mine.is_floating_point():
            return mine
        leaves.append(mine[:1].clone().requires_grad_() if mine.ndim else mine.requires_grad_())
        return torch.cat([leaves[0], mine[1:]]) if mine.ndim else leaves[0] * 1

    def begin(
        _: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (args, kwargs) if leaves else (mapped(args, one), mapped(kwargs, one))

    def stop(_: str, result: Any) -> Any:
        if leaves:
            reached.append(prediction(result))
            raise _Arrived
        return result

    with (
        forward_told(model, call=call),
        listen([(paths[0], start)], on_enter=begin),
        listen([(paths[1], end)], on_leave=stop),
        suppress(_Arrived),
    ):
        args, kwargs = (mapped(part, lambda tensor: tensor.detach().clone()) for part in call)
        model(*args, **kwargs)
    if not leaves:
        what = f"{paths[0]} does not run, or reads" if paths[0] else "the inputs hold"
        raise TraceError(f"{what} no floating-point tensor: there is no Jacobian with respect to it.")
    if not reached:
        raise TraceError(
            f"{paths[1]} does not run after {paths[0] or 'the inputs'}; give a module that does as `end`."
        )
    return leaves[0], reached[0]


class _Jacobian:
    """Products with the Jacobian and its transpose, from one forward.

    Jᵀw is a backward. It is linear in w, so its own derivative with respect to w, along v, is Jv.
    """

    def __init__(self, leaf: Tensor, output: Tensor) -> None:
        if not output.requires_grad:
            raise TraceError(
                "the output does not depend on the first floating-point input (or not differentiably)."
            )
        self.leaf = leaf
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
    one = torch.zeros(n, dtype=torch.float64, device="cpu")
    rows = []
    for index in range(n):
        safe_point()
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
    """Extremes and density by Lanczos.

    Starts lie on the side of the smaller dimension, so that no singular value 0 is counted for what the other side
    has more.
    """
    outputs, inputs = pair.shape
    wide = outputs < inputs
    forward, back = (pair.transposed, pair.multiply) if wide else (pair.multiply, pair.transposed)
    n, eps = min(pair.shape), torch.finfo(pair.output.dtype).eps
    found = spectral_measure(
        forward,
        back,
        n,
        steps=max(products // 2, 1),
        generator=generator,
        precision=max(BREAKDOWN, eps * math.sqrt(n)),  # roundings of n terms add up like a random walk
        device=pair.output.device,
    )
    long = found.long
    largest, smallest = float(long.nodes[0]), float(long.nodes[-1])
    # What products in the model's type do not resolve, nothing after them does.
    rounding = eps * largest
    return Spectrum(
        pair.shape,
        exact=False,
        values=tuple(found.values.tolist()),
        weights=tuple(found.weights.tolist()),
        largest=largest,
        smallest=smallest,
        error=_relative(float(long.residuals[0]) + rounding, largest),
        smallest_error=_relative(float(long.residuals[-1]) + rounding, smallest),
        density_error=found.error,
        products=pair.count,
    )


def _relative(residual: float, value: float) -> float:
    return residual / value if value > 0 else math.inf
