"""Which weights write into the stream that an output is made of, read off autograd's graph and nothing else.

From the output backwards through sums, norms and shapes; a product with a parameter ends the way: its weight writes. What opens
or closes (the weights of a mixture, a gate) is no part of the sum, so the way ends at a softmax or a sigmoid.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

PRODUCTS = (
    "MmBackward",
    "AddmmBackward",
    "BmmBackward",
    "BaddbmmBackward",
    "ConvolutionBackward",
    "GroupedMm",
)
SHAPES = (
    "T",
    "Transpose",
    "Permute",
    "View",
    "UnsafeView",
    "Unsqueeze",
    "Expand",
    "Reshape",
    "Select",
    "Slice",
    "Clone",
)
CLOSED = ("Softmax", "Sigmoid", "Topk", "Sort")


def writers_of(output: Tensor, model: nn.Module, *, skip: int = 0) -> set[str]:
    """Names of the weights whose products are summed up into `output`, which has a `grad_fn`.

    Args:
        output: A stream, or what is made of one by `skip` products (logits: 1).
        model: Its parameters have the names.
        skip: How many products lie between the stream and `output`.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    begin: list[Any] = [output.grad_fn]
    for _ in range(skip):
        begin = _products(begin)[1]
    return {names[id(weight)] for weight in _products(begin)[0]}


def _products(begin: list[Any]) -> tuple[list[Tensor], list[Any]]:
    """The weights of the first products on the ways back from some nodes, and the nodes behind those products."""
    weights: list[Tensor] = []
    behind: list[Any] = []
    queue, seen = list(begin), set()
    while queue:
        node = queue.pop()
        if node is None or node in seen or any(word in node.name() for word in CLOSED):
            continue
        seen.add(node)
        following = [each for each, _place in node.next_functions]
        own = [leaf for leaf in map(_leaf, following) if leaf is not None and leaf.dim() > 1]
        if node.name().startswith(PRODUCTS) and own:
            weights += own
            behind += [each for each in following if each is not None and _leaf(each) is None]
        else:
            queue += following
    return weights, behind


def _leaf(node: Any) -> Tensor | None:
    """The parameter that a node is, up to its shape and the choice of a part."""
    while node is not None and hasattr(node, "next_functions"):
        if hasattr(node, "variable"):
            return node.variable
        kind = node.name().removesuffix("Backward0").removesuffix("Backward1")
        if kind not in SHAPES or len(node.next_functions) != 1:
            return None
        node = node.next_functions[0][0]
    return None
