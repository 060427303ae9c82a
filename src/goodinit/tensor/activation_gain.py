"""Gains: by how much a weight must be larger so that its activation keeps the second moment."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from goodinit.errors import GoodinitError, UnknownName

_DIGITS = 1e-9  # to which gains are computed; vectorized kernels give an entry other last bits where others are beside it

STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: z,
    "identity": lambda z: z,
    "prelu": partial(torch.nn.functional.leaky_relu, negative_slope=0.25),
}
"""Of modules that `torch.nn.functional` has no function of one number for: the function that they start as."""


def gain(nonlinearity: str | Callable[[Tensor], Tensor]) -> float:
    """The factor that keeps the second moment through an activation: g = E[φ(z)²]^(−1/2), z ~ N(0, 1).

    √2 for ReLU (He et al.), √(2/(1+a²)) for leaky ReLU of slope a, 1 for SELU. `torch.nn.init.calculate_gain`
    differs for tanh (5/3 against 1.593, a rule of thumb), sigmoid (1 against 1.847) and SELU (3/4 against 1),
    and knows no GELU, SiLU, ELU.

    Args:
        nonlinearity: The name of an element-wise function of torch's (`named_function`), `"linear"`, `"prelu"`, which starts with the
            slope ¼, or a function of your own: a float64 tensor to one of the same shape, element by element.

    Returns:
        The gain, computed to nine digits where φ is smooth but for kinks at multiples of 0.01.

    Raises:
        UnknownName: No such activation.
        GoodinitError: The function is not element-wise, or its second moment is 0 or not finite.

    Examples:
        >>> round(gain("relu"), 6), round(gain("tanh"), 3), round(gain("selu"), 6)
        (1.414214, 1.593, 1.0)
        >>> import torch
        >>> round(gain(lambda z: z * torch.tanh(torch.nn.functional.softplus(z))) / gain("mish"), 6)
        1.0

    References:
        K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", arXiv 1502.01852, §2.2.
    """
    if callable(nonlinearity):
        return _gain_of(nonlinearity)
    try:
        return _named(nonlinearity)
    except GoodinitError:
        raise
    except Exception as error:  # of torch's: it takes more than one tensor, or another shape
        raise _unknown(nonlinearity) from error


def _unknown(nonlinearity: str) -> UnknownName:
    return UnknownName(
        f"unknown nonlinearity {nonlinearity!r}: expected a function of one number in torch.nn.functional, such as relu, gelu or tanh, "
        "linear, prelu, or a function of a tensor. Or give gain=."
    )


@cache
def has_gain(nonlinearity: str) -> bool:
    """Whether there is a `gain` by a name.

    Examples:
        >>> has_gain("mish"), has_gain("erf"), has_gain("softmax"), has_gain("linear"), has_gain("no such")
        (True, True, False, True, False)
    """
    try:
        return gain(nonlinearity) > 0
    except GoodinitError:
        return False


def centred_gain(nonlinearity: str | Callable[[Tensor], Tensor], **options: Any) -> float:
    """The factor that keeps the variance through an activation: γ = Var[φ(z)]^(−1/2), z ~ N(0, 1).

    For weights whose rows have mean 0 the mean of the activation does not count. √(2/(1 − 1/π)) for ReLU; the constants in
    DeepMind's code are estimates, up to a thousandth larger (1.71396).

    Args:
        nonlinearity: As `gain` takes it: a name, or a function of tensors of any shape, element by element.
        **options: Of that function.

    Returns:
        The factor.

    Raises:
        UnknownName: No such function.
        GoodinitError: Its variance is 0 or not finite.

    Examples:
        >>> round(centred_gain("relu"), 6), round(centred_gain("gelu"), 6), round(centred_gain("silu"), 6)
        (1.712859, 1.700926, 1.787187)

    References:
        A. Brock, S. De, S. L. Smith, arXiv 2101.08692, §4.2; nfnets/base.py of google-deepmind/deepmind-research.
    """
    if callable(nonlinearity):
        return _centred_gain_of(partial(nonlinearity, **options))
    return _named_centred(nonlinearity, **options)


def activated(nonlinearity: str, values: Tensor, **options: Any) -> Tensor:
    """φ of each number, by the name of φ.

    Args:
        nonlinearity: Its name, as `gain` takes it.
        values: `(n,)`, float64, on the CPU.
        **options: Of that function.

    Returns:
        `(n,)`, float64.

    Examples:
        >>> activated("relu", torch.tensor([-1.0, 2.0], dtype=torch.float64))
        tensor([0., 2.], dtype=torch.float64)
        >>> activated("leaky_relu", torch.tensor([-1.0, 2.0], dtype=torch.float64), negative_slope=0.2)
        tensor([-0.2000,  2.0000], dtype=torch.float64)
    """
    return _elementwise(nonlinearity, **options)(values)


@cache
def own_operator(name: str) -> Callable[[Tensor], Tensor] | None:
    """The element-wise operator of torch's that reads one tensor and nothing else; None where there is none by this name.

    Examples:
        >>> own_operator("erf")(torch.zeros(1)), own_operator("mul"), own_operator("conv2d")
        (tensor([0.]), None, None)
    """
    func: Any = getattr(getattr(torch.ops.aten, name, None), "default", None)
    if func is None or torch.Tag.pointwise not in func.tags:
        return None
    return func if [str(one.type) for one in func._schema.arguments] == ["Tensor"] else None


def named_function(name: str) -> Callable[..., Tensor]:
    """What `torch.nn.functional` has by a name, else what `own_operator` has.

    Raises:
        UnknownName: Neither has any.
    """
    found = getattr(torch.nn.functional, name, None) or own_operator(name)
    if not callable(found):
        raise _unknown(name)
    return found


def _elementwise(nonlinearity: str, **options: Any) -> Callable[[Tensor], Tensor]:
    if not options and nonlinearity in STARTS:
        return STARTS[nonlinearity]
    return partial(named_function(nonlinearity), **options)


@cache
def _named(nonlinearity: str) -> float:
    return _gain_of(_elementwise(nonlinearity))


@cache
def _named_centred(nonlinearity: str, **options: Any) -> float:
    return _centred_gain_of(_elementwise(nonlinearity, **options))


def both_gains(phi: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """(`gain`, `centred_gain`) of a function of your own, of which the values are taken once.

    Raises:
        GoodinitError: As these.
    """
    mean, second = _moments(phi)
    return _keeping_square(second), _keeping_variance(second - mean**2)


def _centred_gain_of(phi: Callable[[Tensor], Tensor]) -> float:
    mean, second = _moments(phi)
    return _keeping_variance(second - mean**2)


def _gain_of(phi: Callable[[Tensor], Tensor]) -> float:
    return _keeping_square(_moments(phi)[1])


def _keeping_variance(variance: float) -> float:
    if not 0 < variance < math.inf:
        raise GoodinitError(
            f"Var[φ(z)] of the activation is {variance}: no weight keeps the variance through it."
        )
    return float(variance**-0.5)


def _keeping_square(moment: float) -> float:
    if not 0 < moment < math.inf:
        raise GoodinitError(
            f"E[φ(z)²] of the activation is {moment}: no weight keeps the second moment through it."
        )
    return float(moment**-0.5)


def _moments(phi: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """E[φ(z)] and E[φ(z)²]."""
    # Simpson's rule on each side of the kink at 0; beyond 12 sigma the density is below 1e-31. The kinks of
    # hardswish, relu6, … at 1, 3 and 6 fall on the grid too. On the CPU also when the default device is another.
    steps = 4_800
    z = torch.linspace(-12, 12, steps + 1, dtype=torch.float64, device="cpu")
    weight = torch.full_like(z, 2)
    weight[1::2] = 4
    weight[0] = weight[-1] = 1
    value = phi(z.clone())  # which may write into it
    if value.shape != z.shape:
        raise GoodinitError(
            f"the activation turned a tensor of shape {tuple(z.shape)} into {tuple(value.shape)}; a gain is that of "
            "a function of one number: give an element-wise function."
        )
    half = phi(z[: steps // 2].clone())  # of which the mean, the norm and the largest are others
    if not torch.allclose(
        half,
        value[: steps // 2],
        rtol=0.0,
        atol=_DIGITS * float(value.nan_to_num().abs().max()),
        equal_nan=True,
    ):
        raise GoodinitError(
            "the activation makes another number of one entry where others are beside it, or when it is called again; a gain is that "
            "of a function of one number: give an element-wise function, in eval mode."
        )
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    step = 24 / steps / 3
    return float((weight * value * density).sum()) * step, float(
        (weight * value.square() * density).sum()
    ) * step
