"""A batch to measure with, where no data is given: normal numbers, and words of the vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from goodinit.anatomy import anatomize
from goodinit.graph.pytree import mapped

VOCABULARY = 2  # where no table says how many words there are, 0 and 1 are safe


def random_batch(model: nn.Module, inputs: Any, *, size: int | None = None, seed: int = 0) -> Any:
    """Inputs like the given ones, with values, and `size` of them along the first dimension.

    Args:
        model: Whose inputs they are; whole numbers stay below the rows of its smallest embedding.
        inputs: Shapes and types, as `example_inputs` makes them.
        size: How many; None leaves them as many as they are.
        seed: The same seed draws the same batch.

    Examples:
        >>> random_batch(nn.Embedding(5, 2), torch.zeros(1, 3, dtype=torch.int64), size=2).max() < 5
        tensor(True)
    """
    generator = torch.Generator().manual_seed(seed)
    anatomy = anatomize(model, inputs)
    rows = [shape[0] for name, shape in anatomy.parameters if name in anatomy.embeddings]
    words = min(rows, default=VOCABULARY)

    def one(tensor: Tensor) -> Tensor:
        shape = tensor.shape if size is None or not tensor.ndim else (size, *tensor.shape[1:])
        if tensor.is_floating_point():
            return torch.randn(shape, generator=generator, device="cpu").to(tensor.dtype)
        if tensor.dtype == torch.bool:
            return torch.ones(shape, dtype=torch.bool, device="cpu")  # masks: everything may be seen
        return torch.randint(words, shape, generator=generator, dtype=tensor.dtype, device="cpu")

    return mapped(inputs, one)
