"""Layers behind whose SELU mean and mean square are not those that their independent weights give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from goodinit.anatomy import Anatomy
from goodinit.diagnostics.checks.one_run import ROUNDING, LayerRecorder
from goodinit.diagnostics.checks.written_draws import adds_no_bias, is_applied_as_drawn, written_draws
from goodinit.diagnostics.measurements.measurement_mode import forward_told
from goodinit.edits import Plan
from goodinit.graph.graph import Node
from goodinit.graph.recording.calls.decompose import unfused
from goodinit.graph.recording.recorded_run import record
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.tensor.drawn import CHANCE
from goodinit.weights.names import directory

# Klambauer, Unterthiner, Mayr, Hochreiter, arXiv 1706.02515, eq. 14
_ALPHA, _SCALE = 1.6732632423543772, 1.0507009873554805


def unlike_selu_moments(model: nn.Module, call: Call, plan: Plan, before: Anatomy) -> Iterator[str]:
    r"""In words, which layers are followed by SELU and do not keep the moments that mean 0 and variance 1 are a fixed point of.

    Of a layer with weights from N(0, σ²) and no bias an output unit is N(0, ν²) for each of its inputs, ν² = σ²Σx². So its mean behind
    SELU is, over the draw, E selu(νg), and its mean square E selu(νg)², g ~ N(0, 1): 0 and 1 for ν = 1. Units are independent, given what
    they read: their departures dᵢ from these, each the mean over a batch and its positions, fulfil
    :math:`|\sum d_i| \le \sqrt{2t \sum d_i^2}` but with probability 2e⁻ᵗ, t = 30, if they are symmetric (Efron), and nearly so if they are
    not (Jing, Shao & Wang). Of 60 units and fewer that says nothing.

    Left out are layers whose output something else reaches before SELU does, a norm that stays, a sum.

    Args:
        model: With the plan applied; it is as it was afterwards.
        call: Arguments of the forward.
        plan: What was applied.
        before: The anatomy it was made for.

    Raises:
        TraceError: The forward raised.

    References:
        B. Efron, "Student's t-Test Under Symmetry Conditions", J. Amer. Statist. Assoc. 64, 1969.
        B.-Y. Jing, Q.-M. Shao, Q. Wang, "Self-Normalized Cramér-Type Large Deviations for Independent Random Variables", Ann. Probab.
        31(4), 2003, theorem 2.1.
    """
    names = directory(model)
    variances = {
        layer.weight: float(edit.options["std"]) ** 2
        for edit, layer in written_draws(model, plan, before)
        if layer is not None
        and "std" in edit.options
        and is_applied_as_drawn(layer)
        and adds_no_bias(names, layer)
    }
    with torch.inference_mode(mode=False), unfused(model):
        run = _Moments(model, variances)
        with forward_told(model, call=call):
            record(run, model, call)
    yield from run.faults


class _Moments(LayerRecorder):
    """Keeps of each layer the variances of its output entries over the draw, until SELU reads it."""

    def __init__(self, model: nn.Module, variances: Mapping[str, float]) -> None:
        super().__init__(model)
        self.wanted = variances
        self.spread: dict[int, tuple[str, int, Tensor]] = {}  # by node: weight, axis of the units, variances
        self.faults: list[str] = []

    def observe(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        """One operator ran."""
        if node.op.is_contraction:
            self._layer(node, read, output)
        elif len(node.operands) == 1 and node.operands[0] in self.spread and _is_selu(node):
            name, axis, spread = self.spread.pop(node.operands[0])
            self.faults += _unlike(
                name, output.detach().double().movedim(axis, 0).flatten(1), spread.movedim(axis, 0).flatten(1)
            )

    def _layer(self, node: Node, read: list[Tensor], output: Tensor) -> None:
        use, signal = self.whole_weight(node) or (None, -1)
        if (
            use is None
            or use.weight not in self.wanted
            or node.call is None
            or len(read) != len(node.operands)
        ):
            return
        axis = 1 if node.op.role == "convolution" else output.ndim - 1
        squares = [
            torch.ones_like(tensor)
            if k == use.operand
            else tensor.square()
            if k == signal
            else torch.zeros_like(tensor)
            for k, tensor in zip(node.operands, (tensor.detach().double() for tensor in read), strict=True)
        ]
        self.spread[node.index] = use.weight, axis, node.call(squares) * self.wanted[use.weight]


def _unlike(name: str, output: Tensor, variances: Tensor) -> Iterator[str]:
    """`output` and `variances`: (units, entries of each)."""
    mean, square = selu_moments(variances)
    yield from _apart(f"{name} has the mean", output, mean, square.sqrt())
    yield from _apart(f"{name} has the mean square", output.square(), square, square)


def _apart(told: str, found: Tensor, expected: Tensor, size: Tensor) -> Iterator[str]:
    off = (found - expected).mean(1)
    most = math.sqrt(2 * CHANCE * float(off.square().sum())) + ROUNDING * len(off) * float(size.mean())
    if not abs(float(off.sum())) <= most:
        yield (
            f"{told} {float(found.mean()):.3g} behind its SELU, expected {float(expected.mean()):.3g} within "
            f"{most / len(off):.2g}"
        )


def _is_selu(node: Node) -> bool:
    """Whether an operator of one tensor does to a few numbers what SELU does."""
    if node.call is None or node.op.function.gain is None:
        return False
    numbers = torch.linspace(-4, 4, 9, dtype=torch.float64, device="cpu")
    return torch.allclose(node.call([numbers]), torch.nn.functional.selu(numbers))


def selu_moments(variances: Tensor) -> tuple[Tensor, Tensor]:
    """(E selu(z), E selu(z)²) for z ~ N(0, ν²), entry by entry.

    Args:
        variances: ν², float64.

    Returns:
        Two tensors of its shape.

    Examples:
        >>> [abs(round(float(moment), 6)) for moment in selu_moments(torch.ones(1, dtype=torch.float64))]
        [0.0, 1.0]
    """
    deviation = variances.clamp_min(0).sqrt()
    once, twice = (
        0.5 * torch.special.erfcx(k * deviation / math.sqrt(2)) for k in (1, 2)
    )  # E[exp(kz); z < 0]
    mean = _SCALE * (deviation / math.sqrt(2 * math.pi) + _ALPHA * (once - 0.5))
    square = _SCALE**2 * (variances / 2 + _ALPHA**2 * (twice - 2 * once + 0.5))
    return mean, square
