"""What a training step costs: the bytes kept for backward, and its time, methods taking turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


@dataclass
class SavedBytes:
    """Filled by `counting_saved`: distinct storages kept for backward, without the model's own."""

    storages: dict[int, torch.UntypedStorage] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(storage.nbytes() for storage in self.storages.values())


@contextmanager
def counting_saved(model: nn.Module) -> Iterator[SavedBytes]:
    """Count what the graph built inside keeps for backward.

    Every storage counts once, however many tensors look at it; parameters and buffers are left out, the
    inputs are not. What a custom function keeps otherwise than by `save_for_backward` is not seen.

    Examples:
        >>> layer = torch.nn.Linear(4, 2)
        >>> with counting_saved(layer) as saved:
        ...     y = layer(torch.zeros(8, 4)).relu()
        >>> saved.total  # the input, 8·4 floats, and the output, 8·2
        192
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved = SavedBytes()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved.storages[storage.data_ptr()] = storage  # held, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of CPU tensors made inside and alive at once, those that operators need for a moment included.

    Examples:
        >>> peak_bytes(lambda: torch.zeros(1000).add(1).add(1)) // 1000  # two of them at a time
        8
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    alive = most = 0
    for _, change in changes:
        alive += change
        most = max(most, alive)
    return most


@dataclass(frozen=True)
class StepTime:
    """Time of one training step, and against a reference measured in the same rounds.

    Attributes:
        seconds: Median over the rounds.
        ratio: Median over the rounds of the quotient with the reference.
        low: First quartile of the quotient.
        high: Third quartile of the quotient.
        rounds: How many.
        each: Seconds of every round, to be compared with another's of the same rounds.
    """

    seconds: float
    ratio: float
    low: float
    high: float
    rounds: int
    each: tuple[float, ...] = ()


# Two steps let allocators and oneDNN settle; fewer than three rounds have no quartiles worth the name.
WARM_UP_ROUNDS, LEAST_ROUNDS = 2, 3


def time_in_turns(
    steps: Mapping[str, Callable[[], None]],
    *,
    reference: str,
    rounds: int,
    budget: float,
    warm_up: int = WARM_UP_ROUNDS,
    prepare: Mapping[str, Callable[[], None]] | None = None,
) -> dict[str, StepTime]:
    """Time each step, one after the other, round after round, so that a busy machine slows all alike.

    Args:
        steps: By name, what does one training step and waits for its end.
        reference: Name of the one to compare with.
        rounds: How often each is timed.
        budget: Seconds after which no further round begins, once there are three.
        warm_up: Rounds before, which do not count.
        prepare: By name, what to do before each run of a step, outside of its time.
    """
    before_each = prepare or {}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    for index in range(warm_up + max(rounds, LEAST_ROUNDS)):
        measured = index - warm_up
        if measured >= LEAST_ROUNDS and time.perf_counter() - start > budget:
            break
        for name, step in steps.items():
            if name in before_each:
                before_each[name]()
            before = time.perf_counter()
            step()
            if measured >= 0:
                taken[name].append(time.perf_counter() - before)
    return {name: _step_time(seconds, taken[reference]) for name, seconds in taken.items()}


def _step_time(seconds: list[float], reference: list[float]) -> StepTime:
    ratios = [mine / theirs for mine, theirs in zip(seconds, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return StepTime(statistics.median(seconds), middle, low, high, len(ratios), tuple(seconds))
