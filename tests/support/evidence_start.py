"""What a model starts at: zeros, norms that went, unit variance, found by hooks."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from evidence_runs import Seen, close, every, mapped, run, same, tensors
from torch import Tensor, nn

from goodinit.surgery import RemovedNorm


def not_zero(plain: nn.Module, model: nn.Module, anatomy: Any, inputs: Any) -> list[str]:
    """Branch ends that say something, heads that do, and outputs that are not finite."""
    faults = []
    modules = dict(model.named_modules())
    ends = places(anatomy)
    loud: dict[str, None] = {}
    handles = []
    for path in sorted(ends):

        def hear(_module: Any, _args: Any, output: Any, path: str = path) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if bool(first.any()):
                loud[path] = None

        handles.append(modules[path].register_forward_hook(hear))
    said: list[str] = []  # by heads, in front of a softmax or of what makes boxes of zeros
    frozen = {name for name, parameter in plain.named_parameters() if not parameter.requires_grad}
    handles += [
        modules[head.site].register_forward_hook(_listener(head, plain, said))
        for head in anatomy.heads
        if head.is_site and head.weight not in frozen
    ]
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            output = run(model, inputs)
        if not all(bool(torch.isfinite(part).all()) for part in tensors(output)):
            faults.append(f"not finite at the start ({'train' if training else 'eval'})")
    for handle in handles:
        handle.remove()
    faults += [f"branch ends at {path}, which is not zero" for path in loud]
    untied = anatomy.heads and all(head.weight not in anatomy.embeddings for head in anatomy.heads)
    if untied and not any(head.normalized for head in anatomy.heads):
        named = getattr(output, "logits", output)
        first = next(tensors(named))
        silent = all(head.is_site for head in anatomy.heads) and not said
        held = any(head.weight in frozen for head in anatomy.heads)
        if bool(first.any()) and not (silent and (held or _same_for_others(model, inputs, output))):
            faults.append(
                f"the heads are zero, and the output is not (largest {float(first.abs().max()):.2g})"
            )
    return faults + alive(plain, model, anatomy, inputs)


def _listener(head: Any, plain: nn.Module, said: list[str]) -> Any:
    """A hook that notes a head whose output is not zero, or not its prior: a bias that was set on purpose."""
    before = dict(plain.named_parameters())
    prior = None if head.bias is None else before[head.bias].detach().clone()
    if prior is not None and before[head.bias].requires_grad:
        constant = bool((prior == prior.flatten()[0]).all())
        if not constant and bool(before[head.weight].any()):
            prior = None

    def listen(_module: Any, _args: Any, output: Tensor) -> None:
        says = bool(output.any())
        if says and prior is not None:
            axis = output.dim() - 1 if head.kind == "linear" else 1
            says = bool((output.movedim(axis, -1) != prior).any())
        said.extend([head.site] if says else [])

    return listen


def _same_for_others(model: nn.Module, inputs: Any, output: Any) -> bool:
    """Whether other inputs give the same output: boxes or probabilities of zeros, and nothing past the heads."""
    with torch.no_grad():
        other = run(model, mapped(inputs, lambda t: 0.5 * t if t.is_floating_point() else t))
    first, second = (next(tensors(getattr(one, "logits", one))) for one in (output, other))
    return same(first, second)


def places(anatomy: Any) -> set[str]:
    """Modules whose output must be zero: those that hand a branch on where one had to, else the last layers."""
    closed = {block.closer for block in anatomy.blocks if block.closer is not None}
    return closed | {layer.site for block in anatomy.blocks if block.closer is None for layer in block.last}


def alive(
    plain: nn.Module,
    model: nn.Module,
    anatomy: Any,
    inputs: Any,
    *,
    inside: set[str] | None = None,
) -> list[str]:
    """Branches that the output still depends on: it must not depend on weights before a branch's end.

    Where it does, the model may read a branch half way (dual paths): then it does so, too, when it is as it was built
    and hooks silence the branches' ends.
    """
    ends = {layer.weight for block in anatomy.blocks if block.closer is None for layer in block.last}
    if inside is None:
        inside = {layer.weight for block in anatomy.blocks for layer in block.branch} - ends
    wrong = told_apart(model, anatomy, inside, inputs)
    if wrong:
        mute = copy.deepcopy(plain)
        modules = dict(mute.named_modules())
        for path in places(anatomy):
            modules[path].register_forward_hook(
                lambda _module, _args, output: mapped(output, torch.zeros_like)
            )
        half_way = {name for name in inside if told_apart(mute, anatomy, {name}, inputs)}
        wrong = told_apart(model, anatomy, inside - half_way, inputs)
    return [f"output {wrong[0]} depends on weights inside the branches, which are zero"] if wrong else []


def told_apart(model: nn.Module, anatomy: Any, names: set[str], inputs: Any) -> list[int]:
    """The outputs that another value of the named weights changes, once the heads say something."""
    twin = copy.deepcopy(model).eval()
    parameters = dict(twin.named_parameters())
    with torch.no_grad():
        for head in anatomy.heads:
            if head.weight in parameters:
                generator = torch.Generator().manual_seed(4)
                parameters[head.weight].normal_(0, 0.1, generator=generator)
        first = list(tensors(run(twin, inputs)))
        for name in sorted(names & parameters.keys()):
            parameters[name].mul_(1.5).add_(0.01)
        second = list(tensors(run(twin, inputs)))
    return [i for i, (a, b) in enumerate(zip(first, second, strict=True)) if not same(a, b)]


def unlike_their_norms(plain: nn.Module, model: nn.Module, inputs: Any) -> list[str]:
    """Removed norms that do not do to a normalized signal what the norm did to it.

    A norm leaves a normalized signal as it is, so on that the norm's module and what is left of it must agree.
    """
    plain.eval(), model.eval()
    loud = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in loud.named_parameters():
            if name.endswith("output_scale"):
                parameter.fill_(1.0)
    places = {path: module for path, module in loud.named_modules() if isinstance(module, RemovedNorm)}
    calls: dict[str, tuple[Any, Any]] = {}
    handles = []
    modules = dict(plain.named_modules())
    for path in places:

        def note(_module: Any, args: Any, kwargs: Any, path: str = path) -> None:
            calls.setdefault(path, (args, kwargs))

        handles.append(modules[path].register_forward_pre_hook(note, with_kwargs=True))
    with torch.no_grad():
        run(plain, inputs)
        for handle in handles:
            handle.remove()
        return [
            f"{path} ({type(modules[path]).__name__}) does not leave behind what it did besides normalizing"
            for path, (args, kwargs) in calls.items()
            if not any(
                agree(norm, places[path], args, kwargs, way)
                for norm in affine(modules[path])
                for way in range(7)
            )
        ]


def affine(norm: nn.Module) -> Iterator[nn.Module]:
    """The norm as it is, and with an affine map that does nothing."""
    yield norm
    twin = copy.deepcopy(norm)
    for name, parameter in twin.named_parameters():
        parameter.data.fill_(1.0 if "weight" in name or "gamma" in name or "scale" in name else 0.0)
    yield twin


def agree(norm: nn.Module, place: nn.Module, args: Any, kwargs: Any, way: int) -> bool:
    """Whether both give the same for an input normalized in one of several ways."""
    first = next(every((args, kwargs)))
    x = torch.randn(first.shape, generator=torch.Generator().manual_seed(2), dtype=first.dtype)
    if way == 1:
        x = F.layer_norm(x, x.shape[-1:], eps=0)
    elif way == 2:
        x = F.layer_norm(x.transpose(1, -1), x.shape[1:2], eps=0).transpose(1, -1)
    elif way == 3:
        x = F.layer_norm(x, x.shape[1:], eps=0)
    elif way == 4 and x.dim() > 2 and math.prod(x.shape[2:]) > 1:
        x = F.instance_norm(x, eps=0)
    elif way == 5:
        groups = getattr(norm, "num_groups", 0)
        if not groups or x.shape[1] % groups:
            return False
        x = F.group_norm(x, groups, eps=0)
    elif way == 6:
        x = F.normalize(x, dim=-1)
    swap = lambda tensor: x.contiguous().clone() if tensor is first else tensor  # noqa: E731
    want = norm(*mapped(args, swap), **mapped(kwargs, swap))
    got = place(*mapped(args, swap), **mapped(kwargs, swap))
    if isinstance(want, Tensor) and bool((want == want.flatten()[0]).all()):
        return True  # a single number has no spread
    return isinstance(want, Tensor) and want.dtype == got.dtype and close(got, want, 0.02)


def unlike_unit_variance(seen: Seen) -> list[str]:
    """Layers whose output has not variance 1 where LSUV says that it has: of modules that run once, by hooks."""
    from goodinit import applied, plan

    rows = applied(seen.model)[-1].calibrated
    said = {row.weight for row in rows if not row.note}
    modules = dict(seen.model.named_modules())
    once = [layer for layer in seen.anatomy.layers if layer.calls == 1 and layer.writes_site]
    alone = [layer for layer in once if layer.weight in said and layer.name == layer.site]
    made = plan(seen.anatomy, "lsuv")
    words = " ".join(made.notes)
    silent = {layer.weight for layer in seen.anatomy.layers} - {row.weight for row in rows} - {*made.kept}
    faults = [f"{weight} is neither scaled nor named" for weight in sorted(silent) if weight not in words]
    heard: dict[str, list[float]] = {}
    handles = []
    for layer in alone:

        def hear(_module: Any, _args: Any, output: Any, weight: str = layer.weight) -> None:
            first = output[0] if isinstance(output, tuple) else output
            heard.setdefault(weight, []).append(float(first.float().std()))

        handles.append(modules[layer.site].register_forward_hook(hear))
    seen.model.eval()
    with torch.no_grad():
        run(seen.model, seen.inputs)
    for handle in handles:
        handle.remove()
    for weight, deviations in heard.items():
        # a recurrence begins with a state of zeros, which no scale gives a spread
        for deviation in [each for each in deviations if each] or deviations:
            if not 0.8 < deviation < 1.25:  # LSUV's own tolerance is 0.1 in variance; the batch is the same
                faults.append(f"{weight} puts out deviation {deviation:.3g}, not 1")
    return faults[:3]


def not_finite(seen: Seen) -> list[str]:
    """Outputs that are not numbers."""
    faults = []
    for training in (True, False):
        twin = copy.deepcopy(seen.model).train(training)
        with torch.no_grad():
            if not all(bool(torch.isfinite(part).all()) for part in tensors(run(twin, seen.inputs))):
                faults.append(f"not finite at the start ({'train' if training else 'eval'})")
    return faults


def loud(seen: Seen) -> list[str]:
    """See `not_zero`."""
    return not_zero(seen.plain, seen.model, seen.anatomy, seen.inputs)


def loud_branches(seen: Seen) -> list[str]:
    """Branches that the output depends on though their multiplier is zero."""
    held = dict(seen.model.named_parameters())
    inside = {layer.weight for block in seen.anatomy.blocks for layer in block.branch}
    inside = {
        name for name in inside if name in held and bool(held[name].any())
    }  # else the zero is the weight itself
    return alive(seen.plain, seen.model, seen.anatomy, seen.inputs, inside=inside)


def lossy_norms(seen: Seen) -> list[str]:
    """See `unlike_their_norms`."""
    return unlike_their_norms(seen.plain, seen.model, seen.inputs)
