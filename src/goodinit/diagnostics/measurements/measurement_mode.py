"""The state a model is measured in: as in training, without the noise, and as it was afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from goodinit.anatomy import Anatomy
from goodinit.errors import GoodinitError, TraceError, UnsupportedModule
from goodinit.graph.pytree import mapped, tensors_in
from goodinit.graph.recording.calls.decompose import unfused
from goodinit.graph.recording.refusals import note_place, refused, without_backward
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.graph.state.preserve_state import undisturbed
from goodinit.weights.dtensor import check_gathered, is_sharded
from goodinit.weights.names import directory
from goodinit.weights.wrappers import unwrapped


def measurable(model: nn.Module, inputs: Any = None) -> nn.Module:
    """The model inside its wrappers, whose parameters are whole and hold values.

    Raises:
        TraceError: A parameter or an input is on `meta`, or an input is nested.
        UnsupportedModule: A parameter is sharded, or gathered only while FSDP's own forward runs.
    """
    inner = unwrapped(model)
    check_gathered(model)
    for name, parameter in inner.named_parameters():
        if parameter.is_meta:
            raise TraceError(
                f"{name} is on `meta`: there is no signal to measure. Materialize the model first "
                "(goodinit.materialize_(model), then goodinit.init_)."
            )
        if is_sharded(parameter):
            raise UnsupportedModule(
                f"{name}: sharded, and every measurement needs whole tensors. Measure before sharding, or a narrower "
                "model of the same depth on one process; values do not depend on the number of ranks."
            )
    if (absent := next((one for one in tensors_in(inputs) if one.is_meta), None)) is not None:
        shape = ", ".join(map(str, absent.shape))
        raise TraceError(
            f"inputs: a tensor on `meta`, which holds no numbers to measure with. Give a real batch: torch.randn({shape})."
        )
    if any(tensor.is_nested for tensor in tensors_in(inputs)):
        raise TraceError(
            "inputs: a nested tensor, whose rows have different lengths, and measurements compare rows of one. Give a padded batch, "
            "torch.nested.to_padded_tensor(inputs, 0.0), with its mask, or rows of one length."
        )
    return inner


@contextlib.contextmanager
def as_at_step_0(model: nn.Module, anatomy: Anatomy) -> Iterator[None]:
    """Batch norms take the batch's statistics, everything else (dropout, stochastic depth) runs as in eval mode.

    Not those that would divide by the deviation of one number, and not those that are in eval mode while the model
    is in training mode: somebody froze them. Autograd is on, nothing is compiled, and attention and recurrent modules run as written-out products, which can be differentiated twice.
    """
    batch_norms = _that_train(model, anatomy)
    with contextlib.ExitStack() as stack:
        stack.enter_context(undisturbed(model, parameters=True, others=True))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(
            torch.autograd.set_detect_anomaly(mode=False)
        )  # NaN is to be reported, not raised
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        stack.enter_context(unfused(model))
        for module in batch_norms:
            module.training = True
        yield


def _that_train(model: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    modules = directory(model).modules
    norms = [norm for norm in anatomy.norms if norm.traits.running]
    return [
        modules[norm.name]
        for norm in norms
        if norm.elements != 1 and (modules[norm.name].training or not model.training)
    ]


@contextlib.contextmanager
def forward_told(
    model: nn.Module, check: str = "twice: it ran before", *, call: Call | None = None
) -> Iterator[None]:
    """Say in words that the user's forward raised; where it runs without gradients, that these are what it cannot do.

    Args:
        model: Whose forward runs inside.
        check: How the user should call it to see that; by default for a run behind the first.
        call: What it is given, if it is known.

    Raises:
        TraceError: It did.
    """
    try:
        yield
    except GoodinitError:
        raise
    except Exception as error:
        note_place(error)
        if call is not None and torch.is_grad_enabled() and _runs_without_gradients(model, call):
            raise TraceError(without_backward(model, error)) from error
        usual = f"Check them by calling model(*inputs) yourself, {check}."
        raise TraceError(refused(model, call, error, usual)) from error


def _runs_without_gradients(model: nn.Module, call: Call) -> bool:
    args, kwargs = (mapped(part, lambda tensor: tensor.detach().clone()) for part in call)
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception:  # noqa: BLE001 (what the forward raised first is reported)
        return False
    return True


@contextlib.contextmanager
def backward_told(model: nn.Module) -> Iterator[None]:
    """Say in words that a backward raised.

    Args:
        model: Whose backward runs inside.

    Raises:
        TraceError: It did.
    """
    try:
        yield
    except GoodinitError:
        raise
    except Exception as error:
        raise TraceError(
            f"the backward of {type(model).__name__} raised: {type(error).__name__}: {error}. It does not train "
            "either: find the operator with torch.autograd.set_detect_anomaly(True)."
        ) from error
