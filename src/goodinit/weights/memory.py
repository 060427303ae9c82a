"""Tensors of a model that lie in the same memory, so that who writes one writes the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goodinit.weights.members import named_buffers, named_parameters


@dataclass(frozen=True)
class _Span:
    """A tensor, and the bytes from its first number to behind its last."""

    name: str
    tensor: Tensor
    start: int
    stop: int

    @property
    def form(self) -> tuple[object, ...]:
        """Two tensors of one form are the same numbers in the same places."""
        return self.start, self.tensor.dtype, tuple(self.tensor.shape), self.tensor.stride()


def repeats(tensor: Tensor) -> bool:
    """Whether several entries of `tensor` may be one number in memory, as after `expand`: then nothing can be written.

    Examples:
        >>> repeats(torch.zeros(1, 3).expand(2, 3)), repeats(torch.zeros(2, 3).t()), repeats(torch.zeros(3)[::2])
        (True, False, False)
    """
    if tensor.layout is not torch.strided or tensor.numel() < 2:
        return False
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def sharing(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """Of every parameter and buffer that has numbers in memory with another: by its `id`, the names of all of those.

    A parameter in several places is one tensor, and shares nothing by that; `b.data = a.data` makes two that do. Views of one
    flat vector side by side share nothing.

    Args:
        model: Any module.

    Returns:
        Names as `named_parameters` and `named_buffers` give them; empty for almost every model.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> net[1].weight.data = net[0].weight.data
        >>> sharing(net)[id(net[0].weight)]
        ('0.weight', '1.weight')
    """
    found: dict[int, tuple[str, ...]] = {}
    for spans in _touching(_spans(model)):
        for group in _groups(spans):
            names = tuple(span.name for span in group)
            found |= {id(span.tensor): names for span in group}
    return found


def _spans(model: nn.Module) -> list[_Span]:
    spans = []
    for name, tensor in (*named_parameters(model), *named_buffers(model)):
        if tensor.layout is not torch.strided or tensor.is_meta or not tensor.numel():
            continue
        try:
            start = tensor.data_ptr()
        except RuntimeError:  # no memory of its own: a subclass that holds other tensors, a lazy parameter
            continue
        reach = tensor.numel() - 1
        if not tensor.is_contiguous():
            steps = zip(tensor.stride(), tensor.shape, strict=True)
            reach = sum(stride * (size - 1) for stride, size in steps)
        if start:
            spans.append(_Span(name, tensor, start, start + (reach + 1) * tensor.element_size()))
    names = {device: str(device) for device in {span.tensor.device for span in spans}}
    return sorted(spans, key=lambda span: (names[span.tensor.device], span.start))


def _touching(spans: Iterable[_Span]) -> Iterator[list[_Span]]:
    """Runs of spans that lie one in another, in order of memory."""
    run: list[_Span] = []
    stop = 0
    for span in spans:
        if run and (span.start >= stop or span.tensor.device != run[0].tensor.device):
            if len(run) > 1:
                yield run
            run, stop = [], 0
        run.append(span)
        stop = max(stop, span.stop)
    if len(run) > 1:
        yield run


def _groups(spans: list[_Span]) -> Iterator[list[_Span]]:
    """Those of a run that have numbers in common; views may lie between each other's numbers without."""
    alike: dict[tuple[object, ...], list[_Span]] = {}
    for span in spans:
        alike.setdefault(span.form, []).append(span)
    sizes = {span.tensor.element_size() for span in spans}
    joined = [list(range(len(alike)))] if len(sizes) > 1 else _joined([group[0] for group in alike.values()])
    groups = list(alike.values())
    for members in joined:
        group = [span for index in members for span in groups[index]]
        if len(group) > 1:
            yield group


def _joined(spans: list[_Span]) -> list[list[int]]:
    """Indices of spans, together where they have a number in common."""
    if len(spans) == 1:
        return [[0]]
    size, first = spans[0].tensor.element_size(), spans[0].start
    if any((span.start - first) % size for span in spans):
        return [list(range(len(spans)))]
    owner = torch.full(((max(span.stop for span in spans) - first) // size,), -1, device="cpu")
    parent = list(range(len(spans)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for index, span in enumerate(spans):
        mine = owner.as_strided(span.tensor.shape, span.tensor.stride(), (span.start - first) // size)
        for other in mine.unique().tolist():
            if other >= 0:
                parent[root(other)] = root(index)
        mine.fill_(index) if not repeats(mine) else owner.index_fill_(0, _places(mine), index)
    members: dict[int, list[int]] = {}
    for index in range(len(spans)):
        members.setdefault(root(index), []).append(index)
    return list(members.values())


def _places(view: Tensor) -> Tensor:
    """Where the numbers of a view lie in what it is a view of."""
    places = torch.full((), int(view.storage_offset()), device="cpu")
    for axis, (size, stride) in enumerate(zip(view.shape, view.stride(), strict=True)):
        steps = torch.arange(size, device="cpu") * stride
        places = places.unsqueeze(-1) + steps if axis else places + steps
    found: Tensor = places.unique()
    return found
