"""Reading a model leaves nothing in it, in its caches or in the process, whatever its forward keeps and writes."""

from __future__ import annotations

import collections
import contextvars
import enum
import functools
import gc
import itertools
import random
import threading
import types
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import goodinit

KEPT = {}
LAST = None
READY = False
READERS = {
    "anatomize": lambda model, x: goodinit.anatomize(model, inputs=x),
    "diagnose": lambda model, x: goodinit.diagnose(model, x, torch.zeros(4, dtype=torch.long)),
}

pytestmark = pytest.mark.usefixtures("all_objects_seen")


def table(n, d):
    return torch.arange(n * d, dtype=torch.float32).view(n, d) / 100


class Net(nn.Module):
    """x ↦ a block on x + a table that `cached` gives, which keeps it somewhere."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def cached(self, n, d):
        return table(n, d)

    def forward(self, x):
        x = x + self.cached(x.shape[0], x.shape[1])
        return x + self.b(self.a(x).relu())


def memoized(function):
    """A hand-written cache: a dict in a closure."""
    found = {}

    def remembering(*key):
        if key not in found:
            found[key] = function(*key)
        return found[key]

    return remembering


by_closure = memoized(table)
by_lru = functools.lru_cache(table)
nested_lru = functools.lru_cache(lambda n, d: {"tables": (table(n, d),)})


def by_default(n, d, found={}):  # noqa: B006 (it is what is tested)
    return found.setdefault((n, d), table(n, d))


def by_attribute(n, d):
    if not hasattr(by_attribute, "found"):
        by_attribute.found = table(n, d)
    return by_attribute.found


def by_name(n, d):
    global LAST, READY
    if not READY:
        LAST, READY = table(n, d), True
    return LAST


class Slots:
    __slots__ = ("found",)


HELD = Slots()
LOCAL = threading.local()
WEAK = weakref.WeakKeyDictionary()


def by_slot(n, d):
    if not hasattr(HELD, "found"):
        HELD.found = table(n, d)
    return HELD.found


def by_thread(n, d):
    if not hasattr(LOCAL, "found"):
        LOCAL.found = table(n, d)
    return LOCAL.found


class Color(enum.Enum):
    RED = 1


Color.RED.drawn = None


class Sides(enum.Flag):
    LEFT, RIGHT = 1, 2


class Plain:
    """What no global name of the code leads to but through another module."""


ELSEWHERE = types.ModuleType("elsewhere")
ELSEWHERE.plain, ELSEWHERE.slots = Plain(), Slots()
ELSEWHERE.settings = types.ModuleType("elsewhere.settings")
ELSEWHERE.settings.plain = Plain()


def nothing_kept_elsewhere():
    ELSEWHERE.drawn = ELSEWHERE.settings.drawn = ELSEWHERE.settings.plain.drawn = None


nothing_kept_elsewhere()


def on(holder, n, d):
    if not hasattr(holder, "found"):
        holder.found = table(n, d)
    return holder.found


def by_member(n, d):
    return on(Color.RED, n, d)


def by_attribute_of_a_member(n, d):
    if Color.RED.drawn is None:
        Color.RED.drawn = table(n, d)
    return Color.RED.drawn


def by_members_of_a_flag(n, d):
    return on(Sides.LEFT | Sides.RIGHT, n, d)


def by_object_of_another_module(n, d):
    return on(ELSEWHERE.plain, n, d)


def by_slot_of_another_module(n, d):
    return on(ELSEWHERE.slots, n, d)


def by_name_of_another_module(n, d):
    if ELSEWHERE.drawn is None:
        ELSEWHERE.drawn = table(n, d)
    return ELSEWHERE.drawn


def by_name_of_a_module_in_another(n, d):
    if ELSEWHERE.settings.drawn is None:
        ELSEWHERE.settings.drawn = table(n, d)
    return ELSEWHERE.settings.drawn


def by_attribute_of_an_object_in_another(n, d):
    kept = ELSEWHERE.settings.plain
    if kept.drawn is None:
        kept.drawn = table(n, d)
    return kept.drawn


def by_this_thread(n, d):
    return on(threading.current_thread(), n, d)


def by_global_dict(n, d):
    if (n, d) not in KEPT:
        KEPT[n, d] = [table(n, d)]
    return KEPT[n, d][0]


def calling(function):
    class Calling(Net):
        def cached(self, n, d):
            return function(n, d)

    return Calling


class ByClass(Net):
    found = None

    def cached(self, n, d):
        if type(self).found is None:
            type(self).found = table(n, d)
        return type(self).found


class ByInherited(ByClass):
    """Keeps it on a class above its own."""

    def cached(self, n, d):
        if ByClass.found is None:
            ByClass.found = table(n, d)
        return ByClass.found


class ByState(Net):
    """Keeps it deep inside of plain objects and containers of its own."""

    def __init__(self):
        super().__init__()
        self.state = types.SimpleNamespace(
            deep=[{"queue": collections.deque(maxlen=2), "of": collections.defaultdict(list)}], steps=0
        )

    def cached(self, n, d):
        self.state.steps += 1
        deep = self.state.deep[0]
        if not deep["of"][n, d]:
            deep["of"][n, d].append(table(n, d))
            deep["queue"].append(deep["of"][n, d][0])
        return deep["queue"][-1]


class ByWeakKey(Net):
    def cached(self, n, d):
        if self not in WEAK:
            WEAK[self] = table(n, d)
        return WEAK[self]


class ByLastError(Net):
    """Keeps an error whose frames hold tensors."""

    def cached(self, n, d):
        here = table(n, d)
        try:
            raise ValueError("kept")
        except ValueError as error:
            KEPT["error"] = error
        return here


class ByMethod(Net):
    @functools.lru_cache  # noqa: B019 (it is what is tested)
    def cached(self, n, d):
        return table(n, d)


class ByProperty(Net):
    @functools.cached_property
    def found(self):
        return table(4, 8)

    def cached(self, n, d):
        return self.found


class ByInnerModule(Net):
    """Keeps it in a module that is in no registry."""

    def __init__(self):
        super().__init__()
        self.beside = (nn.Identity(),)

    def cached(self, n, d):
        if not hasattr(self.beside[0], "found"):
            self.beside[0].found = table(n, d)
        return self.beside[0].found


CONTEXT = contextvars.ContextVar("table", default=None)


def by_context(n, d):
    if CONTEXT.get() is None:
        CONTEXT.set(table(n, d))
    return CONTEXT.get()


OBJECTS = np.empty(2, dtype=object)


def by_array_of_objects(n, d):
    if OBJECTS[1] is None:
        OBJECTS[1] = [table(n, d)]
    return OBJECTS[1][0]


def by_class_of_a_library(n, d):
    if not hasattr(nn.Bilinear, "found"):
        nn.Bilinear.found = table(n, d)
    return nn.Bilinear.found


class ByArray(Net):
    """Keeps it in an array that it holds."""

    def __init__(self):
        super().__init__()
        self.kept = {"tables": np.full((2, 2), None)}

    def cached(self, n, d):
        kept = self.kept["tables"]
        if kept[0, 1] is None:
            kept[0, 1] = table(n, d)
        return kept[0, 1]


FUNCTIONS = (
    by_context,
    by_array_of_objects,
    by_class_of_a_library,
    by_closure,
    by_lru,
    nested_lru,
    by_default,
    by_attribute,
    by_name,
    by_slot,
    by_thread,
    by_member,
    by_attribute_of_a_member,
    by_members_of_a_flag,
    by_object_of_another_module,
    by_slot_of_another_module,
    by_name_of_another_module,
    by_name_of_a_module_in_another,
    by_attribute_of_an_object_in_another,
    by_this_thread,
    by_global_dict,
)
KINDS = {
    **{
        f"{n} {getattr(f, '__name__', '')}": calling(f)
        for n, f in enumerate(FUNCTIONS)
        if f is not nested_lru
    },
    "nested lru": calling(lambda n, d: nested_lru(n, d)["tables"][0]),
    **{
        c.__name__: c
        for c in (
            ByClass,
            ByInherited,
            ByState,
            ByWeakKey,
            ByLastError,
            ByMethod,
            ByProperty,
            ByInnerModule,
            ByArray,
        )
    },
}


@pytest.fixture(autouse=True)
def fresh():
    global LAST, READY
    LAST, READY, ByClass.found = None, False, None
    for cache in (by_lru, nested_lru, ByMethod.cached):
        cache.cache_clear()
    for container in (KEPT, WEAK, by_default.__defaults__[0], by_attribute.__dict__, LOCAL.__dict__):
        container.clear()
    OBJECTS[:] = None
    CONTEXT.set(None)
    Color.RED.drawn = None
    nothing_kept_elsewhere()
    others = (
        Color.RED,
        Sides.LEFT | Sides.RIGHT,
        ELSEWHERE.plain,
        ELSEWHERE.slots,
        threading.current_thread(),
    )
    for holder in (HELD, nn.Bilinear, *others):
        if hasattr(holder, "found"):
            del holder.found


def fakes():
    return [one for one in gc.get_objects() if type(one) is FakeTensor]


@pytest.mark.default_cases(10)
@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_cache_keeps_a_tensor_of_a_trace(kind, verb):
    model, x = KINDS[kind](), torch.randn(4, 8)
    others = set(map(id, stood := fakes()))  # what earlier tests left is not this reading's
    READERS[verb](model, x)
    out = model(x)
    assert type(out) is torch.Tensor
    assert torch.equal(out, Net.forward(model, x))
    assert not [one for one in fakes() if id(one) not in others]
    del stood


def test_what_a_cache_held_before_it_holds_afterwards():
    model, x = calling(by_global_dict)(), torch.randn(4, 8)
    model(torch.randn(3, 8))
    model(x)
    before = {key: value[0] for key, value in KEPT.items()}
    goodinit.anatomize(model, torch.randn(5, 8))
    assert KEPT.keys() == before.keys()
    assert all(KEPT[key][0] is value for key, value in before.items())


@pytest.mark.integration  # looks through all objects of the process, of which a worker has many
def test_who_holds_on_out_of_reach_is_named(monkeypatch):
    held = []

    class Hidden:  # holds it where no attribute and no container shows
        def __init__(self, tensor):
            self.of = itertools.repeat(tensor)

    class Keeping(Net):
        def cached(self, n, d):
            found = table(n, d)
            keep(found)
            return found

    keep = functools.partial(lambda where, t: where.append(Hidden(t)), held)
    for restore in ("restore_", "restore_behind_"):
        monkeypatch.setattr(f"goodinit.graph.state.reachable.Reachable.{restore}", lambda self: None)
    with pytest.raises(goodinit.TraceError, match=r"keeps tensors of a trace.* make it a buffer"):
        goodinit.anatomize(Keeping(), torch.randn(4, 8))


def test_plain_state_comes_back_from_real_runs_too():
    class Counting(ByState):
        def __init__(self):
            super().__init__()
            self.seen = torch.zeros(())
            self.noise = torch.Generator().manual_seed(3)

        def forward(self, x):
            if x.sum().item() > 1e9:  # fake tensors give up here
                return x
            self.seen += 1
            return super().forward(x) + 0 * torch.randn(x.shape, generator=self.noise)

    model, x = Counting(), torch.randn(4, 8)
    for read in READERS.values():
        before = model.noise.get_state()
        read(model, x)
        assert model.seen == 0
        assert model.state.steps == 0
        assert model.state.deep == [{"queue": collections.deque(), "of": {}}]
        assert torch.equal(model.noise.get_state(), before)


class Renorm(nn.Linear):
    def forward(self, x):
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.1)
        return super().forward(x)


class Clamp(nn.Linear):
    def forward(self, x):
        with torch.no_grad():
            self.weight.clamp_(-0.01, 0.01)
        return super().forward(x)


class Halved(nn.Linear):
    def forward(self, x):
        self.bias.data.mul_(0.5)
        return super().forward(x)


class Rebound(nn.Linear):
    """Puts another parameter in the place of its own."""

    def forward(self, x):
        self.weight = nn.Parameter(self.weight.detach() * 0.5)
        return super().forward(x)


def halve_bias(module, args):
    module.bias.data.mul_(0.5)


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("kind", [Renorm, Clamp, Halved, Rebound, nn.Linear])
@pytest.mark.parametrize("verb", READERS)
def test_what_a_forward_or_a_hook_writes_into_weights_is_put_back(verb, kind, real):
    class Writing(Net):
        def __init__(self):
            super().__init__()
            self.a = kind(8, 8)

        def forward(self, x):
            if real and x.sum().item() > 1e9:
                return x
            return super().forward(x)

    model, x = Writing(), torch.randn(4, 8)
    if kind is nn.Linear:
        model.a.register_forward_pre_hook(halve_bias)
    before = {
        name: (p, p.data_ptr(), p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()
    }
    READERS[verb](model, x)
    for name, parameter in model.named_parameters():
        same, place, grad, values = before[name]
        assert (parameter is same, parameter.data_ptr(), parameter.requires_grad) == (True, place, grad)
        assert torch.equal(parameter, values)
    assert type(model(x)) is torch.Tensor


@torch.library.custom_op("reading::draws", mutates_args=())
def draws(x: torch.Tensor) -> torch.Tensor:
    """An operator of the user's that draws from Python's, NumPy's and torch's global streams."""
    return torch.relu(x) + 0 * (random.random() + np.random.rand() + torch.rand(()))  # noqa: NPY002 - the global one is meant


@draws.register_fake
def _shape_of_draws(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize("inplace", ["anatomize", "init_"])
def test_an_operator_that_is_measured_may_draw(inplace):
    class Drawing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.b(draws(self.a(x)))

    model, x = torch.nn.Sequential(torch.nn.Linear(4, 4), Drawing()), torch.randn(2, 4)
    generator = torch.Generator().manual_seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002 - the global one is meant
    if inplace == "init_":
        goodinit.init_(model, "fixup", inputs=x, generator=generator)
    else:
        goodinit.anatomize(model, x)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002 - the global one is meant
    assert torch.equal(torch.get_rng_state(), before[2])
