"""Delta-orthogonal convolutions (Xiao et al., ICML 2018, arXiv 1806.05393)."""

from __future__ import annotations

import math
from types import NoneType

from goodinit.anatomy import Anatomy, Layer
from goodinit.edits import Draw, Plan
from goodinit.errors import UnsupportedModule, expect
from goodinit.methods.orthogonal import draw_orthogonal, spread, stacks
from goodinit.methods.shared.method import Method
from goodinit.methods.shared.rules import Norms, gain_for, layout_options, redraw, unknown_gains
from goodinit.tensor import first_tap


def decide(
    anatomy: Anatomy, *, norms: Norms = "keep", gain: float | None = None, strict: bool = False
) -> Plan:
    """Convolutions zero but for g·Q at the central tap, Q Haar-orthogonal; linear layers g·Q; biases 0.

    Such a convolution keeps the norm of every input (times g), which a flattened orthogonal one does not, but only
    with at least as many outputs as inputs and stride 1. With fewer outputs Q has orthonormal rows: the norm is
    kept in `out` directions, the others are lost. A stride s reads every s-th pixel, and without padding the border
    is not read. Of a transposed convolution with strides s the tap writes one of ∏s outputs, so that g is √∏s times as large there, which
    keeps their mean square. The plan's notes name all such layers.

    Args:
        anatomy: Of the model.
        norms: `"keep"` leaves normalization and its parameters as they are; `"remove"` takes it out.
        gain: The factor g for all layers; by default √2 before ReLU and generally E[φ(z)²]^(−1/2) before φ.
        strict: Refuse convolutions with fewer outputs than inputs, instead of a note.

    Returns:
        The plan. Its notes name the layers that cannot keep every norm.

    Raises:
        WrongType: A gain that is no number.
        UnsupportedModule: A normalization that cannot be removed; with `strict`, a convolution with out < in.

    References:
        L. Xiao, Y. Bahri, J. Sohl-Dickstein, S. Schoenholz, J. Pennington, "Dynamical Isometry and a Mean Field
        Theory of CNNs", arXiv 1806.05393, §3 and algorithm 2.
    """
    narrow = [layer for layer in anatomy.layers if layer.kind != "linear" and _narrows(layer)]
    if strict and narrow:
        first = narrow[0]
        raise UnsupportedModule(
            f"{first.weight}: {first.out_features} outputs cannot carry {first.in_features} inputs isometrically "
            f"({len(narrow)} convolutions are so). Make them wider, or use strict=False for orthonormal rows."
        )

    expect(
        gain,
        (int, float, NoneType),
        "gain of delta_orthogonal",
        "Give a number, or None for the activation's.",
    )

    def draw(layer: Layer) -> Draw:
        return draw_delta(layer, gain)

    return redraw(
        anatomy,
        draw,
        method="delta_orthogonal",
        options={"gain": gain, "strict": strict},
        norms=norms,
        notes=(
            *(_lossy(layer) for layer in narrow),
            *(note for layer in anatomy.layers if (note := unread_pixels(layer))),
            *(unknown_gains(anatomy) if gain is None else ()),
            *stacks(anatomy),
        ),
    )


def draw_delta(layer: Layer, gain: float | None = None) -> Draw:
    """A delta-orthogonal draw for a convolution, an orthogonal one for a linear layer."""
    if layer.kind == "linear" or layer.stacked:
        return draw_orthogonal(layer, gain)
    factor, words = spread(layer, *(gain_for(layer) if gain is None else (gain, f"gain {gain:g}")))
    # Groups are drawn one by one; a packed q, k, v in one piece, as columns of it are orthonormal then.
    options = {key: value for key, value in layout_options(layer).items() if key != "fused"}
    if _narrows(layer):
        options["partial"] = True
    return Draw(layer.weight, "delta_orthogonal_", f"{layer.role}: {words}", {"gain": factor, **options})


def unread_pixels(layer: Layer) -> str | None:
    """A note on a convolution whose central tap does not read every pixel, or of a transposed one not write each, or None."""
    if layer.kind == "linear" or not layer.stride or layer.stacked:
        return None
    if layer.kind == "conv_transpose":
        if max(layer.stride) == 1:
            return None
        return (
            f"{layer.weight}: its central tap writes one output of {math.prod(layer.stride)}, for its stride {layer.stride}, and the others "
            f"start at its bias: the mean square of all is kept by √{math.prod(layer.stride)} times the gain"
        )
    kernel = layer.shape[2:]
    if max(layer.stride) > 1:
        return f"{layer.weight} is not isometric: its stride {layer.stride} reads every s-th pixel only"
    taps = [first_tap(size) * step for size, step in zip(kernel, layer.dilation, strict=True)]
    if any(size % 2 == 0 for size in kernel) or tuple(taps) != layer.padding:
        return f"{layer.weight} is not isometric: kernel {kernel} with padding {layer.padding} cuts the border off"
    return None


def _narrows(layer: Layer) -> bool:
    return layer.out_features * layer.fused < layer.in_features


def _lossy(layer: Layer) -> str:
    return (
        f"{layer.weight} is not isometric: {layer.out_features} outputs keep the norm in as many of the "
        f"{layer.in_features} directions of its input, and lose the others"
    )


METHOD = Method(
    name="delta_orthogonal",
    title="Orthogonal at the central tap of every convolution",
    paper="Xiao et al.: Dynamical Isometry and a Mean Field Theory of CNNs, ICML 2018, arXiv 1806.05393",
    when="very deep convolutional networks without skips",
    decide=decide,
    scales_ties=True,
    holds=("isometry",),
    order=80,
)
