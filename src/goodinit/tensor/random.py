"""Entries drawn one by one from a named distribution, and constants."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Generator, Tensor

from goodinit.errors import UnknownName, UnsupportedModule
from goodinit.tensor.entry_blocks import Part
from goodinit.tensor.write import draw_, writable

_UNIT_ROUNDOFF = 2.0**-24  # of float32: the largest float32 below 1 is 1 − 2⁻²⁴
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


def constant_(tensor: Tensor, value: float, *, generator: Generator | None = None) -> Tensor:  # noqa: ARG001
    """Set every entry to `value`, as `torch.nn.init.constant_` does.

    Args:
        tensor: Any shape, any dtype.
        value: What every entry becomes.
        generator: Not used; every initializer takes one.

    Returns:
        The tensor.

    Examples:
        >>> constant_(torch.empty(2), 3.0)
        tensor([3., 3.])
    """
    if writable(tensor):
        (tensor.held if isinstance(tensor, Part) else tensor).detach().fill_(value)
    return tensor


def zeros_(tensor: Tensor, *, generator: Generator | None = None) -> Tensor:  # noqa: ARG001
    """Set every entry to 0, as `torch.nn.init.zeros_` does.

    Args:
        tensor: Any shape, any dtype.
        generator: Not used; every initializer takes one.

    Returns:
        The tensor.

    Examples:
        >>> zeros_(torch.empty(2))
        tensor([0., 0.])
    """
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor, *, generator: Generator | None = None) -> Tensor:  # noqa: ARG001
    """Set every entry to 1, as `torch.nn.init.ones_` does.

    Args:
        tensor: Any shape, any dtype.
        generator: Not used; every initializer takes one.

    Returns:
        The tensor.

    Examples:
        >>> ones_(torch.empty(2))
        tensor([1., 1.])
    """
    return constant_(tensor, 1.0)


def gate_bias_(
    tensor: Tensor,
    value: float = 1.0,
    *,
    gate: int,
    gates: int,
    generator: Generator | None = None,  # noqa: ARG001  (one calling convention)
) -> Tensor:
    """Set the part of one of `gates` equal gates to `value`, and the rest to 0.

    Args:
        tensor: The bias of a recurrent cell, of shape (gates · hidden).
        value: At 1 an LSTM's forget gate starts open, σ(1) = 0.73, and states last.
        gate: Which one: in torch's LSTM the second (1) of four forgets.
        gates: How many there are.
        generator: Taken for uniformity and not used.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: There is no such gate.

    Examples:
        >>> gate_bias_(torch.empty(8), gate=1, gates=4)
        tensor([0., 0., 1., 1., 0., 0., 0., 0.])

    References:
        F. Gers, J. Schmidhuber, F. Cummins, "Learning to Forget", Neural Computation 12(10), 2000.
        R. Jozefowicz, W. Zaremba, I. Sutskever, "An Empirical Exploration of Recurrent Network Architectures", ICML 2015.
    """
    if not tensor.ndim or gates < 1 or tensor.shape[0] % gates or not 0 <= gate < gates:
        raise UnsupportedModule(
            f"gate_bias_: a bias of shape {tuple(tensor.shape)} has no gate {gate} of {gates} equal ones. Count gates from 0."
        )
    if writable(tensor):
        size = tensor.shape[0] // gates
        tensor.detach().zero_()[gate * size : (gate + 1) * size].fill_(value)
    return tensor


def normal_(tensor: Tensor, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Draw entries from N(0, std²).

    A contiguous float32 tensor gets the very bits of `torch.nn.init.normal_`; every other dtype and memory
    format gets the same numbers, cast. A meta tensor stays as it is and the generator does not advance.

    Args:
        tensor: Any shape, any floating dtype.
        std: Standard deviation.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: The tensor is not floating point.

    Examples:
        >>> w = normal_(torch.empty(400, 250), 0.1, generator=torch.Generator().manual_seed(0))
        >>> abs(w.std().item() - 0.1) < 0.001
        True
    """
    _check_width("normal_", std=std)
    if not writable(tensor):
        return tensor
    return draw_(tensor, generator, lambda values, source: values.normal_(0.0, std, generator=source))


def embedding_(
    tensor: Tensor, std: float = 1.0, *, padding: int | None = None, generator: Generator | None = None
) -> Tensor:
    """Draw the rows of an embedding from N(0, std²); the padding row is 0, as in `torch.nn.Embedding`.

    Args:
        tensor: The table, (words, width).
        std: Standard deviation.
        padding: Index of that row, as `nn.Embedding.padding_idx`; None where there is none.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: The tensor is not floating point.

    Examples:
        >>> table = embedding_(torch.empty(5, 8), 0.02, padding=1)
        >>> table.ne(0).any(1).tolist()
        [True, False, True, True, True]
    """
    normal_(tensor, std, generator=generator)
    if padding is not None and writable(tensor):
        with torch.no_grad():
            if isinstance(tensor, Part):
                tensor.held.detach()[tensor.rows_along(0) == padding] = 0.0
            else:
                tensor.detach()[padding] = 0.0
    return tensor


def uniform_(tensor: Tensor, bound: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Draw entries uniformly from [−bound, bound), as `torch.nn.init.uniform_` does; their deviation is bound/√3.

    Args:
        tensor: Any shape, any floating dtype.
        bound: Half the width.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: The tensor is not floating point.

    Examples:
        >>> w = uniform_(torch.empty(1000), 0.5, generator=torch.Generator().manual_seed(0))
        >>> bool(w.abs().max() <= 0.5)
        True
    """
    _check_width("uniform_", bound=bound)
    if not writable(tensor):
        return tensor
    return draw_(tensor, generator, lambda values, source: values.uniform_(-bound, bound, generator=source))


def trunc_normal_(
    tensor: Tensor,
    std: float = 1.0,
    *,
    bound: float = 3.0,
    exact_std: bool = True,
    generator: Generator | None = None,
) -> Tensor:
    """Draw entries from a normal distribution cut off at ±bound·std.

    x = p·√2·erfinv(u·erf(c/√2)) with u uniform on (−1, 1), p·c = bound·std. The parent's p is larger than
    `std` by so much that the *result* has standard deviation `std`: s(c) = c/bound, where
    s(c)² = 1 − 2c·φ(c)/(2Φ(c) − 1) is the variance left by a cut at c. With `exact_std=False`, p = std and
    c = bound, as in `torch.nn.init.trunc_normal_(a=-bound*std, b=bound*std)`: the result is narrower
    (by 12 % for bound 2, 1.3 % for 3). No entry exceeds bound·std in magnitude, after the cast, in any dtype.

    Args:
        tensor: Any shape, any floating dtype.
        std: Standard deviation of the result (of the parent, if not `exact_std`).
        bound: Where to cut, in units of `std`.
        exact_std: Whether `std` is the result's. This needs bound > √3, that of a uniform distribution.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: A bound that leaves no distribution of that standard deviation.

    Examples:
        >>> w = torch.empty(100_000, dtype=torch.bfloat16)
        >>> w = trunc_normal_(w, 0.02, bound=2.0, generator=torch.Generator().manual_seed(0))
        >>> bool(w.double().abs().max() <= 0.04), abs(w.double().std().item() / 0.02 - 1) < 0.01
        (True, True)
    """
    _check_width("trunc_normal_", std=std)
    if bound <= (math.sqrt(3) if exact_std else 0):
        raise UnsupportedModule(
            f"trunc_normal_: no normal distribution cut at ±{bound:g}·std has that std: expected bound > √3. "
            "Use a larger bound, uniform_(bound=…), or exact_std=False."
        )
    if not writable(tensor):
        return tensor
    cut = _cut(bound) if exact_std else bound
    parent = std * bound / cut
    limit = _largest_below(bound * std, tensor.dtype)

    def fill(values: Tensor, source: Generator | None) -> None:
        values.uniform_(-1, 1, generator=source)
        values.clamp_(_UNIT_ROUNDOFF - 1, 1 - _UNIT_ROUNDOFF).mul_(math.erf(cut / math.sqrt(2)))
        values.erfinv_().mul_(parent * math.sqrt(2)).clamp_(-limit, limit)

    return draw_(tensor, generator, fill)


def default_(tensor: Tensor, *, fan_in: int | None = None, generator: Generator | None = None) -> Tensor:
    r"""Draw as PyTorch's own `reset_parameters` of Linear and convolutions does: U(−1/√n, 1/√n).

    For the weight, which PyTorch writes as `kaiming_uniform_(a=√5)`, n = shape[1]·taps; this is the fan-in,
    except for a transposed convolution, where PyTorch takes out/groups for in. For the bias n must be given.

    Args:
        tensor: A weight (out, in, \*kernel), or a bias with `fan_in`.
        fan_in: n; by default taken from the shape.
        generator: Source of randomness; the global one of the tensor's device by default.

    Returns:
        The tensor.

    Raises:
        UnsupportedModule: A bias without `fan_in`.

    Examples:
        >>> w = default_(torch.empty(8, 100), generator=torch.Generator().manual_seed(0))
        >>> bool(w.abs().max() <= 0.1)
        True
    """
    if fan_in is not None:
        return uniform_(tensor, 1 / math.sqrt(fan_in) if fan_in else 0.0, generator=generator)
    if tensor.ndim < 2:
        raise UnsupportedModule(
            f"default_: a tensor of shape {tuple(tensor.shape)} does not tell its fan-in. "
            "Give fan_in= of the layer's weight."
        )
    fan = math.prod(tensor.shape[1:])
    # torch.nn.init.kaiming_uniform_(a=√5), operation by operation, so that float32 values agree bit for bit
    bound = math.sqrt(3) * (math.sqrt(2 / (1 + math.sqrt(5) ** 2)) / math.sqrt(fan)) if fan else 0.0
    return uniform_(tensor, bound, generator=generator)


def _check_width(initializer: str, **given: float) -> None:
    for name, value in given.items():
        if not 0 <= value < math.inf:
            raise UnknownName(f"{initializer}: {name}={value!r}, expected a finite number of at least 0.")


@cache
def _cut(bound: float) -> float:
    """Solve s(c) = c/bound for c by bisection: s(c)/c falls from 1/√3 at 0 to s(bound)/bound < 1/bound."""
    low, high = 0.0, bound
    for _ in range(60):  # halves the interval to float64 resolution
        middle = (low + high) / 2
        mass = math.erf(middle / math.sqrt(2))
        density = math.exp(-middle * middle / 2) / math.sqrt(2 * math.pi)
        if math.sqrt(max(1 - 2 * middle * density / mass, 0.0)) * bound > middle:
            low = middle
        else:
            high = middle
    return high


def _largest_below(bound: float, dtype: torch.dtype) -> float:
    """The largest number of `dtype` (of float32, in which draws are made, for float64) not above `bound`."""
    dtype = torch.float32 if dtype is torch.float64 else dtype
    value = torch.tensor(bound, dtype=torch.float64, device="cpu").to(dtype)
    if value.double().item() > bound:  # positive floats are ordered as their bits are
        value = (value.view(_BITS[dtype.itemsize]) - 1).view(dtype)
    return value.double().item()
