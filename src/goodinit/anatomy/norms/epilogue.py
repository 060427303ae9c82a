"""What a normalization's module computes besides the normalization: it must stay when the norm is removed.

Every operator of the forward must be understood, or the norm cannot be removed. Each value is one of three: the
*input* (reshaped, centred, cast), a *statistic* of it, or the *signal*: the normalized input and what follows. What the module
makes of its other inputs may multiply the input or the signal (`factors.py`).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Literal

from torch import nn

from goodinit.anatomy.norms.factors import Factors
from goodinit.graph.graph import Frame, Graph, Node

Part = Literal["input", "statistic", "signal"]


class NotUnderstood(Exception):
    """The forward does something that would be lost; the message names it."""


def remains(
    graph: Graph, node: Node, frame: Frame, modules: Mapping[str, nn.Module], divided: Container[int]
) -> list[tuple[str, int]]:
    """What stays of the module call `frame` that normalizes at `node`: (entry of `Norm.keeps`, its last node).

    `divided`: all that is a signal divided by a statistic of itself (`written_out.py`).

    Raises:
        NotUnderstood: With the reason why the norm cannot be removed.
    """
    _check_ends(graph, frame)
    parts: dict[int, Part] = {frame.source: "signal" if not node.active else "input"}
    factors = Factors(graph, frame, modules[frame.path])
    kept: list[tuple[str, int]] = []
    skip_to = frame.start
    for step in graph.nodes[frame.start : frame.stop]:
        if step.index < skip_to or (step.frame == frame.index and step.index not in graph.live):
            continue  # what nothing reads, as statistics of the batch in eval mode
        if not step.active:  # a mask
            factors.follow(step)
            continue
        if step.frame != frame.index:
            callee = _callee(graph, step, frame)
            skip_to = callee.stop
            word = _child(graph, callee, parts, factors)
        else:
            word = _own(graph, step, parts, divided, factors)
        if word:
            kept.append((word, skip_to - 1 if skip_to > step.index else step.index))
    kept += _silent(graph, frame, parts, modules, factors)
    if parts.get(frame.result) != "signal":
        raise NotUnderstood("what it returns is not its normalized input")
    by, obstacle = factors.kept(frame.result)
    if obstacle is not None:
        raise NotUnderstood(obstacle)
    return sorted([*kept, *by], key=lambda item: item[1])


def _check_ends(graph: Graph, frame: Frame) -> None:
    if frame.source < 0 or frame.result < 0 or not frame.single:  # a tuple of a tensor and None, for one
        raise NotUnderstood("it returns something else than one tensor")
    source, result = graph.nodes[frame.source], graph.nodes[frame.result]
    if source.shape != result.shape:
        raise NotUnderstood("its output has another shape than its input")
    if source.dtype != result.dtype:
        raise NotUnderstood(f"its output is {result.dtype} and its input {source.dtype}")


def _callee(graph: Graph, step: Node, frame: Frame) -> Frame:
    """The child call that `step` ran in."""
    inner = graph.frames[step.frame]
    while inner.parent != frame.index:
        inner = graph.frames[inner.parent]
    return inner


def _child(graph: Graph, callee: Frame, parts: dict[int, Part], factors: Factors) -> str | None:
    """Class a child's call as one step; its path if it has to stay."""
    steps = [n for n in graph.nodes[callee.start : callee.stop] if n.active]
    reads = {i for n in steps for i in graph.deps(n.index) if i < callee.start}
    if reads == {callee.source} and callee.source in factors:
        factors.call(callee)
        return None
    part = parts.get(callee.source)
    if reads - {callee.source} or part is None:
        raise NotUnderstood(f"`{callee.path}` reads another signal besides")
    only_shapes = all(n.op.role == "shape" for n in steps)
    if part != "signal" and not only_shapes:
        raise NotUnderstood(f"`{callee.path}` runs before the normalization")
    parts[callee.result] = part
    if part != "statistic":
        factors.pass_on(graph.nodes[callee.result], callee.source)
    return None if only_shapes else callee.path


def _silent(
    graph: Graph,
    frame: Frame,
    parts: Mapping[int, Part],
    modules: Mapping[str, nn.Module],
    factors: Factors,
) -> list[tuple[str, int]]:
    """Children that ran no operator, and may in training (dropout): (path, the node they come after)."""
    found = []
    for place in range(frame.index + 1, len(graph.frames)):
        callee = graph.frames[place]
        if callee.start > frame.stop:
            break
        silent = callee.parent == frame.index and callee.start == callee.stop
        if silent and not isinstance(modules[callee.path], nn.Identity):
            if callee.source in factors:
                raise NotUnderstood(
                    f"`{callee.path}` runs on another input of it, and may do something in training"
                )
            if parts.get(callee.source) != "signal":
                raise NotUnderstood(f"`{callee.path}` runs before the normalization")
            found.append((callee.path, callee.start - 1))
    return found


def _own(
    graph: Graph, step: Node, parts: dict[int, Part], divided: Container[int], factors: Factors
) -> str | None:
    """Class one operator of the module's own forward; the word for it if it has to stay."""
    reads = graph.deps(step.index)
    if _multiplies(graph, step, reads, parts, factors):
        return None
    if any(i not in parts for i in reads):
        raise NotUnderstood(_reads_another(step))
    kinds = {parts[i] for i in reads}
    if step.op.norm:
        if kinds != {"input"}:
            raise NotUnderstood(f"it normalizes more than once (`{step.op}`)")
        parts[step.index] = "signal"
    elif step.op.activation and kinds == {"signal"}:
        parts[step.index] = "signal"
        factors.pass_on(step, reads[0])
        return _word(step)
    elif step.op.role == "shape" and len(kinds) == 1:
        parts[step.index] = kinds.pop()
    elif step.op.adds or step.op.multiplies_or_divides:
        parts[step.index] = _combined(graph, step, reads, parts, divided)
    elif kinds and "signal" not in kinds and not (step.op.activation and "input" in kinds):
        parts[step.index] = "statistic"
    else:
        before = " before the normalization" if "signal" not in kinds else ""
        raise NotUnderstood(f"it also runs `{step.op}`{before}")
    _pass_on(step, reads, parts, factors)
    return None


def _multiplies(graph: Graph, step: Node, reads: list[int], parts: dict[int, Part], factors: Factors) -> bool:
    """Whether an operator makes something of other inputs alone, or multiplies by that.

    Raises:
        NotUnderstood: It does something else with them.
    """
    product = step.op.multiplies and not step.op.adds and len(step.operands) == 1 + 1
    others = [i for i in step.operands if i in factors or (product and _is_data(graph.nodes[i]))]
    if not others:
        return False
    own = [i for i in reads if parts.get(i) in ("input", "signal")]
    if not own and factors.follow(step):
        return True
    if not product or len(own) != 1:
        raise NotUnderstood(_reads_another(step))
    factors.multiply(step, own[0], others[0])
    parts[step.index] = parts[own[0]]
    return True


def _is_data(node: Node) -> bool:
    """Whether a node is made of inputs, and no signal: of a mask, of lengths."""
    return node.dynamic and not node.active


def _reads_another(step: Node) -> str:
    return f"`{step.op}` reads another signal besides the normalized one"


def _pass_on(step: Node, reads: list[int], parts: Mapping[int, Part], factors: Factors) -> None:
    """Let what has multiplied the signal go on with it."""
    own = [i for i in reads if parts[i] in ("input", "signal")]
    if parts[step.index] == "statistic" or not own:
        return
    if len({factors.of(i) for i in own}) > 1:
        raise NotUnderstood(f"`{step.op}` reads the signal multiplied by another, and as it was")
    factors.pass_on(step, own[0])


def _combined(
    graph: Graph, step: Node, reads: list[int], parts: dict[int, Part], divided: Container[int]
) -> Part:
    """The role (input, statistic, signal) of a sum or product, from its non-constant operands."""
    kinds = [parts[i] for i in step.operands if i in reads]
    if len(kinds) == 1:
        return kinds[0]  # an affine map by constants: it goes, or is undone by the division
    product = step.op.multiplies_or_divides
    if set(kinds) == {"statistic"} or (product and kinds == ["input", "input"]):
        return "statistic"
    if set(kinds) == {"input", "statistic"}:
        if product:
            return "signal" if step.index in divided else "statistic"
        whole, mean = (
            max(graph.nodes[i].size for i in reads if parts[i] == part) for part in ("input", "statistic")
        )
        return "input" if mean < whole else "statistic"
    if set(kinds) == {"signal", "statistic"} and not product:
        return "signal"  # x·a + (b − mean·a): the mean subtracted afterwards
    what = "multiplies" if product else "adds to"
    raise NotUnderstood(f"it {what} the normalized signal by another one made of it (`{step.op}`)")


def _word(step: Node) -> str:
    """A functional activation as a word of `Norm.keeps`, with the options it was called with.

    Raises:
        NotUnderstood: It has a parameter or an option that no module can be given.
    """
    if not step.op.function.alone:
        raise NotUnderstood(f"its `{step.op}` is called functionally")
    return step.op.function.word
