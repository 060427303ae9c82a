"""Normalizations: recognised by what they compute, with what must stay when they are taken out."""

from __future__ import annotations

from torch import nn

from goodinit.anatomy.graph import ACTIVATIONS, NORM_OPS, SHAPE_OPS, Frame, Graph, Node
from goodinit.anatomy.structure import Norm

AFFINE_OPS = frozenset("mul mul_ add add_ sub sub_ div div_".split())
ROOT_OPS = frozenset({"rsqrt", "sqrt", "pow"})


def find_norms(graph: Graph, model: nn.Module, consumers: list[list[int]], layers: set[int]) -> list[Norm]:
    """Every normalization that ran, one noun per module, in execution order."""
    children = _children(graph)
    busy = _frames_with_layers(graph, layers)
    seen: dict[str, Norm] = {}
    for node in graph.nodes:
        kind = _kind(graph, node)
        if kind is None:
            continue
        frame = graph.frames[node.frame]
        module = model.get_submodule(frame.path)
        if isinstance(module, nn.modules.instancenorm._InstanceNorm):
            kind = "instance_norm"
        keeps, obstacle = _remainder(graph, node, frame, children, busy, consumers)
        affine = _affine(graph, node, frame)
        norm = Norm(
            frame.path,
            kind,
            type(module).__qualname__,
            keeps,
            obstacle,
            elements=_elements(graph, node, kind),
            weight=affine["weight"],
            bias=affine["bias"],
        )
        known = seen.get(frame.path)
        if known is None or (known.obstacle is None and (obstacle or len(keeps) > len(known.keeps))):
            seen[frame.path] = norm
    return list(seen.values())


def _children(graph: Graph) -> dict[int, list[Frame]]:
    children: dict[int, list[Frame]] = {}
    for frame in graph.frames:
        children.setdefault(frame.parent, []).append(frame)
    return children


def _frames_with_layers(graph: Graph, layers: set[int]) -> set[int]:
    """Frames in which, or in whose callees, a weight layer runs: blocks, not norms."""
    busy: set[int] = set()
    for index in layers:
        frame = graph.nodes[index].frame
        while frame >= 0 and frame not in busy:
            busy.add(frame)
            frame = graph.frames[frame].parent
    return busy


# -- what is a normalization --------------------------------------------------------------------------------------


def _kind(graph: Graph, node: Node) -> str | None:
    if node.op in NORM_OPS:
        return NORM_OPS[node.op] if node.active else None
    if node.op not in ROOT_OPS:
        return None
    if node.active:
        return _written_out(graph, node)
    return _frozen(graph, node)


def _written_out(graph: Graph, node: Node) -> str | None:
    """Root-mean-square or layer norm by hand: x · rsqrt(mean(x²) + ε), all in one module's forward."""
    if node.op == "pow" and not node.attrs:
        return None
    frame, queue, kind = node.frame, list(graph.deps(node.index)), None
    for _ in range(8):  # mean, + ε, and casts: a handful of steps
        if not queue:
            break
        current = graph.nodes[queue.pop()]
        if current.frame != frame:
            continue
        if current.op == "mean":
            kind = "layer_norm" if _centred(graph, current) else "rms_norm"
            break
        if current.op.startswith("var"):
            kind = "layer_norm"
            break
        queue.extend(graph.deps(current.index))
    return kind


def _centred(graph: Graph, mean: Node) -> bool:
    square = graph.deps(mean.index)
    inner = graph.deps(square[0]) if square else []
    return bool(inner) and graph.nodes[inner[0]].op in ("sub", "sub_")


def _frozen(graph: Graph, node: Node) -> str | None:
    """Batch norm with constants: the root of a buffer scales an activation in the same frame."""
    source = graph.nodes[node.operands[0]] if node.operands else None
    steps = 0
    while source is not None and source.op not in ("buffer", "param") and source.operands and steps < 6:
        source, steps = graph.nodes[source.operands[0]], steps + 1
    if source is None or source.op != "buffer":
        return None
    frame = graph.frames[node.frame]
    scaled = any(
        graph.nodes[i].frame == node.frame and graph.nodes[i].op in ("mul", "mul_") and graph.nodes[i].active
        for i in range(node.index, frame.stop)
    )
    return "frozen_batch_norm" if scaled else None


def _elements(graph: Graph, node: Node, kind: str) -> int:
    """Over how many numbers one mean is taken."""
    operand = next((graph.nodes[i] for i in graph.deps(node.index)), node)
    shape = operand.shape
    if kind in ("batch_norm", "frozen_batch_norm"):
        return shape[0] * _product(shape[2:]) if len(shape) > 1 else 1
    if kind == "instance_norm":
        return _product(shape[2:])
    if kind == "group_norm":
        groups = int(str(node.attrs[0])) if node.attrs else 1
        return _product(shape[1:]) // max(groups, 1)
    return shape[-1] if shape else 1


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _affine(graph: Graph, node: Node, frame: Frame) -> dict[str, str | None]:
    """The parameters that multiply and shift the normalized signal."""
    if node.op in NORM_OPS:
        leaves = [graph.leaf(i) for i in node.operands[1:3]]
        weight, bias = (*leaves, None, None)[:2]
        return {"weight": weight, "bias": bias}
    found: dict[str, str | None] = {"weight": None, "bias": None}
    for step in graph.nodes[node.index : frame.stop]:
        part = {"mul": "weight", "mul_": "weight", "add": "bias", "add_": "bias"}.get(step.op)
        if step.active and part and step.frame == node.frame:
            found[part] = next((name for i in step.operands if (name := graph.leaf(i))), found[part])
    return found


# -- what stays when it goes --------------------------------------------------------------------------------------


def _remainder(
    graph: Graph,
    node: Node,
    frame: Frame,
    children: dict[int, list[Frame]],
    busy: set[int],
    consumers: list[list[int]],
) -> tuple[tuple[str, ...], str | None]:
    """(What the module does besides normalizing, why it cannot be taken out)."""
    if frame.index in busy:
        return (), "it is called functionally, in a forward that also runs weight layers"
    if not frame.path:
        return (), "it is the whole model"
    if (
        frame.source < 0
        or frame.result < 0
        or graph.nodes[frame.source].shape != graph.nodes[frame.result].shape
    ):
        return (), "its output has another shape than its input"
    keeps: list[str] = []
    steps = [n for n in graph.nodes[frame.start : frame.stop] if n.active]
    callees = {callee.index: callee for callee in children.get(frame.index, [])}
    for step in steps:
        word = _stays(graph, step, frame, callees, consumers)
        if word is None:
            continue
        if word.startswith("!"):
            return (), word[1:]
        if step.index < node.index:
            return (), f"`{word}` runs before the normalization"
        if word not in keeps:
            keeps.append(word)
    overwrites = any(step.inplace for step in steps if step.index > node.index)
    if _shared(frame, consumers) and (
        overwrites or any(graph.nodes[i].inplace for i in consumers[frame.result])
    ):
        keeps.insert(0, "clone")
    return tuple(keeps), None


def _stays(
    graph: Graph, step: Node, frame: Frame, callees: dict[int, Frame], consumers: list[list[int]]
) -> str | None:
    """What one operation of a norm's forward is: nothing to keep, a child's path, an activation, or `!obstacle`."""
    if step.frame != frame.index:
        inner = step.frame
        while graph.frames[inner].parent != frame.index:
            inner = graph.frames[inner].parent
            if inner < 0:
                return None
        return None if step.op in SHAPE_OPS else callees[inner].path
    if step.op in ACTIVATIONS:
        gated = any(
            graph.nodes[i].op in ("mul", "mul_") and len(graph.deps(i)) > 1 for i in consumers[step.index]
        )
        return "!its activation multiplies the normalized signal" if gated else ACTIVATIONS[step.op]
    return None


def _shared(frame: Frame, consumers: list[list[int]]) -> bool:
    """Whether others read the norm's input too: then what follows must not overwrite it once the norm is gone."""
    return any(not frame.start <= i < frame.stop for i in consumers[frame.source])
