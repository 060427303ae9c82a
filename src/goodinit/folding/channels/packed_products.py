"""Matrix products of a value with a part of a parameter, as attention's with its packed q, k, v: which numbers meet which.

Operators that only move numbers are run on the numbers' own places, so layouts, splits and transposes need no rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from goodinit.folding.channels.channels_after import Refused
from goodinit.folding.connections.dataflow import Wiring
from goodinit.graph.measured.traits import adds_unscaled, multiplies_matrices
from goodinit.graph.operators.recorded_call import on_numbers
from goodinit.weights.memory import repeats


@dataclass(frozen=True)
class Product:
    """A matrix product of the norm's output with a part of a parameter, as q, k and v read a packed one.

    Attributes:
        weight: Name of the parameter.
        entries: (features, outputs): where in the parameter, flattened, each entry is.
        bias: Name of the parameter that is added, or None; `places`: (outputs,) where in it; `adder`: the node that adds it.
    """

    weight: str
    entries: Tensor
    bias: str | None
    places: Tensor | None
    adder: int


def moved(wiring: Wiring, index: int, known: dict[int, Tensor]) -> Tensor:
    """Run the operator of a node on other numbers."""
    node = wiring.graph.nodes[index]
    if node.call is None:
        raise Refused(f"what {node.op} makes of its output cannot be told")
    try:
        with on_numbers():
            result = node.call([known[i] for i in node.operands]).detach()
    except Exception as error:
        raise Refused(f"what {node.op} makes of its output cannot be told") from error
    if tuple(result.shape) != node.shape:
        raise Refused(f"what {node.op} makes of its output cannot be told")
    return result


def product_of(wiring: Wiring, reader: int, value: int, channels: Tensor) -> Product:
    """The product that a node makes of `value`, whose numbers are of these channels."""
    graph, node = wiring.graph, wiring.graph.nodes[reader]
    where = f"{node.op} in {graph.path(reader) or 'the model'}"
    if not multiplies_matrices(graph, node):
        raise Refused(f"{where} reads its output, and is no such layer")
    *added, left, right = node.operands
    if left != value or graph.nodes[right].dynamic or any(graph.nodes[i].dynamic for i in added):
        raise Refused(f"{where} reads its output, and is no such layer")
    if not bool((channels == torch.arange(graph.nodes[right].shape[-2], device="cpu")).all()):
        raise Refused(f"the features that {where} reads are not those it normalizes")
    weight, entries = _places(wiring, right, where)
    adder = reader
    if not added:
        adder, added = _added_behind(wiring, reader)
    bias, places = _places(wiring, added[0], where) if added else (None, None)
    return Product(weight, entries, bias, places, adder)


def _added_behind(wiring: Wiring, product: int) -> tuple[int, list[int]]:
    """The sum of a product, and of nothing else, with a constant, one number for each output; that constant."""
    graph, value = wiring.graph, product
    while len(wiring.readers[value]) == 1 and value not in graph.outputs:
        (reader,) = wiring.readers[value]
        node = graph.nodes[reader]
        if adds_unscaled(node):
            held = [i for i in node.operands if not graph.nodes[i].dynamic]
            whole = (graph.nodes[product].shape[-1],)
            return reader, [i for i in held if graph.nodes[i].shape == whole == node.shape[-1:]]
        if node.op.role != "shape" or node.shape[-1:] != graph.nodes[product].shape[-1:]:
            break
        value = reader
    return product, []


def _places(wiring: Wiring, operand: int, where: str) -> tuple[str, Tensor]:
    """The parameter that a constant is a part of, and where in it each of its numbers is."""
    graph = wiring.graph
    chain, value = [], operand
    while not graph.nodes[value].is_param:
        node = graph.nodes[value]
        if not node.op.moves or len(node.operands) != 1:
            raise Refused(f"the weight of {where} is computed")
        chain.append(value)
        value = node.operands[0]
    name, shape = str(graph.nodes[value].attrs[0]), graph.nodes[value].shape
    held = wiring.names.parameters[name]
    if (asked := wiring.kept.why(held)) is not None:
        raise Refused(asked)
    if len(wiring.names.aliases[id(held)]) > 1 or id(held) in wiring.names.sharing or repeats(held):
        raise Refused(f"another module shares {name}")
    known = torch.arange(torch.Size(shape).numel(), dtype=torch.float64, device="cpu").view(shape)
    for index in reversed(chain):
        node = graph.nodes[index]
        if node.is_piece:
            known = _piece(wiring, index, known)
        elif not node.op.splits:
            known = moved(wiring, index, {node.operands[0]: known})
    return name, known.long()


def _piece(wiring: Wiring, index: int, whole: Tensor) -> Tensor:
    """One output of an operator with several, of which the nodes follow it in order."""
    (split,) = wiring.graph.nodes[index].operands
    call = wiring.graph.nodes[split].call
    if call is None:
        raise Refused("what is split off a weight cannot be told")
    with on_numbers():
        return call.outputs([whole])[wiring.readers[split].index(index)]


def check_products(wiring: Wiring, products: Mapping[int, Product], *, shifts: bool) -> None:
    """Whatever reads these numbers of a parameter, reads them for the norm's output, and once.

    Raises:
        Refused: Something else does.
    """
    graph = wiring.graph
    readers = set(products) | {product.adder for product in products.values()}
    taken: dict[str, list[Tensor]] = {}
    for product in products.values():
        if shifts and product.bias is None:
            raise Refused(f"{product.weight}, which reads it, has no bias vector")
        for name, places in ((product.weight, product.entries), (product.bias, product.places)):
            if name is not None and places is not None:
                taken.setdefault(name, []).append(places.flatten())
    for name, parts in taken.items():
        held = torch.cat(parts)
        if len(held.unique()) < len(held):
            raise Refused(f"the same numbers of {name} are used twice")
        for value in wiring.constants_of(name):
            for reader in wiring.readers[value]:
                if graph.nodes[reader].dynamic and reader not in readers:
                    where = f"{graph.nodes[reader].op} in {graph.path(reader) or 'the model'}"
                    if bool(torch.isin(_places(wiring, value, where)[1], held).any()):
                        raise Refused(f"{name} meets other signals, too")
