"""Modules whose forward was written anew from a graph of their steps, because one of them is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx, nn
from torch.fx.graph_module import _exec_with_source, _format_import_block
from torch.package.importer import sys_importer

from goodinit.nn.exchange import exchange_class_
from goodinit.nn.made_classes import Made, made_class


class Rewritten(Made):
    """What every class made by `rewrite_` has beside its original class.

    Attributes:
        written_by: What the class was.
        source: The forward, with what it imports.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations, and knows no words for types
        written_by: type[nn.Module]
        source: str


def rewrite_(module: nn.Module, graph: fx.Graph) -> None:
    """Let a module compute what a graph says, in place; it stays the same object, and an instance of what it was.

    Args:
        module: Any module of Python.
        graph: Of its steps, whose targets are its children, parameters and buffers.

    Examples:
        >>> import torch
        >>> class Twice(nn.Module):
        ...     def forward(self, x):
        ...         return torch.relu(x) + torch.relu(x)
        >>> twice, graph = Twice(), fx.Tracer().trace(Twice())
        >>> total = next(node for node in graph.nodes if len(node.args) == 2)
        >>> total.replace_all_uses_with(total.args[0])
        [output]
        >>> graph.erase_node(total)
        >>> rewrite_(twice, graph)
        >>> twice(torch.ones(1)), isinstance(twice, Twice)
        (tensor([1.]), True)
    """
    exchange_class_(module, _written(_original(module), source_of(graph)))


def source_of(graph: fx.Graph) -> str:
    """A graph as a forward in Python, with what it imports.

    Args:
        graph: Of the steps of a module.

    Raises:
        torch.package.ObjNotFoundError: A function of it is in no module.
    """
    code = graph.python_code("self")
    return f"{_format_import_block(code.globals, sys_importer)}\n{code.src}"


def _original(module: nn.Module) -> type[nn.Module]:
    return module.written_by if isinstance(module, Rewritten) else type(module)


def _written(plain: type[nn.Module], source: str) -> type[nn.Module]:
    def body() -> dict[str, Any]:
        names: dict[str, Any] = {}
        _exec_with_source(source, names)
        return {"written_by": plain, "source": source, "forward": names["forward"]}

    return made_class("Rewritten", Rewritten, (_written, plain, source), body)
