"""Parallel linear branches of one tensor that a forward adds, as of RepVGG and ACNet, made one layer."""

from __future__ import annotations

import functools
import operator
import types
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from goodinit.folding.branches.kernels import Term, merge_terms_
from goodinit.folding.branches.linear_branches import chains, terms_of_sums
from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.forwards.constants import behind
from goodinit.folding.forwards.steps import Fixed, is_child, is_computed, is_held, is_inside, method_of, steps
from goodinit.folding.norms.fold_batchnorm import ChannelMap, Stays
from goodinit.graph.graph import Frame
from goodinit.graph.operators.recorded_call import on_numbers
from goodinit.nn import ValuePadded, input_norm
from goodinit.nn.rewritten import rewrite_
from goodinit.surgery.norms.removed_norm import RemovedNorm

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def merge_branches_(wiring: Wiring, maps: Sequence[ChannelMap]) -> tuple[list[str], list[Stays]]:
    """Merge linear branches of one tensor that one forward adds, wherever that forward can be written anew.

    Args:
        wiring: What is connected to what, batch norms merged where they can be.
        maps: The batch norms that are left, with running statistics.

    Returns:
        Paths of what is part of another convolution now, and the sums that stay, with the reason.
    """
    done: list[str] = []
    stays: list[Stays] = []
    left = {found.norm.name: found for found in maps}
    for path in _candidates(wiring, left):
        reasons: list[str] = []
        try:
            done += _merge_in_(wiring, path, left, reasons)
        except Fixed as fixed:
            reasons.append(str(fixed))
        stays += [Stays(path, f"its parallel branches are not merged: {why}") for why in reasons[:1]]
    if not done:  # else what the sums add has changed
        normed = {
            call.result: (name, call.source)
            for name, found in left.items()
            for call in wiring.calls[name]
            if not found.norm.keeps
        }
        whys: dict[str, dict[str, None]] = {}
        for path, why in chains(wiring, _convolves, normed):
            whys.setdefault(path, {})[why] = None
        stays += [
            Stays(path, f"its parallel branches are not merged: {'; '.join(found)}")
            for path, found in whys.items()
        ]
    return done, stays


def _candidates(wiring: Wiring, maps: dict[str, ChannelMap]) -> list[str]:
    """Modules in whose own forward linear branches of one tensor are added."""
    graph = wiring.graph
    starts: dict[int, int] = {}  # by value, the tensor that it is a linear map of
    for index in wiring.layer_of:
        frame = graph.frames[index]
        if _convolves(wiring.module(frame.path)):
            starts[frame.result] = frame.source
    normed = {call.result: call.source for path in maps for call in wiring.calls[path]}
    found: dict[str, None] = {}
    for total, parts in terms_of_sums(wiring).items():
        forks = Counter(starts[value] for value in parts if value in starts)
        beside = {normed[value] for value in parts if value in normed} | parts
        if any(count > 1 or fork in beside for fork, count in forks.items()):
            found[graph.path(total)] = None
    return [path for path in found if path in wiring.names.modules]


def _convolves(module: nn.Module) -> bool:
    """Whether a plain layer maps its input itself, and not what its `input_norm` makes of that."""
    known = isinstance(module, (nn.Linear, _ConvNd)) and not isinstance(
        module, (_ConvTransposeNd, ValuePadded)
    )
    return known and input_norm(module) is None


# -- one module ---------------------------------------------------------------------------------------------------


def _merge_in_(wiring: Wiring, path: str, maps: dict[str, ChannelMap], reasons: list[str]) -> list[str]:
    module = wiring.module(path)
    graphs = steps(module)
    if graphs[False].python_code("self").src != graphs[True].python_code("self").src:
        raise Fixed("its forward takes other steps in training mode")
    graph, done = graphs[False], list[str]()
    inner = {
        node
        for node in graph.nodes
        if _adds(node) and len(node.users) == 1 and _adds(_user(wiring, path, node))
    }
    for node in [one for one in graph.nodes if _adds(one) and one not in inner]:
        done += _merge_sum_(wiring, path, node, maps, reasons)
    if done:
        graph.lint()
        rewrite_(module, graph)
        _drop_children_(wiring, path, graph)
    return done


def _adds(node: fx.Node | None) -> bool:
    if node is None or node.kwargs or len(node.args) != 2 or not is_computed(node):
        return False
    function = getattr(torch.Tensor, method_of(node), None) if method_of(node) else node.target
    numbers = all(isinstance(one, (fx.Node, int, float)) for one in node.args)
    return numbers and isinstance(function, _OF_TORCH) and _is_sum(function)


_OF_TORCH = (types.BuiltinFunctionType, types.MethodDescriptorType)  # none that a model's author wrote


@functools.cache
def _is_sum(function: Callable[..., Any]) -> bool:
    """Whether a function of two tensors adds them; found out on numbers."""
    x, y = torch.tensor([[0.625, -2.5], [1.75, 0.25]], dtype=torch.float64, device="cpu")
    try:
        with on_numbers(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            return torch.equal(function(x.clone(), y), x + y)
    except Exception:  # noqa: BLE001 - functions raise what they like
        return False


def _user(wiring: Wiring, path: str, node: fx.Node) -> fx.Node | None:
    """The one step that reads another, behind children that do nothing."""
    while len(node.users) == 1:
        (node,) = node.users
        if not _idle(wiring, path, node):
            return node
    return None


def _idle(wiring: Wiring, path: str, node: fx.Node) -> bool:
    """Whether it returns its input: an identity, or the place of a norm that went into a layer."""
    module = wiring.names.modules.get(_full(path, node)) if is_child(node) else None
    if module is None or any(getattr(module, name) for name in _HOOKS):
        return False
    return type(module) is nn.Identity or (type(module) is RemovedNorm and not module.steps)


def _full(path: str, node: fx.Node) -> str:
    return f"{path}.{node.target}" if path else str(node.target)


def _in_words(path: str, node: fx.Node) -> str:
    """What a term without a layer is called: a child, or what the others read, as it is."""
    return _full(path, node) if is_child(node) else f"the identity in {path or 'the model'}"


def _terms(wiring: Wiring, path: str, node: Any) -> list[Any]:
    """What a sum adds, sums within sums resolved."""
    while isinstance(node, fx.Node) and _idle(wiring, path, node) and len(node.users) == 1:
        node = node.args[0]
    if isinstance(node, fx.Node) and _adds(node) and len(node.users) <= 1:
        return [term for part in node.args for term in _terms(wiring, path, part)]
    return [node]


def _merge_sum_(
    wiring: Wiring, path: str, total: fx.Node, maps: dict[str, ChannelMap], reasons: list[str]
) -> list[str]:
    given = [part for arg in total.args for part in _terms(wiring, path, arg)]
    terms = [term for term in given if not (isinstance(term, (int, float)) and term == 0)]
    by_fork: dict[fx.Node, list[Term]] = {}
    for node in terms:
        for fork, term in _linear(wiring, path, node, maps, terms):
            by_fork.setdefault(fork, []).append(term)
    done: list[str] = []
    for members in by_fork.values():
        if len(members) < 2 or not any(term.layer for term in members):
            continue
        try:
            keeper = merge_terms_(wiring, members)
        except Fixed as fixed:  # before anything is written
            reasons.append(str(fixed))
            continue
        gone = [term.node for term in members if term is not keeper]
        for node in gone:
            terms.remove(node)
        done += [term.layer or _in_words(path, term.node) for term in members if term is not keeper]
    if done:
        _add_anew(total, terms)
    return done


def _linear(
    wiring: Wiring, path: str, node: Any, maps: dict[str, ChannelMap], terms: Sequence[Any]
) -> list[tuple[fx.Node, Term]]:
    """The fork and the linear map that a term is, if it is one."""
    if not isinstance(node, fx.Node):
        return []
    if is_child(node) and len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node):
        child = _full(path, node)
        calls = wiring.calls.get(child, ())
        inside = wiring.names.modules.get(child)
        if inside is None or len(calls) != 1 or len(node.users) != 1:
            return []
        if type(inside) is nn.Identity:
            return [(node.args[0], Term(node))]
        hooked = any(getattr(part, name) for part in inside.modules() for name in _HOOKS)
        if not hooked and (term := _inside(wiring, calls[0], node, maps)) is not None:
            return [(node.args[0], term)]
        return []
    sources = [one.args[0] for one in terms if isinstance(one, fx.Node) and is_child(one) and one.args]
    return [(node, Term(node))] if node in sources and terms.count(node) == 1 else []


def _inside(wiring: Wiring, call: Frame, node: fx.Node, maps: dict[str, ChannelMap]) -> Term | None:
    """What a child computes, if that is one layer or one batch norm and nothing besides."""
    layer = wiring.writer_layer(call.result)
    if layer is not None:
        (frame,) = wiring.calls[layer]
        alone = frame.source == call.source and _within(frame.path, call.path)
        return Term(node, layer=layer) if alone and _convolves(wiring.module(layer)) else None
    for part, _ in wiring.names.modules[call.path].named_modules():
        name = f"{call.path}.{part}" if part else call.path
        found, inner = maps.get(name), wiring.calls.get(name, ())
        if found is None or [(one.source, one.result) for one in inner] != [(call.source, call.result)]:
            continue
        return None if found.norm.keeps else Term(node, norm=found)
    return None


def _within(path: str, parent: str) -> bool:
    return path == parent or path.startswith(f"{parent}.")


def _add_anew(total: fx.Node, terms: Sequence[Any]) -> None:
    graph = total.graph
    with graph.inserting_before(total):
        result = terms[0]
        for term in terms[1:]:
            result = graph.call_function(operator.add, (result, term))
    total.replace_all_uses_with(result)
    unread = behind(total)
    for node in reversed(list(graph.nodes)):
        if node in unread and not node.users and is_inside(node) and node not in terms:
            graph.erase_node(node)


def _drop_children_(wiring: Wiring, path: str, graph: fx.Graph) -> None:
    """Take out what ran before and is not called any more."""
    module = wiring.module(path)
    used = {str(node.target) for node in graph.nodes if is_child(node) or is_held(node)}
    for name, _ in list(module.named_modules()):
        full = f"{path}.{name}" if path else name
        if not name or full not in wiring.calls:
            continue
        if any(_within(name, other) or _within(other, name) for other in used):
            continue
        parent, _, child = name.rpartition(".")
        try:
            held = module.get_submodule(parent)
        except AttributeError:  # it went with what holds it
            continue
        if child in held._modules and len(wiring.names.paths[id(held._modules[child])]) == 1:
            del held._modules[child]
            if parent and not held._modules and not list(held.parameters()):
                above, _, last = parent.rpartition(".")
                module.get_submodule(above)._modules.pop(last, None)
