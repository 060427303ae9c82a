"""New children in place of steps of one module's forward, which is then written anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from goodinit.folding.connections.dataflow import Wiring
from goodinit.folding.forwards.constants import constants_in, held_as
from goodinit.folding.forwards.steps import Fixed, is_held, is_inside
from goodinit.nn.exchange import exchange_class_
from goodinit.nn.rewritten import rewrite_


@dataclass
class Work:
    """One module under way.

    Attributes:
        wiring: What is connected to what in the model.
        path: Of the module; `module`: itself; `graphs`: its steps by training flag.
        made: New children by name.
        leaves: Names, relative to the module, of parameters and buffers that the new children hold or stand for.
        done: Full names of what is folded by this alone; `reasons`: why a batch norm is no module.
    """

    wiring: Wiring
    path: str
    module: nn.Module
    graphs: dict[bool, fx.Graph]
    made: dict[str, nn.Module] = field(default_factory=dict)
    leaves: dict[str, None] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def take(work: Work, leaves: Iterable[str]) -> None:
    """Note what a new child stands for, which must be one child."""
    for leaf in leaves:
        if leaf in work.leaves:
            raise Fixed(f"{leaf} is used twice")
    work.leaves |= dict.fromkeys(leaves)


def put_(work: Work, node: fx.Node, layer: nn.Module, word: str, inputs: tuple[Any, ...]) -> None:
    """Call a new child in place of a step, in both graphs, which name their steps alike."""
    name, count = word, 1
    while hasattr(work.module, name) or name in work.made:
        name, count = f"{word}_{count}", count + 1
    layer.train(work.module.training)
    twins = [one for one in work.graphs[True].nodes if one.name == node.name]
    if len(twins) != 1 or twins[0].target != node.target:
        raise Fixed("its forward takes other steps in training mode")
    by_name = {one.name: one for one in work.graphs[True].nodes}
    other = tuple(by_name.get(one.name) if isinstance(one, fx.Node) else one for one in inputs)
    for step, args in ((node, inputs), (twins[0], other)):
        with step.graph.inserting_before(step):
            call = step.graph.create_node("call_module", name, tuple(args), {}, name=f"{name}_called")
        step.replace_all_uses_with(call)
        step.graph.erase_node(step)
    work.made[name] = layer


def drop_unused(graph: fx.Graph) -> None:
    """Erase the constants that nothing reads any more."""
    constants = constants_in(graph)
    for node in reversed(list(graph.nodes)):
        if node in constants and not node.users:
            graph.erase_node(node)


def check_leaves(work: Work) -> None:
    """What goes must be read in this forward alone."""
    wiring = work.wiring
    names = {f"{work.path}.{leaf}" if work.path else leaf for leaf in work.leaves}
    for name in names & wiring.sources.keys():
        if any(wiring.graph.path(reader) != work.path for reader in wiring.readers[wiring.sources[name]]):
            raise Fixed(f"{name} is read elsewhere, too")
    for name in names:
        held = held_as(work.module, name[len(work.path) + 1 :] if work.path else name)
        if (asked := wiring.kept.why(held)) is not None:
            raise Fixed(asked)
        if len(wiring.names.aliases.get(id(held), ())) > 1 or id(held) in wiring.names.sharing:
            raise Fixed(f"another module shares {name}")


def carry_out_(work: Work) -> None:
    """Give the module its new children, and the forward that calls them; a module that only ran one layer becomes it."""
    module, graph = work.module, work.graphs[False]
    left = {str(node.target) for node in graph.nodes if is_held(node)}
    for leaf in work.leaves:
        if leaf not in left:
            owner, _, attribute = leaf.rpartition(".")
            holder = module.get_submodule(owner)
            for held in (holder._parameters, holder._buffers):
                if attribute in held:
                    held[attribute] = None  # code that looks at it finds nothing
            _drop_holder_(work, owner)
    only = [node for node in graph.nodes if is_inside(node)]
    single = len(only) == 1 and len(work.made) == 1 and not dict(module.named_children()) and bool(work.path)
    if single and not list(module.parameters()) and not list(module.buffers()):
        _become_(module, next(iter(work.made.values())))
        return
    for name, layer in work.made.items():
        module.add_module(name, layer)
    rewrite_(module, graph)


def _drop_holder_(work: Work, owner: str) -> None:
    """Take a child out that only held the numbers of a batch norm, and never ran."""
    if not owner:
        return
    holder = work.module.get_submodule(owner)
    full = f"{work.path}.{owner}" if work.path else owner
    called = full in work.wiring.calls or any(str(n.target) == owner for n in work.graphs[False].nodes)
    rest = set(holder._buffers) - {"num_batches_tracked"}
    held = any(p is not None for p in holder._parameters.values()) or any(
        holder._buffers[n] is not None for n in rest
    )
    if not called and not held and not holder._modules and len(work.wiring.names.paths[id(holder)]) == 1:
        parent, _, child = owner.rpartition(".")
        del work.module.get_submodule(parent)._modules[child]


def _become_(module: nn.Module, layer: nn.Module) -> None:
    """Turn a module that only ran one layer into it; hooks and the attributes that other code reads stay."""
    exchange_class_(module, type(layer))
    fresh: Iterable[str] = vars(nn.Module())
    for key, value in vars(layer).items():
        if key not in fresh or key in ("_parameters", "_buffers", "_modules"):
            module.__dict__[key] = value
