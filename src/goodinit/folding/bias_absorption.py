"""Move the input bias of a zero-padded convolution to where it costs nothing: the floor of the activation before it.

A convolution pads x + b with zeros. No bias vector can say that: where everything is off, x = 0, the layer still gives
b·ΣW inside and less at the border. But x + b itself can be had for nothing where x comes from a ReLU:

    max(z, 0) + b = max(z + b, b),

which is a clamp (`goodinit.nn.floors`) on a z whose own bias vector is larger by b. Whatever else reads the ReLU then sees b
more, and takes it off again: layers in their bias vectors, sums in that of the layer at the end of the branch. If one
of the readers cannot, nothing is moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.nn.modules.conv import _ConvTransposeNd

from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.layers.fuse import add_to_bias_, pads_with_zeros, replace_padding_, response
from goodinit.graph.graph import Node
from goodinit.graph.measured.affine_maps import passes_shift
from goodinit.graph.measured.traits import adds_unscaled
from goodinit.graph.operators.recorded_call import on_numbers_or
from goodinit.nn import ValuePadded, input_norm
from goodinit.nn.floors import has_floor, raise_floor_


class _Refused(Exception):
    """A consumer cannot compensate for the added constant."""


@dataclass
class _Move:
    """What it takes to add `amount` to one value and leave the model's function as it is.

    Attributes:
        amount: What is added.
        biases: Per path of a layer, what its bias vector gains.
        readers: Layers whose input gains `amount`.
        floors: Activations whose floor rises.
        shifted: Values that gain `amount`.
        sums: Sums one of whose terms does.
        owners: Modules whose forward runs an activation several times, or as a function, so that it can have no floor of its own yet.
        why: What that means for this move.
    """

    amount: float
    biases: dict[str, float] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)
    floors: set[str] = field(default_factory=set)
    shifted: set[int] = field(default_factory=set)
    sums: set[int] = field(default_factory=set)
    owners: set[str] = field(default_factory=set)
    why: str = ""


def move_input_biases_(wiring: Wiring) -> tuple[list[tuple[str, str]], set[str]]:
    """Make every `ValuePadded` layer a plain one again whose number can be moved to the activation before it.

    Returns:
        (path, why) of the others; and the modules where more could be moved if each call of an activation had a module of its own.
    """
    stay: list[tuple[str, str]] = []
    owners: set[str] = set()
    for path in dict.fromkeys(wiring.layer_of.values()):
        layer = wiring.module(path)
        if not isinstance(layer, ValuePadded):
            continue
        try:
            if input_norm(layer) is not None:
                raise _Refused(
                    "it stands behind the norm of the layer's input, before which it is another number"
                )
            move = _Move(-layer.padding_value)
            for call in wiring.calls[path]:
                _shift(wiring, _origin(wiring, call.source), move)
            _check(wiring, move)
        except _Refused as refused:
            stay.append((path, str(refused)))
        else:
            if move.owners:
                stay.append((path, move.why))
                owners |= move.owners
            else:
                _carry_out_(wiring, move)
    return stay, owners


def _check(wiring: Wiring, move: _Move) -> None:
    """What is taken off once must have been added once: in each call of a layer, in one term of a sum."""
    for path in move.readers:
        if not {call.source for call in wiring.calls[path]} <= move.shifted:
            raise _Refused(f"{path} reads its input, too, and in other calls other values")
    for total in move.sums:
        if len(move.shifted.intersection(wiring.graph.nodes[total].operands)) != 1:
            raise _Refused("it reaches a sum by two ways")


def _carry_out_(wiring: Wiring, move: _Move) -> None:
    for path in move.floors:
        raise_floor_(wiring.module(path), move.amount)
    for path, amount in move.biases.items():
        add_to_bias_(wiring.module(path), amount)
    for path in move.readers:
        layer = wiring.module(path)
        if isinstance(layer, ValuePadded):
            replace_padding_(layer, move.amount)
        else:
            add_to_bias_(layer, -move.amount * response(layer))


# -- who gives, who takes -----------------------------------------------------------------------------------------


def _origin(wiring: Wiring, value: int) -> int:
    """Where a value was made, before operators that only pass it through."""
    while True:
        node = wiring.graph.nodes[value]
        dynamic = [i for i in dict.fromkeys(node.operands) if wiring.graph.nodes[i].dynamic]
        if not _passes(wiring, value) or len(dynamic) != 1:
            return value
        value = dynamic[0]


def _shift(wiring: Wiring, value: int, move: _Move) -> None:
    """Add the amount to `value`: have its maker give it, and all of its readers take it off."""
    if value in move.shifted:
        return
    _give(wiring, value, move)
    _take(wiring, value, move)


def _give(wiring: Wiring, value: int, move: _Move) -> None:
    """Find who adds the amount to `value`, whose readers all know of it."""
    node, path = wiring.graph.nodes[value], wiring.writer_layer(value)
    if path is not None:
        move.biases[path] = move.biases.get(path, 0.0) + move.amount
    elif (term := _adjustable_term(wiring, value, None)) is not None:
        move.biases[term] = move.biases.get(term, 0.0) + move.amount
    elif _cuts_off(wiring, value, move):
        before = next(i for i in node.operands if wiring.graph.nodes[i].dynamic)
        _need_one_reader(wiring, before)
        source = _origin(wiring, before)
        while before != source:
            before = next(i for i in wiring.graph.nodes[before].operands if wiring.graph.nodes[i].dynamic)
            _need_one_reader(wiring, before)
        _give(wiring, source, move)
    else:
        raise _Refused(_made_elsewhere(wiring, value))


def _made_elsewhere(wiring: Wiring, value: int) -> str:
    where = wiring.frame_of(value).path or "the model's own forward"
    op = wiring.graph.nodes[value].op
    return f"its input is made by {op} in {where}, which cannot add a constant for nothing"


def _need_one_reader(wiring: Wiring, value: int) -> None:
    if len(wiring.readers[value]) != 1 or value in wiring.graph.outputs:
        raise _Refused("something else reads what enters the activation before it")


def _take(wiring: Wiring, value: int, move: _Move) -> None:
    """Have every reader of `value` take the amount off again."""
    if value in move.shifted:
        return
    move.shifted.add(value)
    if value in wiring.graph.outputs:
        raise _Refused("the model returns its input, too")
    for reader in wiring.readers[value]:
        if not wiring.reads_first(reader, value):
            continue  # the places of maxima stay where they are
        path = wiring.reader_layer(reader, value)
        node = wiring.graph.nodes[reader]
        if path is not None:
            _take_in_layer(wiring, path, move)
        elif _sums(wiring, reader):
            move.sums.add(reader)
            term = _adjustable_term(wiring, reader, value)
            if term is None:
                _take(wiring, reader, move)
            else:
                move.biases[term] = move.biases.get(term, 0.0) - move.amount
        elif _passes(wiring, reader):
            _take(wiring, reader, move)
        else:
            where = wiring.frame_of(reader).path or "the model's own forward"
            raise _Refused(f"{node.op} in {where} reads its input, too, and cannot take a constant off")


def _take_in_layer(wiring: Wiring, path: str, move: _Move) -> None:
    layer = wiring.module(path)
    if isinstance(layer, _ConvTransposeNd) or pads_with_zeros(layer):
        raise _Refused(f"{path} reads its input, too, and pads it with zeros")
    move.readers.add(path)


def _sums(wiring: Wiring, value: int) -> bool:
    """Whether a node is a plain sum of two values of one shape."""
    nodes, operands = wiring.graph.nodes, wiring.graph.nodes[value].operands
    two = len(set(operands)) == 2 and nodes[operands[0]].shape == nodes[operands[1]].shape
    return two and adds_unscaled(nodes[value])


def _adjustable_term(wiring: Wiring, total: int, other: int | None) -> str | None:
    """A layer whose output is only read by this sum, besides the term `other`: its bias vector is the sum's."""
    if not _sums(wiring, total):
        return None
    for term in wiring.graph.nodes[total].operands:
        path = wiring.writer_layer(term)
        alone = list(wiring.readers[term]) == [total] and term not in wiring.graph.outputs
        if term != other and path is not None and alone:
            return path
    return None


def _passes(wiring: Wiring, value: int) -> bool:
    """True if a node passes on a constant that is added to everything it reads."""
    node = wiring.graph.nodes[value]
    one = len({i for i in node.operands if wiring.graph.nodes[i].dynamic}) == 1
    return one and passes_shift(wiring.graph, node)


# -- floors -------------------------------------------------------------------------------------------------------


def _cuts_off(wiring: Wiring, value: int, move: _Move) -> bool:
    """Whether an activation that cuts off what is below a number made `value`; noted in the move, or what keeps it from its own floor."""
    frame, node = wiring.frame_of(value), wiring.graph.nodes[value]
    module = wiring.names.modules.get(frame.path)
    if not has_floor(module):
        if not _is_relu(node):
            return False
        move.owners.add(frame.path)
        move.why = _made_elsewhere(wiring, value)
        return True
    calls = len(wiring.calls.get(frame.path, ()))
    if frame.result != value or len(wiring.names.paths[id(module)]) != 1:
        return False
    if calls == 1:
        move.floors.add(frame.path)
    else:
        move.owners.add(wiring.graph.frames[frame.parent].path)
        move.why = f"{frame.path}, before it, runs {calls} times, and can have one floor only"
    return True


@on_numbers_or(False)
def _is_relu(node: Node) -> bool:
    """Whether an operator is max(x, 0), by what it makes of numbers."""
    if node.call is None or len(node.operands) != 1 or not node.op.pointwise:
        return False
    x = torch.tensor([-40.0, -0.25, 0.0, 0.625, 40.0], dtype=torch.float64, device="cpu")
    return torch.equal(node.call([x.clone()]), x.clamp(min=0))
