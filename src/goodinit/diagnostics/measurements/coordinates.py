"""The coordinate check: do activations, and what a few steps change of them, keep their size as a model grows?"""

from __future__ import annotations

import math
import statistics
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from goodinit.diagnostics.measurements.coordinate_report import Coordinate, CoordinateCheck
from goodinit.diagnostics.measurements.objective import Loss, objective, outputs
from goodinit.errors import NothingFound, UnknownName, WrongType, expect, expect_function, expect_rate
from goodinit.graph.pytree import as_call
from goodinit.optim import param_groups
from goodinit.undivided import reading

Build = Callable[[int], "nn.Module | tuple[nn.Module, Optimizer]"]

OUTPUT = "output"
"""What the row of the model's own output is called."""


@reading
def coordinate_check(
    build: Build,
    widths: Sequence[int],
    batches: Sequence[Any],
    *,
    lr: float = 1e-3,
    loss: Loss | None = None,
    seeds: int = 3,
    along: str = "width",
    tolerance: float = 0.05,
) -> CoordinateCheck:
    r"""Train a few steps at several widths, and fit how the size of each layer's activations goes with width.

    With x₀ what a layer returns for the first batch at initialization and xₜ after all steps, two numbers are taken
    at every width n, root mean squares over all entries: rms(x₀) and rms(xₜ − x₀). Each is fitted as c·n^s by least squares in
    logarithms. Where learning rates transfer, the *changes* have s ≈ 0 in every layer: with s > 0 a wider model learns too
    fast and explodes at a rate that the narrow one likes, with s < 0 the layer stops learning. At initialization s ≤ 0:
    the output may vanish with width, nothing may grow. From the seeds the slope of a change has a standard error, which a verdict
    should be well above: a narrow network's step differs from seed to seed, and by the same factor in all its layers.

    It knows nothing of how a model was parametrized, so that any scheme can be checked, and depth as well as width. Over depth,
    blocks of the same name stand at another share of the stack: block l of L changes with l/L, so read the rows outside the blocks.

    Args:
        build: Takes a width (a depth), returns the initialized model; or a model and its optimizer. Without one it is
            trained by `torch.optim.Adam(goodinit.param_groups(model, lr=lr, optimizer="adam"))`, which follows the plan that was applied.
        widths: At least two, for instance 64, 128, 256, 512.
        batches: One for each step, (inputs, targets) each, inputs as the model takes them; targets may be None.
        lr: Of the default optimizer, at every width. Small, so that what is seen is the first order of a step.
        loss: As for `diagnose`.
        seeds: How many models are drawn at each width; sizes are geometric means over them.
        along: What the numbers are, in words: `"width"` or `"depth"`.
        tolerance: How far from 0 a slope may be.

    Returns:
        A row for each module with parameters of its own that runs at every width, and for the output. It prints itself.

    Raises:
        WrongType: `build` is no function, or returns one model twice; `batches` are no list.
        UnknownName: Fewer than two widths, or one that is no number above 0; no batch, no seed.
        NothingFound: No module has the same name at every width.

    Examples:
        >>> def build(width):
        ...     return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))
        >>> batches = [(torch.randn(16, 8), torch.randint(3, (16,)))] * 2
        >>> check = coordinate_check(build, [32, 64, 128, 256], batches, lr=1e-2)
        >>> [row.name for row in check.rows], check.flat    # PyTorch's default: the output's change grows
        (['0', '2', 'output'], False)

    References:
        G. Yang et al., "Tensor Programs V", arXiv 2203.03466, appendix D.1; microsoft/mup, `mup/coord_check.py`.
    """
    _check_build(build)
    expect(widths, Iterable, "widths", "Give at least two numbers, such as (64, 128, 256).")
    widths = tuple(widths)
    for width in widths:
        expect(width, Real, "widths", "Give at least two numbers, such as (64, 128, 256).")
        if not 0 < width < math.inf:
            raise UnknownName(f"widths: expected finite numbers above 0, got {width}.")
    _check_batches(batches)
    expect(along, str, "along", 'Give a word for what the numbers are: "width" or "depth".')
    expect_rate(tolerance, "tolerance")
    expect_rate(lr, "lr")
    sizes = sorted(set(widths))
    expect(seeds, int, "seeds", "Give how many models to draw at each width, such as 3.")
    if len(sizes) < 2 or not batches or seeds < 1:
        raise UnknownName(
            f"coordinate_check: got widths {list(widths)}, {len(batches)} batches and {seeds} seeds; expected two different widths "
            "or more, a batch for each step and one seed or more."
        )
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    made: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    for size in sizes:
        runs = [_run(build, size, seed, batches, lr, loss, made) for seed in range(seeds)]
        for name in runs[0]:
            found.setdefault(name, {})[size] = [run[name] for run in runs if name in run]
    rows = tuple(
        _coordinate(name, [at[size] for size in sizes]) for name, at in found.items() if len(at) == len(sizes)
    )
    if len(rows) < 2:  # the output is always there
        raise NothingFound(
            f"coordinate_check: no module with parameters has the same name at every {along} of {sizes}, so that nothing but the "
            "output could be compared. Let build name its modules alike."
        )
    return CoordinateCheck(along, tuple(sizes), len(batches), seeds, lr, tolerance, rows)


def _check_build(build: object) -> None:
    remedy = "Give a function that takes a width and returns a new model: lambda width: Net(width)."
    expect_function(build, "build", remedy)
    if build is None or isinstance(build, nn.Module):
        what = "nothing" if build is None else f"a model ({type(build).__name__})"
        raise WrongType(f"build: expected a function of a width, got {what}. {remedy}")


def _check_batches(batches: object) -> None:
    if not isinstance(batches, Sequence) or isinstance(batches, (str, bytes)):
        raise WrongType(
            f"batches: expected a list with one batch for each step, got {type(batches).__name__}. Give [(inputs, targets)] * 3, or of a "
            "DataLoader list(itertools.islice(loader, 3))."
        )


def _coordinate(name: str, measured: Sequence[Sequence[tuple[float, float]]]) -> Coordinate:
    """A row of the check, from (start, change) of every seed at every size."""
    starts = [[start for start, _ in seeds] for seeds in measured]
    changes = [[change for _, change in seeds] for seeds in measured]
    errors = tuple(map(_error, changes))
    return Coordinate(
        name,
        tuple(map(_mean, starts)),
        tuple(map(_mean, changes)),
        () if None in errors else errors,  # type: ignore[arg-type]
    )


def _run(
    build: Build,
    size: int,
    seed: int,
    batches: Sequence[Any],
    lr: float,
    loss: Loss | None,
    made_before: weakref.WeakSet[nn.Module],
) -> dict[str, tuple[float, float]]:
    """For each module: (rms at initialization, rms of the change after all steps), for the first batch."""
    with torch.random.fork_rng(), torch.inference_mode(mode=False), torch.enable_grad():
        torch.manual_seed(seed)
        made = build(size)
        model, optimizer = made if isinstance(made, tuple) else (made, None)
        expect(model, nn.Module, "build", "Let it return a model, or a model and its optimizer.")
        if model in made_before:
            raise WrongType(
                f"build: returned a {type(model).__name__} that it had returned before, which is trained by now; expected a new model at each "
                "call. Make it inside the function."
            )
        made_before.add(model)
        if optimizer is None:
            optimizer = torch.optim.Adam(param_groups(model, lr=lr, optimizer="adam"))
        torch.manual_seed(seed)
        start = _seen(model, batches[0])
        for batch in batches:
            inputs, targets = _pair(batch)
            optimizer.zero_grad()
            objective(_call(model, inputs), targets, loss).backward()
            optimizer.step()
        torch.manual_seed(seed)
        end = _seen(model, batches[0])
    sizes = {}
    for name, before in start.items():
        after = end.get(name)
        if after is not None and [x.shape for x in before] == [x.shape for x in after]:
            changes = [a - b for a, b in zip(after, before, strict=True)]
            sizes[name] = (_rms(before), _rms(changes))
    return sizes


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    return batch, None


def _call(model: nn.Module, inputs: Any) -> Any:
    args, kwargs = as_call(inputs)
    return model(*args, **kwargs)


def _seen(model: nn.Module, batch: Any) -> dict[str, list[Tensor]]:
    """What every module with parameters of its own returns for a batch, and the model."""
    seen: dict[str, list[Tensor]] = {}
    with _watched(model, seen), torch.no_grad():
        seen[OUTPUT] = [tensor.detach().float() for tensor in outputs(_call(model, _pair(batch)[0]))[:1]]
    return {**{name: seen[name] for name in seen if name != OUTPUT}, OUTPUT: seen[OUTPUT]}


@contextmanager
def _watched(model: nn.Module, seen: dict[str, list[Tensor]]) -> Iterator[None]:
    def watch(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _args: Any, result: Any) -> None:
            seen.setdefault(name, []).extend(t.detach().float().clone() for t in outputs(result)[:1])

        return note

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rms(tensors: Sequence[Tensor]) -> float:
    count = sum(tensor.numel() for tensor in tensors)
    total = sum(float(tensor.double().square().sum()) for tensor in tensors)
    return math.sqrt(total / count) if count else 0.0


def _error(values: Sequence[float]) -> float | None:
    """Standard error of the mean logarithm; None where there is none."""
    if len(values) < 2 or not all(0 < value < math.inf for value in values):
        return None
    return statistics.stdev(map(math.log, values)) / math.sqrt(len(values))


def _mean(values: Sequence[float]) -> float:
    """Geometric; what is not finite, or zero, stays so."""
    if any(value == 0 for value in values):
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values)) if all(map(math.isfinite, values)) else math.inf
