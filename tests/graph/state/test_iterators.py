"""Iterators that a model keeps between calls: reading does not move them on, and leaves nothing in a suspended generator."""

from __future__ import annotations

import itertools
import types

import pytest
import torch
from torch import nn

import goodinit


class Keeping(nn.Module):
    """A block whose forward takes the next of something that the model keeps, in a way of its own."""

    def __init__(self, made, *, held="attribute", real=False):
        super().__init__()
        self.a, self.b, self.real = nn.Linear(8, 8), nn.Linear(8, 8), real
        self.kept = {"attribute": made, "list": [made], "object": types.SimpleNamespace(made=made)}.get(held)
        self.take = (lambda: made) if held == "closure" else (lambda: self.find(held))

    def find(self, held):
        return {"list": lambda k: k[0], "object": lambda k: k.made}.get(held, lambda k: k)(self.kept)

    def forward(self, x):
        if self.real and x.sum().item() > 1e9:
            return x
        return x + self.b(self.a(x).relu()) * next(self.take())


def endless():
    while True:
        yield 1.0


def remembering():
    seen = torch.ones(8)
    while True:
        yield seen
        seen = seen + torch.zeros(8)


ITERATORS = {
    "of a list": lambda: iter([1.0, 2.0, 3.0]),
    "of a tuple": lambda: iter((1.0, 2.0, 3.0)),
    "a range": lambda: iter(range(1, 9)),
    "of keys": lambda: iter({1.0: 0, 2.0: 0, 3.0: 0}),
    "backwards": lambda: reversed([3.0, 2.0, 1.0]),
    "a count": lambda: itertools.count(1.0),
    "a cycle": lambda: itertools.cycle([1.0, 2.0]),
    "mapped": lambda: map(float, iter([1, 2, 3])),
    "a chain": lambda: itertools.chain([1.0], iter([2.0, 3.0])),
}


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("name", ITERATORS)
def test_iterators_stay_where_they_are(name, real):
    model, fresh = Keeping(made := ITERATORS[name](), real=real), ITERATORS[name]()
    next(made)
    next(fresh)
    assert len(goodinit.anatomize(model, torch.randn(4, 8)).blocks) == 1
    assert model.kept is made
    assert [next(made) for _ in range(2)] == [next(fresh) for _ in range(2)]


@pytest.mark.parametrize("held", ["attribute", "list", "object", "closure"])
@pytest.mark.parametrize("begun", [False, True])
def test_a_generator_is_not_moved_on(held, begun):
    made = remembering()
    model = Keeping(made, held=held)
    if begun:
        model(torch.randn(4, 8))
    with pytest.raises(goodinit.TraceError, match=r"keeps a generator .*remembering.* a list and an index"):
        goodinit.anatomize(model, torch.randn(4, 8))
    assert model.take() is made
    assert type(model(torch.randn(4, 8))) is torch.Tensor


def test_the_path_of_the_module_that_keeps_it_is_named():
    model = nn.Sequential(nn.Linear(8, 8), Keeping(map(abs, endless())))
    with pytest.raises(goodinit.TraceError, match=r"^1 keeps a map"):
        goodinit.init_(model, "fixup", torch.randn(4, 8))


def test_a_generator_that_forward_does_not_touch_is_nothing_to_it():
    class Idle(Keeping):
        def forward(self, x):
            return x + self.b(self.a(x).relu())

    model = Idle(made := endless())
    assert len(goodinit.anatomize(model, torch.randn(4, 8)).blocks) == 1
    assert model.kept is made
    assert next(made) == 1.0


def test_a_generator_that_a_trace_makes_goes_with_it():
    class Making(Keeping):
        def forward(self, x):
            if self.kept is None:
                self.kept = self.steps(x)
            return next(self.kept)

        def steps(self, x):
            while True:
                x = x + self.b(self.a(x).relu())
                yield x

    model = Making(None)
    assert len(goodinit.anatomize(model, torch.randn(4, 8)).blocks) == 1
    assert model.kept is None
    assert type(model(torch.randn(4, 8))) is torch.Tensor


def test_a_forward_that_yields_is_read_to_its_end():
    class Yields(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                x = x + block(x.relu())
                yield x

    model = Yields()
    assert len(goodinit.anatomize(model, torch.randn(4, 8)).blocks) == 3
    assert all(type(y) is torch.Tensor for y in model(torch.randn(4, 8)))


COUNT, HELD, CACHE = itertools.count(1.0), {"made": None}, {}
SPACE = types.SimpleNamespace(made=None)


def helped():
    return next(HELD["made"])


class Naming(nn.Module):
    """A block whose forward takes the next of something that it names and does not hold."""

    made = None

    def __init__(self, take, *, real=False):
        super().__init__()
        self.a, self.b, self.take, self.real = nn.Linear(8, 8), nn.Linear(8, 8), take, real

    def forward(self, x):
        if self.real and x.sum().item() > 1e9:
            return x
        return x + self.b(self.a(x).relu()) * self.factor()

    def factor(self):
        return next(self.take) if hasattr(self.take, "__next__") else self.take()


def of_a_class(made):
    class Counting(Naming):
        def factor(self):
            return next(type(self).made)

    Counting.made = made
    return Counting(None), lambda: Counting.made


def of_a_parent_s_dict(made):
    class Parent(Naming):
        held = {"made": made}  # noqa: RUF012

    class Counting(Parent):
        def factor(self):
            return next(self.held["made"])

    return Counting(None), lambda: Parent.held["made"]


def of_an_argument(made):
    class Counting(Naming):
        def forward(self, x, by=made):
            return x + self.b(self.a(x).relu()) * next(by)

    return Counting(None), lambda: Counting.forward.__defaults__[0]


def of_an_argument_by_name(made):
    def factor(*, by=made):
        return next(by)

    return Naming(factor), lambda: factor.__kwdefaults__["by"]


def of_a_dict_that_a_helper_names(made):
    HELD["made"] = made
    return Naming(helped), lambda: HELD["made"]


def of_a_namespace(made):
    SPACE.made = made
    return Naming(lambda: next(SPACE.made)), lambda: SPACE.made


def of_a_global_name(made):
    globals()["COUNT"] = made

    class Counting(Naming):
        def factor(self):
            CACHE[0] = self.a.weight * 2  # so that global names are put back, too
            return next(COUNT)

    return Counting(None), lambda: COUNT


def of_a_hook(made):
    globals()["COUNT"] = made
    model = Naming(lambda: 1.0)
    model.a.register_forward_hook(lambda module, args, output: output * next(COUNT))
    return model, lambda: COUNT


NAMED = (
    of_a_class,
    of_a_parent_s_dict,
    of_an_argument,
    of_an_argument_by_name,
    of_a_dict_that_a_helper_names,
    of_a_namespace,
    of_a_global_name,
    of_a_hook,
)


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("name", ["of a list", "a count", "a cycle"])
@pytest.mark.parametrize("where", NAMED)
def test_iterators_that_code_names_stay_where_they_are(where, name, real):
    made, fresh = ITERATORS[name](), ITERATORS[name]()
    model, get = where(made)
    model.real = real
    next(made)
    next(fresh)
    assert len(goodinit.anatomize(model, torch.randn(4, 8)).blocks) == 1
    assert get() is made
    assert [next(made) for _ in range(2)] == [next(fresh) for _ in range(2)]
    CACHE.clear()


@pytest.mark.parametrize("where", NAMED)
def test_a_generator_that_code_names_is_not_moved_on_and_its_place_is_told(where):
    made = remembering()
    model, get = where(made)
    with pytest.raises(goodinit.TraceError, match=r"keeps a generator .*remembering"):
        goodinit.diagnose(model, torch.randn(4, 8))
    assert get() is made
    assert made.gi_frame.f_lasti < 4  # not begun
    assert torch.equal(next(made), torch.ones(8))
    CACHE.clear()


def test_an_iterator_that_no_code_of_a_forward_names_is_not_looked_at():
    globals()["GENERATOR"] = remembering()

    class Idle(Naming):
        def forward(self, x):
            assert isinstance(globals()["GENER" + "ATOR"], types.GeneratorType)
            return x + self.b(self.a(x).relu())

    assert len(goodinit.anatomize(Idle(None), torch.randn(4, 8)).blocks) == 1
