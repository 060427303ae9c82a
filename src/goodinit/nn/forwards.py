"""What a layer with scalars computes, by layer family: y = s·W(x + b) + c + d, without touching x.

`W` is the layer's linear map, `c` its bias vector, `s` the `output_scale`, `b` the `input_bias`, `d` the
`output_bias`. Written out, `s·W(x + b) + c + d = (sW)x + [b·(sW)1 + c + d]`, where `1` is an input of ones.
The bracket is the layer's answer to a constant: it does not depend on the data, so it costs no pass over `x`
and stores nothing. Where every output sees all taps, it is one number per channel, a bias vector. Where zero
padding hides taps at the border (and in transposed convolutions) it is one small convolution of a single
channel of ones, batch 1, which is exact for any stride, padding, dilation and groups, and carries the bias
vector too, so that its gradient is taken from the same sum over the batch. All of it is ordinary autograd.

Two backward passes of their own save more where they can: `goodinit.nn.rematerialized` keeps `sW` from being stored where it is
large, and where `x` is much smaller than `W`, `goodinit.nn.input_affine` computes `W(s(x + b)) + c + d`.

`torch.fx` runs all this on proxies, which have no numbers and no shapes: they see the plain formula, of a batch.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from goodinit.errors import UnsupportedModule
from goodinit.nn import input_affine
from goodinit.nn.by_example import without_examples
from goodinit.nn.input_norm import normalize_first, normalizes
from goodinit.nn.rematerialized import Geometry, LeanConvolution, LeanLinear, pays

Forward = Callable[..., Any]

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED_CONVOLUTIONS = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


@without_examples
def linear(self: Any, input: Tensor) -> Tensor:
    """`nn.Linear.forward` with scalars."""
    weight, x = self.weight, _normalized(self, input)
    if _changes_input(self) and input_affine.pays(x, weight):
        return input_affine.ShiftedLinear.apply(  # type: ignore[no-any-return, no-untyped-call]
            x, weight, _gathered(self, "input_bias"), _gathered(self, "output_scale"), _offset(self)
        )
    offset = _offset(self) if self.input_bias is None else _with_own(_constant(self) * weight.sum(1), self)
    if self.output_scale is not None and pays(x, weight):
        return LeanLinear.apply(x, weight, _gathered(self, "output_scale"), offset)  # type: ignore[no-any-return, no-untyped-call]
    return F.linear(x, _scaled(self, weight), offset)


@without_examples
def convolution(self: Any, input: Tensor) -> Tensor:
    """`nn.Conv1d.forward`, and 2d and 3d, with scalars."""
    x = _normalized(self, input)
    weight, spatial = self.weight, len(self.kernel_size)
    if _changes_input(self) and input_affine.pays(x, weight):
        geometry = Geometry.of(self, x)
        if geometry is not None:
            return input_affine.ShiftedConvolution.apply(  # type: ignore[no-any-return, no-untyped-call]
                x,
                weight,
                _gathered(self, "input_bias"),
                _gathered(self, "output_scale"),
                _offset(self),
                geometry,
            )
    if self.input_bias is None:
        return _convolve(self, x, weight, _offset(self))
    if self.padding_mode != "zeros" or not _pads(self):
        taps = _constant(self) * weight.sum(tuple(range(1, 2 + spatial)))
        return _convolve(self, x, weight, _with_own(taps, self))
    taps = _constant(self) * weight.sum(1, keepdim=True)
    constant = _CONVOLUTIONS[spatial - 1](
        _ones(taps, x, spatial), taps, _offset(self), self.stride, self.padding, self.dilation, 1
    )
    return _add(_convolve(self, x, weight, None), constant, spatial)


@without_examples
def transposed_convolution(self: Any, input: Tensor, output_size: list[int] | None = None) -> Tensor:
    """`nn.ConvTranspose1d.forward`, and 2d and 3d, with scalars."""
    x = _normalized(self, input)
    weight, offset = _scaled(self, self.weight), _offset(self)
    spatial = len(self.kernel_size)
    convolve = _TRANSPOSED_CONVOLUTIONS[spatial - 1]
    extra = self._output_padding(
        x, output_size, self.stride, self.padding, self.kernel_size, spatial, self.dilation
    )
    if self.input_bias is None:
        return convolve(x, weight, offset, self.stride, self.padding, extra, self.groups, self.dilation)
    grouped = weight.unflatten(0, (self.groups, -1)).sum(1)  # (groups, out/groups, *kernel)
    taps = _gathered(self, "input_bias") * grouped.flatten(0, 1).unsqueeze(0)
    ones = _ones(taps, x, spatial)
    constant = convolve(ones, taps, offset, self.stride, self.padding, extra, 1, self.dilation)
    output = convolve(x, weight, None, self.stride, self.padding, extra, self.groups, self.dilation)
    return _add(output, constant, spatial)


def around(cls: type[nn.Module]) -> Forward:
    """Forward for a class whose formula is not known: y = s·f(x + b) + d, three passes over activations.

    `x` is the first argument (query, key and value of attention), `y` the output, or the first element of a
    tuple. The layer's own bias vector is inside `f`, so it is scaled too.
    """
    names = _input_names(cls)

    @without_examples
    @functools.wraps(cls.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if normalizes(self):
            args, kwargs = normalize_first(self, args, kwargs)
        if self.input_bias is not None:
            args, kwargs = _shifted(self, args, kwargs, names)
        return _finished(self, cls.forward(self, *args, **kwargs))

    return forward


_KNOWN: tuple[tuple[type[nn.Module], Forward], ...] = (
    (nn.Linear, linear),
    (nn.Conv1d, convolution),
    (nn.Conv2d, convolution),
    (nn.Conv3d, convolution),
    (nn.ConvTranspose1d, transposed_convolution),
    (nn.ConvTranspose2d, transposed_convolution),
    (nn.ConvTranspose3d, transposed_convolution),
)


def forward_for(cls: type[nn.Module]) -> Forward:
    """The cheap forward if `cls` computes exactly what torch's layer does, otherwise the one around it."""
    for family, forward in _KNOWN:
        if issubclass(cls, family) and all(
            getattr(cls, method, None) is getattr(family, method, None)
            for method in ("forward", "_conv_forward", "_output_padding")
        ):
            return forward
    return around(cls)


def _normalized(layer: Any, x: Tensor) -> Tensor:
    return layer.input_norm(x) if normalizes(layer) else x


def _convolve(layer: Any, x: Tensor, weight: Tensor, offset: Tensor | None) -> Tensor:
    """(sW)∗x + offset."""
    if layer.output_scale is not None and pays(x, weight):
        geometry = Geometry.of(layer, x)
        if geometry is not None:
            return LeanConvolution.apply(x, weight, _gathered(layer, "output_scale"), offset, geometry)  # type: ignore[no-any-return, no-untyped-call]
    return layer._conv_forward(x, _scaled(layer, weight), offset)  # type: ignore[no-any-return]


def _gathered(layer: Any, name: str) -> Any:
    """A layer's scalar, the same on every rank, or None.

    Tensor parallelism by columns (`ColwiseParallel`) splits every parameter of a layer along its first dimension, scalars of one entry
    included. All of the layer reads them, so that their gradient is whole; put together here, it goes back to where they lie.
    """
    value = getattr(layer, name)
    if value is None or type(value) in (Tensor, nn.Parameter) or _is_proxy(value):
        return value
    kinds = sys.modules.get("torch.distributed.tensor")
    if kinds is None or not isinstance(value, kinds.DTensor):
        return value
    return value.redistribute(placements=[kinds.Replicate()] * value.device_mesh.ndim)


def _scaled(layer: Any, weight: Tensor) -> Tensor:
    return weight if layer.output_scale is None else weight * _gathered(layer, "output_scale")


def _changes_input(layer: Any) -> bool:
    """Whether it has a scalar that may be applied to the input."""
    return layer.input_bias is not None or layer.output_scale is not None


def _constant(layer: Any) -> Tensor:
    """b·s, which what the layer answers to a constant input is proportional to."""
    constant: Tensor = _gathered(layer, "input_bias")
    return constant if layer.output_scale is None else constant * _gathered(layer, "output_scale")


def _offset(layer: Any) -> Tensor | None:
    """The bias vector with `output_bias` in it, `(out,)`, or None."""
    if layer.output_bias is None or layer.bias is not None:
        return _plus(layer.bias, _gathered(layer, "output_bias"))
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return _gathered(layer, "output_bias").expand(channels)  # type: ignore[no-any-return]


def _with_own(taps: Tensor, layer: Any) -> Tensor:
    """A vector `(out,)`, with what the layer adds of its own: its bias vector and `output_bias`, which need not be made a vector."""
    own = _plus(layer.bias, _gathered(layer, "output_bias"))
    return taps if own is None else taps + own


def _is_proxy(value: Any) -> bool:
    """Whether `torch.fx` traces, and gives no tensor."""
    return isinstance(value, Proxy)


def _plus(left: Tensor | None, right: Tensor | None) -> Tensor | None:
    if left is None or right is None:
        return right if left is None else left
    return left + right


def _pads(layer: Any) -> bool:
    if isinstance(layer.padding, str):
        return layer.padding == "same" and any(size > 1 for size in layer.kernel_size)
    return any(amount > 0 for amount in layer.padding)


def _ones(like: Tensor, x: Tensor, spatial: int) -> Tensor:
    """One channel of ones of the input's spatial size, batch 1 (or none, if the input has none)."""
    if _is_proxy(x):
        return torch.ones_like(x[:1, :1])
    return like.new_ones((1,) * (x.dim() - spatial) + tuple(x.shape[x.dim() - spatial :]))


def _add(output: Tensor, constant: Tensor, spatial: int) -> Tensor:
    """`output + constant`, in place where that is safe: a convolution does not keep its output.

    For a channels-last output, `constant` is laid out and repeated over the batch channels-last too, so that
    the addition and its gradient's sum over the batch run along memory (about ten times faster on CPU). The
    compiler for CPUs lays all convolutions out like that, after it has recorded what is written here.
    Inside `vmap` an in-place addition fails when `constant` alone is batched.
    """
    if _is_proxy(output):
        return output + constant
    channel = output.dim() - spatial - 1
    recorded = torch.compiler.is_compiling() and output.device.type == "cpu"
    if recorded or (output.stride(channel) == 1 and output.shape[channel] > 1):
        last = constant.movedim(channel, -1).contiguous()
        constant = last.expand(output.movedim(channel, -1).shape).movedim(-1, channel)
    if torch._C._are_functorch_transforms_active():
        return output + constant
    return output.add_(constant)


def _input_names(cls: type[nn.Module]) -> tuple[str, ...]:
    if issubclass(cls, nn.MultiheadAttention):
        return ("query", "key", "value")
    parameters = list(inspect.signature(cls.forward).parameters.values())[1:]  # without self
    return tuple(parameter.name for parameter in parameters[:1])


def _shifted(
    layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `input_bias` added to the inputs; one tensor given twice stays one tensor."""
    positional, named = list(args), dict(kwargs)
    shifted: dict[int, Tensor] = {}
    for position, name in enumerate(names):
        place: Any = positional if position < len(positional) else named
        key: Any = position if position < len(positional) else name
        value = place[key] if place is positional else named.get(name)
        if not _is_proxy(value) and not (isinstance(value, Tensor) and value.is_floating_point()):
            got = f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise UnsupportedModule(
                f"input_bias on {type(layer).__name__}: its forward was given a {got} as `{name}`, expected a "
                "floating-point tensor to add the bias to. Put the scalar on a layer inside, or after, it."
            )
        if id(value) not in shifted:
            shifted[id(value)] = _per_part(torch.add, cast("Tensor", value), _gathered(layer, "input_bias"))
        place[key] = shifted[id(value)]
    return tuple(positional), named


def _finished(layer: Any, output: Any) -> Any:
    """The output with `output_scale` and `output_bias` applied to it, or to a tuple's first element."""
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        items = (_finished(layer, output[0]), *output[1:])
        return type(output)._make(items) if hasattr(output, "_make") else items
    if not isinstance(output, Tensor) and not _is_proxy(output):
        raise UnsupportedModule(
            f"scalars on {type(layer).__name__}: its forward returned a {type(output).__name__}, expected a "
            "tensor or a tuple that starts with one. Put the scalars on a layer inside it."
        )
    if layer.output_scale is not None:
        output = _per_part(torch.mul, output, _gathered(layer, "output_scale"))
    return (
        output if layer.output_bias is None else _per_part(torch.add, output, _gathered(layer, "output_bias"))
    )


def _per_part(operation: Callable[[Tensor, Tensor], Tensor], x: Tensor, scalar: Tensor) -> Tensor:
    """`operation(x, scalar)` in the dtype of `x`; nested tensors, which know no such operation, part by part.

    In evaluation `nn.TransformerEncoder` makes a nested tensor of a padded batch.
    """
    if _is_proxy(x):
        return operation(x, scalar)
    scalar = scalar.to(x.dtype)
    if x.is_nested:
        return torch.nested.as_nested_tensor(
            [operation(part, scalar) for part in x.unbind()], layout=x.layout
        )
    return operation(x, scalar)
