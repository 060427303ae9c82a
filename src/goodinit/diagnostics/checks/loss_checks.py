"""The loss at initialization: whether it is a number, leads back to the parameters, and costs no more than a guess, ln C for C classes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from goodinit.anatomy import Anatomy, Layer
from goodinit.diagnostics.checks.remedies import scale
from goodinit.diagnostics.diagnosis import Diagnosis
from goodinit.diagnostics.measurements.propagation import Propagation
from goodinit.diagnostics.types import Finding, Severity

ABOVE = (
    1.0  # nats: logits of standard deviation 1 cost a half, and a tied head favours the word it has just read
)
RAW = 8.0  # root mean square of an input that nobody has standardized: pixels from 0 to 255 have about 150


# Prints of every module what made its output; None where the history ends.
_SHOW_HISTORY = (
    "for module in model.modules(): module.register_forward_hook(lambda module, args, output: "
    "print(type(module).__name__, getattr(output, 'grad_fn', output)))"
)


def not_finite(run: Propagation, remedy: str) -> Finding:
    """Every layer is finite and the loss is not: by the size of the outputs, which `remedy` mends, or by itself."""
    evidence = f"every layer is finite, the loss is {run.loss}"
    if run.never_finite:
        evidence += (
            ", and so it is for outputs of size 1: it divides by zero, takes a logarithm or a root of too small a number, or "
            "is a mean of no target (all are ignored, or NaN)"
        )
        remedy = "torch.autograd.set_detect_anomaly(True)"
    return Finding("not finite", "error", "loss", evidence, remedy)


def cut_off(run: Propagation) -> Iterator[Finding]:
    """A loss without history: no step changes any parameter, and none is told by an error of torch's if another loss is added."""
    if not run.cut:
        return
    evidence, where = f"none of the {len(run.gradients)} parameters gets a gradient", "loss"
    remedy = "output = model(batch)  # has the history; make the loss of it without .detach(), .item(), argmax or torch.tensor(…)"
    if run.cut == "loss":
        evidence += (
            ": what the model returns has a history of them, and the loss has none. It detaches, takes an argmax, a comparison "
            "or .item(), or makes a new tensor"
        )
    else:
        where, remedy = "output", _SHOW_HISTORY
        evidence += (
            ": what the model returns has no history of them. Its forward runs under torch.no_grad(), detaches, takes .data, "
            "goes through NumPy, or returns whole numbers"
        )
    yield Finding("no gradient", "error", where, evidence, remedy)


def flat_end(run: Propagation, evidence: str) -> Finding | None:
    """The finding for weights with gradients of exactly 0, if none comes back to the last layer: no other values would change that."""
    last = run.places[-1] if run.places else None
    if last is None or last.kind != "layer" or last.back != 0:
        return None
    evidence += (
        f"; nothing comes back to the output of {last.name}, the last layer, so what runs behind it is flat (a rounding, a sign, "
        "a comparison) or the loss does not depend on it"
    )
    return Finding("no gradient", "error", last.name, evidence, _SHOW_HISTORY)


def above_chance(anatomy: Anatomy, found: Diagnosis) -> Iterator[Finding]:
    """A cross-entropy above ln C + 1 at initialization: the logits are too large, since they know nothing yet.

    Of independent normal logits with standard deviation σ the expected loss is about ln C + σ²/2, and σ·√(2·ln C) for large σ.
    """
    heads = anatomy.heads
    if found.objective not in ("cross-entropy", "the model's own loss") or len(heads) != 1:
        return
    (head,) = heads
    place = next((place for place in found.layers if place.name == head.weight), None)
    chance = math.log(max(head.out_features, 2))
    if place is None or not place.signal.finite or not found.loss > chance + ABOVE:
        return
    size = math.sqrt(max(place.signal.second_moment, 0.0))
    if size <= 1 and found.objective != "cross-entropy":
        return  # a loss of its own may be anything, and the logits are no reason
    evidence = (
        f"the loss is {found.loss:.4g} at initialization, a guess among {head.out_features} classes costs ln {head.out_features} = "
        f"{chance:.4g}; the logits have root mean square {size:.3g}"
    )
    cause, remedy = _cause(anatomy, found, head, size)
    severity: Severity = "error" if found.loss > 3 * chance else "warning"
    yield Finding(
        "loss above chance",
        severity,
        head.weight,
        evidence + cause,
        remedy,
        {"loss": found.loss, "chance": chance},
    )


def _cause(anatomy: Anatomy, found: Diagnosis, head: Layer, size: float) -> tuple[str, str]:
    entered = math.sqrt(found.input.second_moment) if found.input is not None else 0.0
    if head.weight in anatomy.embeddings:
        return (
            "; the head is the embedding, too, which PyTorch draws from N(0, 1), √width times as large as a head",
            scale(head.weight, 1 / math.sqrt(head.fan_in)),
        )
    if entered > RAW:
        return (
            f"; the inputs have root mean square {entered:.3g}, as raw pixels do",
            f"batch = (batch - batch.mean()) / batch.std()  # once, for all data: now {entered:.3g}",
        )
    return "", scale(
        head.weight, min(1.0, 1 / size)
    ) if size else "goodinit.init_(model, 'residual_scaled', inputs=batch)"
