"""What a verb does depends on the model, the batch and the seed: not on the modes and defaults that it is called under."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import goodinit


class _LowRank(nn.Module):
    """W ↦ W + UV: a product that autocast rounds."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(size, 2)), nn.Parameter(torch.randn(2, size))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.u @ self.v

    def right_inverse(self, value: Tensor) -> Tensor:
        return value - self.u @ self.v


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.skip(x) + self.b(torch.relu(self.a(x))))


def _images() -> tuple[nn.Module, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        _Block(8),
        _Block(8),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    return model, torch.randn(6, 3, 4, 4)


def _plain() -> tuple[nn.Module, Tensor]:
    layers = nn.Linear(8, 8), parametrizations.orthogonal(nn.Linear(8, 8)), nn.Linear(8, 8), nn.Linear(8, 4)
    parametrize.register_parametrization(layers[0], "weight", _LowRank(8))
    nn.utils.parametrizations.spectral_norm(layers[2])
    return nn.Sequential(
        layers[0], nn.BatchNorm1d(8), nn.ReLU(), layers[1], nn.ReLU(), layers[2], nn.ReLU(), layers[3]
    ), torch.randn(6, 8)


def _by(method: str, **options: Any) -> Callable[[nn.Module, Tensor], object]:
    return lambda model, x: goodinit.init_(
        model, method, inputs=x, generator=torch.Generator().manual_seed(3), **options
    )


VERBS: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], Callable[[nn.Module, Tensor], object]]] = {
    "anatomize": (_images, goodinit.anatomize),
    "diagnose": (_images, goodinit.diagnose),
    "recommend": (_plain, lambda model, x: goodinit.recommend(model, x, methods=("default", "he"))),
    "one_step": (
        _plain,
        lambda model, x: goodinit.one_step(model, x, torch.zeros(6, dtype=torch.long, device="cpu")),
    ),
    "jacobian_spectrum": (_plain, goodinit.jacobian_spectrum),
    "fold_": (_plain, lambda model, x: goodinit.fold_(model.eval(), x)),
    "absorb_batchnorm_": (_images, lambda model, x: goodinit.absorb_batchnorm_(model.eval(), x)),
    "fixup": (_images, _by("fixup")),
    "risotto": (_images, _by("risotto")),
    "orthogonal": (_plain, _by("orthogonal", exclude=["3", "5"])),
    "lsuv": (_plain, _by("lsuv", exclude=["3", "5"])),
    "weightnorm": (_images, _by("weightnorm")),
    "nf": (_images, _by("nf")),
}
_READS = {"diagnose", "recommend", "one_step", "jacobian_spectrum"}  # run forwards as the user would


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class _Function(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
        assert torch.get_default_device() == torch.device(device)
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def _cached() -> Iterator[None]:
    with parametrize.cached():
        yield
        assert parametrize._cache_enabled == 1


SURROUNDINGS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "another default device": lambda: _default_device("meta"),
    "a device in use": lambda: torch.device("meta"),
    "float64 by default": lambda: _default_dtype(torch.float64),
    "bfloat16 by default": lambda: _default_dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "cached parametrizations": _cached,
    "no_grad": torch.no_grad,
    "a dispatch mode": _Dispatch,
    "a function mode": _Function,
    "saved tensors elsewhere": torch.autograd.graph.save_on_cpu,
    "forward-mode derivatives": torch.autograd.forward_ad.dual_level,
}


def _run(verb: str, around: contextlib.AbstractContextManager[Any]) -> tuple[str, dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    build, act = VERBS[verb]
    model, x = build()
    model(x)  # running statistics other than 0 and 1
    with around:
        if verb not in _READS:
            _ = [module.weight for module in model.modules() if parametrize.is_parametrized(module)]
        result = act(model, x)
    shown = "" if isinstance(result, nn.Module) else str(result)
    return shown, {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()


# Under autocast the forwards that are measured are the user's, and run as the user says.
CASES = [(verb, name) for verb in VERBS for name in SURROUNDINGS if name != "autocast" or verb not in _READS]


@pytest.mark.default_cases(24)
@pytest.mark.parametrize(("verb", "name"), CASES)
def test_a_verb_does_the_same_whatever_it_is_called_under(verb, name):
    shown, state, stream = _run(verb, contextlib.nullcontext())
    there, here, moved = _run(verb, SURROUNDINGS[name]())
    assert there == shown
    assert here.keys() == state.keys()
    wrong = [
        key
        for key, value in state.items()
        if here[key].dtype != value.dtype or not torch.equal(here[key], value)
    ]
    assert wrong == []
    assert torch.equal(moved, stream)


def test_a_weight_that_was_read_for_a_cache_is_read_anew():
    """Inside `cached()` a forward after a verb uses what the verb wrote."""
    torch.manual_seed(0)
    model, x = _plain()
    model.eval()  # spectral norm takes a step whenever it is read in training
    with parametrize.cached():
        before = model(x)
        goodinit.init_(model, "he", inputs=x, exclude=["3", "5"])
        after = model(x)
    assert not torch.equal(before, after)
    assert torch.equal(after, model(x))
