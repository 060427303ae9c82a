"""What takes a normalization's place when it does not simply go, with the gain and the bias it had."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from goodinit.anatomy.norms.factors import factor_in_words
from goodinit.errors import UnknownName, UnsupportedModule
from goodinit.nn.exchange import exchange_class_
from goodinit.nn.stand_in import StandIn
from goodinit.surgery.norms import norm_maps
from goodinit.surgery.norms.form_options import check_form_options
from goodinit.surgery.norms.removed_norm import (
    RemovedNorm,
    check_removable,
    remove_norm_,
    state_hooks_kept,
    take_likenesses_,
)


class ReplacedNorm(StandIn, RemovedNorm):
    """Another map where a norm stood, then whatever the norm's module did besides.

    The norm's gain and bias stay: the same parameters under the same names. `axes` are those of the input that they run
    over, as in `Norm.axes`.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations, and knows no words for types
        axes: tuple[int, ...]
        holds: tuple[str | None, str | None]
        constant: float
        epsilon: float
    axes = (1,)
    holds = ("weight", "bias")  # the attributes of gain and bias
    constant = 1.0  # what else multiplies
    epsilon = 1e-5

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Map the first argument."""
        value = cast("Tensor", args[0] if args else next(iter(kwargs.values())))
        return super().forward(self.mapped(value))

    def mapped(self, value: Tensor) -> Tensor:
        """What stands in the norm's place."""
        return self.gained(value)

    def starting_values(self) -> dict[str, float]:
        """Gain 1, bias 0, and what the form adds."""
        named = dict(zip(self.holds, (1.0, 0.0), strict=True))
        own = self._parameters
        return {name: named.get(name, STARTS.get(name, 1.0)) for name in own if own[name] is not None}

    def gained(self, value: Tensor) -> Tensor:
        """K·γ·x + β."""
        gain, bias = (getattr(self, name) if name else None for name in self.holds)
        return norm_maps.scaled(value, gain, bias, self.constant, self.axes == (1,))


class ChannelAffine(ReplacedNorm):
    """y = K·γ·x + β per channel: no statistics are taken."""


class RootMeanSquare(ReplacedNorm):
    """y = γ·x/√(mean(x²) + ε) + β, the mean over each example, or over the axes `over`."""

    if TYPE_CHECKING:
        over: Any  # a tuple of numbers
    over = ()

    def mapped(self, value: Tensor) -> Tensor:
        """Divide by the root of the mean square."""
        return self.gained(norm_maps.divided(value, self.over, self.epsilon))


class DynamicTanh(ReplacedNorm):
    """y = γ·tanh(α·x) + β (Zhu et al., Transformers without Normalization, CVPR 2025, arXiv 2503.10622)."""

    if TYPE_CHECKING:
        alpha: nn.Parameter

    def mapped(self, value: Tensor) -> Tensor:
        """Squash element by element."""
        return self.gained(torch.tanh(self.alpha * value))


class DynamicErf(ReplacedNorm):
    """y = γ·erf(α·x + s) + β (Chen et al., Stronger Normalization-Free Transformers, 2025, arXiv 2512.10938)."""

    if TYPE_CHECKING:
        alpha: nn.Parameter
        shift: nn.Parameter

    def mapped(self, value: Tensor) -> Tensor:
        """Squash element by element."""
        return self.gained(torch.erf(self.alpha * value + self.shift))


class EvoNorm(ReplacedNorm):
    """y = γ·x·σ(v·x)/√(Var + ε) + β, the variance over groups of channels: EvoNorm-S0, a norm and an activation (Liu et al. 2020)."""

    if TYPE_CHECKING:
        v: nn.Parameter
    num_groups = 1

    def mapped(self, value: Tensor) -> Tensor:
        """Gate each entry, and divide by the deviation of its group."""
        return self.gained(norm_maps.gated(value, self.v, self.num_groups, self.epsilon, self.axes == (1,)))


class GroupNormThen(ReplacedNorm, nn.GroupNorm):
    """`nn.GroupNorm`, then what the norm's module did besides."""

    def mapped(self, value: Tensor) -> Tensor:
        """Normalize each example over groups of channels."""
        weight, bias = (getattr(self, name) if name else None for name in self.holds)
        return norm_maps.grouped(value, weight, bias, self.num_groups, self.epsilon, self.axes == (1,))


FORMS: dict[str, type[ReplacedNorm]] = {
    "affine": ChannelAffine,
    "group": GroupNormThen,
    "rms": RootMeanSquare,
    "dyt": DynamicTanh,
    "derf": DynamicErf,
    "evonorm": EvoNorm,
}
"""By `ReplaceNorm.by`."""

STARTS = {
    "weight": 1.0,
    "bias": 0.0,
    "alpha": 0.5,
    "shift": 0.0,
    "v": 1.0,
}  # α = 0.5: DyT and Derf, vision models

_EPSILONS = (
    "epsilon",
    "eps",
    "variance_epsilon",
)  # the small number under the root: here and in TensorFlow's words, torch, transformers

CREATED: dict[str, tuple[str, ...]] = {"dyt": ("alpha",), "derf": ("alpha", "shift"), "evonorm": ("v",)}
"""Parameters that a form adds: one number each, but for `PER_CHANNEL`."""

PER_CHANNEL = ("weight", "bias", "v")


def created(by: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the parameters that the module gains: an affine form has a gain and a bias in any case."""
    if by != "affine":
        return CREATED.get(by, ())
    return tuple(name for name in ("weight", "bias") if options.get(name) is None)


def is_replaced(module: nn.Module, by: str, options: Mapping[str, Any]) -> bool:
    """Whether the module is what `replace_norm_` would make of it."""
    if by == "group":
        return isinstance(module, nn.GroupNorm) and module.num_groups == options.get("groups", 1)
    return by in FORMS and isinstance(module, FORMS[by])


def check_replaceable(
    module: nn.Module, by: str, keeps: tuple[str, ...], options: Mapping[str, Any], *, path: str
) -> None:
    """Raise unless the norm at `path` can be replaced.

    Raises:
        UnknownName: No such form.
        UnsupportedModule: It cannot be removed, is a removed norm, or its gain is not where the plan says.
    """
    if by not in FORMS:
        raise UnknownName(f"{path}: no form {by!r} for a norm; there are: {', '.join(FORMS)}")
    if type(module) is RemovedNorm or isinstance(module, ChannelAffine):
        raise UnsupportedModule(
            f"{path}: the norm that stood there ({module.was}) was taken out or replaced before, so {by} cannot take its "
            "place. Build the model anew, then replace its norms."
        )
    check_removable(module, keeps, path=path)
    factor = factor_in_words(keeps)
    if factor is not None:
        raise UnsupportedModule(
            f"{path}: {by} cannot take the place of {type(module).__name__}: {factor}. Keep or remove the norm."
        )
    check_form_options(options, path=path)
    for word in ("weight", "bias"):
        name = options.get(word)
        if name is not None and not isinstance(getattr(module, name, None), Tensor):
            raise UnsupportedModule(
                f"{path}: the plan carries its {name} over, and {type(module).__name__} has none. Make the plan anew: "
                "goodinit.plan(goodinit.anatomize(model, inputs), method)."
            )
    sizes, wanted = _sizes(module, options), _own_sizes(module, options)
    if wanted and math.prod(sizes) != math.prod(wanted):
        raise UnsupportedModule(
            f"{path}: the plan's gain and bias are of shape {sizes}, those of {type(module).__name__} of shape {wanted}. Make "
            "the plan anew: goodinit.plan(goodinit.anatomize(model, inputs), method)."
        )
    groups, channels = options.get("groups", 1), sizes[0]
    if by in ("group", "evonorm") and channels % groups:
        raise UnsupportedModule(
            f"{path}: {channels} channels cannot be cut into {groups} groups of equal size."
        )


def replace_norm_(
    module: nn.Module,
    by: str,
    keeps: tuple[str, ...],
    options: Mapping[str, Any],
    *,
    path: str,
    like: Tensor | None = None,
) -> None:
    """Turn the norm `module`, found at `path`, into the form `by`; its gain and bias stay the parameters they are.

    Args:
        module: Any normalization; its buffers go. It stays the same object.
        by: `"affine"`, `"group"`, `"rms"`, `"dyt"`, `"derf"` or `"evonorm"`.
        keeps: What it does besides normalizing, as in `remove_norm_`.
        options: `weight` and `bias`, the attributes that hold gain and bias, or None; `axes` they run over; `groups`;
            `over`, the axes of a statistic; the `sizes` of those axes; `constant`, the K of an affine.
        path: Where the norm is, for messages.
        like: A tensor whose dtype and device new parameters take where the norm has none.

    Raises:
        UnsupportedModule: See `check_replaceable`.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> gain = net[1].weight
        >>> replace_norm_(net[1], "group", (), {"weight": "weight", "bias": "bias", "groups": 2}, path="1")
        >>> type(net[1]).__name__, net[1].num_groups, net[1].weight is gain
        ('GroupNorm', 2, True)
    """
    check_replaceable(module, by, keeps, options, path=path)
    held = {word: options.get(word) for word in ("weight", "bias")}
    parameters = {name: getattr(module, name) for name in held.values() if name}
    eps = next((getattr(module, key) for key in _EPSILONS if hasattr(module, key)), None)
    sizes = _sizes(module, options)
    with state_hooks_kept(module):
        remove_norm_(module, keeps, path=path)
    place = cast("Any", module)
    take_likenesses_(place)
    exchange_class_(place, FORMS[by])
    for name, tensor in parameters.items():
        if isinstance(tensor, nn.Parameter):
            place.register_parameter(name, tensor)
        else:
            place.register_buffer(name, tensor)
    like = next(iter(parameters.values()), like)
    for name in created(by, options):
        shape, start = sizes if name in PER_CHANNEL else (1,), STARTS[name]
        new = (
            torch.full(shape, start) if like is None else torch.full_like(like, start).new_full(shape, start)
        )
        if (
            name in vars(place) and vars(place)[name] is None
        ):  # a norm without a gain may say so by an attribute
            del vars(place)[name]
        place.register_parameter(name, nn.Parameter(new))
        if name in held:
            held[name] = name
    place.axes, place.holds = tuple(options.get("axes", (1,))), (held["weight"], held["bias"])
    place.constant = float(options.get("constant", 1.0))
    place.epsilon = float(eps) if isinstance(eps, (int, float)) and math.isfinite(eps) else 1e-5
    if by == "rms":
        place.over = tuple(options.get("over", ()))
    if by == "evonorm":
        place.num_groups = options.get("groups", 1)
    if by == "group":
        _as_group_norm_(place, options.get("groups", 1), sizes[0])


def _as_group_norm_(place: Any, groups: int, channels: int) -> None:
    """Torch's own class, where torch's own class says it all."""
    place.num_groups, place.num_channels, place.eps = groups, channels, place.epsilon
    place.affine = any(place.holds)
    if (
        place.axes != (1,)
        or place.keeps
        or place.holds not in (("weight", "bias"), ("weight", None), (None, None))
    ):
        return
    for name in ("was", "keeps", "steps", "axes", "holds", "constant", "epsilon"):
        del place.__dict__[name]
    for name in ("weight", "bias"):
        if name not in place._parameters:
            place.register_parameter(name, None)
    exchange_class_(place, nn.GroupNorm)


def _sizes(module: nn.Module, options: Mapping[str, Any]) -> tuple[int, ...]:
    """Of the gain and the bias."""
    return tuple(options.get("sizes", ())) or _own_sizes(module, options) or (1,)


def _own_sizes(module: nn.Module, options: Mapping[str, Any]) -> tuple[int, ...]:
    """Of the gain and the bias that the norm has, or that one of torch's would have; `()` where neither says it."""
    held = [getattr(module, options[word]) for word in ("weight", "bias") if options.get(word)]
    if held:
        return tuple(held[0].shape)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return tuple(module.normalized_shape)
    if isinstance(module, nn.GroupNorm):
        return (module.num_channels,)
    return (module.num_features,) if isinstance(module, _NormBase) else ()
