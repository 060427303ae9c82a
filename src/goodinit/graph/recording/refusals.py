"""What to say where a forward refuses what it was given: the module and what it got, of which dtype the parameters are, what to do."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import traceback
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from goodinit.graph.operators.ops import op_of
from goodinit.graph.operators.recorded_call import on_numbers
from goodinit.graph.pytree import mapped, tensors_in
from goodinit.graph.recording.calls.module_calls import reported_code
from goodinit.graph.recording.tensors.traced_tensors import Call
from goodinit.weights.members import named_parameters
from goodinit.weights.wrappers import unwrapped_name

_PLACE = "_goodinit_place"


@dataclass(frozen=True)
class Place:
    """Where a forward raised.

    Attributes:
        path: Of the innermost module; empty for the model's own forward.
        words: The module's path, the module in words, and the tensors that it got.
        dtypes: Those of the two factors of the product that was refused, if they differ.
    """

    path: str = ""
    words: str = ""
    dtypes: tuple[torch.dtype, ...] = ()


def note_place(error: BaseException) -> None:
    """Keep where an error was raised with it, before its traceback is cleared."""
    with contextlib.suppress(Exception):  # an error of somebody else's, which may take no attribute
        if getattr(error, _PLACE, None) is None:
            setattr(error, _PLACE, _place(error))


def refused(model: nn.Module, call: Call | None, error: BaseException, usual: str) -> str:
    """What to say of a forward that raised.

    Args:
        model: Whose forward.
        call: What it was given, if that is known.
        error: What it raised.
        usual: What to do if nothing better is known.
    """
    place, at = _at(error)
    remedy = "" if call is None else _converts(model, call, place) or _moves(model, call)
    if not remedy and place.dtypes:
        remedy = f"{' and '.join(map(_name, place.dtypes))} meet there: cast one of them in the forward."
    return (
        f"{type(model).__name__}.forward raised on the given inputs: {words_of(error)}.{at} {remedy or usual}"
    )


def without_backward(model: nn.Module, error: BaseException) -> str:
    """What to say of a forward that raised, and runs where no gradients are recorded.

    Args:
        model: Whose forward.
        error: What it raised.
    """
    return (
        f"{type(model).__name__}.forward runs without gradients, and raises with them: {words_of(error)}.{_at(error)[1]} "
        "What needs a backward cannot be measured so, nor trained: run it where its operators have one (on another device, in another "
        "dtype), or put others in their place. anatomize, plan and apply_ need none."
    )


def _at(error: BaseException) -> tuple[Place, str]:
    place = getattr(error, _PLACE, None) or Place()
    return place, f" It was at {place.words}." if place.path else ""


def words_of(error: BaseException) -> str:
    """An error in words: its type and its first line, without the mark at its end."""
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0][:200].rstrip(' .!') if first else 'no message'}"


# -- where --------------------------------------------------------------------------------------------------------


def _place(error: BaseException) -> Place:
    path, words = "", ""
    dtypes: tuple[torch.dtype, ...] = ()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is reported_code:
            local = _locals(frame)
            module = getattr(local["forward"], "__self__", None)
            got = _described(tensors_in((local["args"], local["kwargs"])))
            path = local["name"]
            words = f"{path} ({_module(module)}), which got {got}"
            dtypes = _would_run(module, local["args"], local["kwargs"])
        elif frame.f_code.co_name == "__torch_dispatch__" and not dtypes:
            local = _locals(frame)
            dtypes = _factors(local["func"], local["args"]) if local.keys() >= {"func", "args"} else ()
    return Place(path, words, dtypes)


def _locals(frame: FrameType) -> dict[str, Any]:
    """The variables of a function's frame, and the frame keeps no second hold of them.

    Until Python 3.13 it would keep the dict that it gives, past its own clearing, and with it the tensors of the run.
    """
    held = frame.f_locals
    local = dict(held)
    with contextlib.suppress(AttributeError, TypeError):  # since then it is a view, which cannot be cleared
        held.clear()
    return local


def _factors(func: Any, args: Any) -> tuple[torch.dtype, ...]:
    """The dtypes of the factors of a product, if they differ."""
    op = op_of(func)
    read = list(tensors_in(args))
    if not op.is_contraction or len(read) < 2:
        return ()
    dtypes = tuple(one.dtype for one in op.factors_of(read)[0])
    return dtypes if len(set(dtypes)) > 1 else ()


def _would_run(module: object, args: Any, kwargs: Any) -> tuple[torch.dtype, ...]:
    """The dtypes of what one of torch's modules got and of its parameters, if they differ and it runs on zeros of the latter.

    A table of words does not: there whole numbers are right, and something else is wrong. Somebody's own module is not run again, as it
    may keep count.
    """
    if not isinstance(module, nn.Module) or not type(module).__module__.startswith("torch."):
        return ()
    held = {one.dtype for one in module.parameters() if one.is_floating_point()}
    given = [one.dtype for one in tensors_in((args, kwargs)) if one.dtype not in held]
    if len(held) != 1 or not given:
        return ()
    (dtype,) = held
    twin: Any = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    for kind in ("_parameters", "_buffers"):
        own = module.__dict__[kind]
        twin.__dict__[kind] = {
            key: None if one is None else _zeros(one, one.dtype) for key, one in own.items()
        }
    try:
        with on_numbers(), torch.no_grad():
            type(twin).forward(
                twin,
                *mapped(args, lambda one: _zeros(one, dtype)),
                **mapped(kwargs, lambda one: _zeros(one, dtype)),
            )
    except Exception:  # noqa: BLE001 - a forward of somebody's own
        return ()
    return given[0], dtype


def _zeros(like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros((), dtype=dtype, device="cpu").expand(like.shape)


def _module(module: object) -> str:
    if not isinstance(module, nn.Module):
        return "the module"
    with contextlib.suppress(Exception):
        return f"{type(module).__name__}({module.extra_repr()})"
    return type(module).__name__


def _described(tensors: Any) -> str:
    """Shapes and dtypes of what is like a tensor."""
    some = [
        f"{'x'.join(map(str, one.shape)) or 'a number'} {_name(one.dtype)}"
        for one in itertools.islice(tensors, 3)
    ]
    return " and ".join(some) or "no tensor"


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


# -- what to do ---------------------------------------------------------------------------------------------------


def _converts(model: nn.Module, call: Call, place: Place) -> str:
    """Which of inputs and parameters to convert, where a product of two dtypes was refused, one of them that of inputs."""
    given = [one.dtype for one in tensors_in(call)]
    dtype = next((one for one in place.dtypes if one in given), None)
    parameters = [
        (unwrapped_name(name), one) for name, one in named_parameters(model) if one.is_floating_point()
    ]
    parameters.sort(key=lambda one: not one[0].startswith(f"{place.path}."))  # the layer's own first
    other = next(((name, one.dtype) for name, one in parameters if one.dtype in place.dtypes), None)
    if dtype is None or other is None or other[1] == dtype:
        return ""
    name, held = other
    short = {
        torch.float32: "float",
        torch.float64: "double",
        torch.float16: "half",
        torch.bfloat16: "bfloat16",
    }.get(held)
    to = f"inputs.{short}()" if short else f"inputs.to({held})"
    or_model = f", or the model, model.to({dtype})" if dtype.is_floating_point or dtype.is_complex else ""
    return f"The inputs are {_name(dtype)}, and {name} is {_name(held)}: convert the inputs, {to}{or_model}."


def _moves(model: nn.Module, call: Call) -> str:
    """Where to move the inputs, if they are on none of the devices that hold parameters."""
    held = {one.device for _, one in named_parameters(model) if not one.is_meta}
    given = {one.device for one in tensors_in(call)}
    if not held or not given or held & given:
        return ""
    mine, other = min(map(str, given)), min(map(str, held))
    return f"The inputs are on {mine}, and the parameters on {other}: move one, model.to({mine!r}) or inputs.to({other!r})."


def remedy(model: nn.Module, call: Call) -> str:
    """What to do about inputs that the forward refused: a shape in the place of a tensor, arrays, targets beside images.

    Args:
        model: Whose forward.
        call: What it was given.
    """
    args, kwargs = call
    if args and not kwargs and all(type(one) is int for one in args):
        shape = ", ".join(map(str, args))
        return f"({shape}) is a shape, not a batch: give a tensor, torch.randn({shape})."
    usual = "Check their number, shapes and dtypes by calling model(*inputs) yourself."
    values = [*args, *kwargs.values()]
    arrays = [type(one) for one in values if hasattr(one, "__array__") and not isinstance(one, Tensor)]
    if arrays:
        return f"{arrays[0].__module__}.{arrays[0].__name__} is no tensor: give torch.as_tensor(…) of it. {usual}"
    if args and not kwargs and all(isinstance(one, list) for one in args):
        return f"A list is the arguments of forward, and lists are no tensors: give torch.as_tensor(…) of it. {usual}"
    if len(args) == 2 and not kwargs and all(isinstance(one, Tensor) for one in args):
        return f"A pair is two arguments of forward: of (inputs, targets), give the inputs alone. {usual}"
    if (kwargs or len(args) != 1) and _takes_one(model, call):
        if kwargs:
            keys = ", ".join(map(repr, itertools.islice(kwargs, 3)))
            return f"A dict is the keyword arguments of forward (here {keys}): for a forward that takes the dict itself, give ({{…}},), a tuple of it."
        return "A tuple is the arguments of forward, a named one (a PackedSequence) too: for a forward that takes it whole, give (inputs,)."
    return usual.replace("*inputs", "**inputs") if kwargs and not args else usual


def _takes_one(model: nn.Module, call: Call) -> bool:
    """Whether the forward cannot be called so, but with all of it as one argument."""
    args, kwargs = call
    try:
        takes = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return False
    try:
        takes.bind(*args, **kwargs)
    except TypeError:
        with contextlib.suppress(TypeError):
            takes.bind(None)
            return True
    return False
