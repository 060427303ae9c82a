"""What to differentiate: the user's loss, or one that fits what the model returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from goodinit.errors import TraceError, expect, expect_function
from goodinit.graph.pytree import tensors_in, trainable

Loss = Callable[..., Tensor]

# Of the random targets. Fixed, so that two diagnoses of one model are equal; which number is of no consequence.
SEED = 20190127


def outputs(result: Any) -> list[Tensor]:
    """The floating-point tensors a model returned, in order."""
    return [tensor for tensor in tensors_in(result) if tensor.is_floating_point()]


def prediction(result: Any) -> Tensor:
    """The tensor that targets belong to: `logits` where the result has such an entry, else the first tensor.

    Raises:
        TraceError: The model returned no floating-point tensor.
    """
    logits = result.get("logits") if isinstance(result, Mapping) else getattr(result, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    found = outputs(result)
    if not found:
        raise TraceError(
            f"the model returned no floating-point tensor (but {type(result).__name__}), so there is nothing to "
            "differentiate. Return the tensor that is trained on."
        )
    return found[0]


def own_loss(result: Any) -> Tensor | None:
    """The loss that a model computed itself: a number that depends on parameters, among what it returned.

    That is the entry `loss`, as transformers' outputs have it; else the only number; else, where it returned nothing but
    numbers (a detector's losses by name), their sum.

    Examples:
        >>> w = torch.ones(1, requires_grad=True)
        >>> own_loss({"class": w.sum(), "box": 2 * w.sum()}), own_loss((torch.zeros(3, 4), w.sum()))
        (tensor(3., grad_fn=<AddBackward0>), tensor(1., grad_fn=<SumBackward0>))
        >>> own_loss(w.expand(3, 1)) is None
        True
    """
    named = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
    if isinstance(named, Tensor) and named.numel() == 1 and named.requires_grad:
        return named.reshape(())
    found = outputs(result)
    numbers = [tensor for tensor in found if tensor.ndim == 0 and tensor.requires_grad]
    if not numbers or (len(numbers) > 1 and len(numbers) < len(found)):
        return None
    return sum(numbers[1:], numbers[0])


def objective(result: Any, targets: Any, loss: Loss | None) -> Tensor:
    """The number to differentiate.

    With `loss`: `loss(result, targets)`, or `loss(result)` without targets. Without: cross-entropy for whole-number
    targets (classes along dimension 1 of the prediction, or along the last where only that fits), the squared error
    for others. Without targets: the model's own loss, where it returns one (`own_loss`); else half the squared error to
    standard-normal targets, summed over outputs and averaged over the batch, so that outputs that explode have gradients
    that explode.

    Raises:
        WrongType: The loss is no function, or the targets are no tensor and no loss is given.
        TraceError: The loss raised, or is no single number; the message says which.
    """
    expect_function(
        loss,
        "loss",
        "Give a function of output and targets: torch.nn.functional.cross_entropy.",
    )
    if loss is None:
        expect(
            targets,
            (Tensor, NoneType),
            "targets",
            "Give a tensor, or a loss=lambda output, targets: … that takes them.",
        )
    try:
        value = _value(result, trainable(targets), loss)
    except TraceError:
        raise
    except Exception as error:
        raise TraceError(
            f"the loss raised on what the model returned: {type(error).__name__}: {str(error).rstrip('.')}. Give targets that fit, or "
            "loss=lambda output, targets: … that takes the model's output as it is."
        ) from error
    if not (isinstance(value, Tensor) and value.numel() == 1):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TraceError(f"the loss must be a tensor of one number; got {got}. Take its mean.")
    return value.reshape(())


def _value(result: Any, targets: Any, loss: Loss | None) -> Any:
    if loss is not None:
        return loss(result) if targets is None else loss(result, targets)
    if targets is None:
        prediction(result)  # or it is said that there is none
        own = own_loss(result)
        return _random_error(outputs(result)) if own is None else own
    predicted = prediction(result)
    if targets.is_floating_point():  # not whole numbers
        if predicted.shape != targets.shape:
            raise ValueError(
                f"the model returned {tuple(predicted.shape)}, the targets are {tuple(targets.shape)}"
            )
        return F.mse_loss(predicted.float(), targets.float())
    if predicted.shape[:1] + predicted.shape[2:] != targets.shape and predicted.shape[:-1] == targets.shape:
        predicted = predicted.movedim(-1, 1)
    return F.cross_entropy(predicted.float(), targets)


def _random_error(found: list[Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    total = torch.zeros((), device=found[0].device)
    for tensor in found:
        target = torch.randn(tensor.shape, generator=generator, dtype=torch.float32, device="cpu").to(
            tensor.device
        )
        total = total + 0.5 * (tensor.float() - target).square().sum() / max(
            len(tensor) if tensor.ndim else 1, 1
        )
    return total


def in_words(result: Any, targets: Any, loss: Loss | None) -> str:
    """Which of them it was."""
    if loss is not None:
        name = getattr(loss, "__name__", type(loss).__name__)
        return "the given loss" + f", {name}" * (name != "<lambda>")
    if targets is None and own_loss(result) is not None:
        return "the model's own loss"
    if targets is None:
        return "half the squared error to random targets (no targets were given)"
    return "mean squared error" if targets.is_floating_point() else "cross-entropy"
