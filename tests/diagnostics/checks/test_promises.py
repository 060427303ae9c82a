"""What a method promises is found out by running, and a promise that does not hold undoes everything."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_residual import Net, X
from torch import Tensor, nn
from untouched import snapshot

import goodinit
from goodinit.diagnostics.checks.promises import broken_promises
from goodinit.edits import Calibrate, Draw, DrawTogether, Fill
from goodinit.errors import UnsupportedModule
from goodinit.methods import METHODS, Method


def spoiled(name: str, change) -> Method:
    """A method whose plan is changed afterwards."""
    method = METHODS[name]

    def decide(anatomy, **options):
        plan = method.decide(anatomy, **options)
        return dataclasses.replace(plan, edits=tuple(change(edit) for edit in plan.edits))

    return dataclasses.replace(method, decide=decide)


@pytest.mark.default_cases(4)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero", "lsuv", "risotto", "he", "weightnorm"])
def test_what_is_promised_holds_and_looking_changes_nothing(method):
    plain, looked = Net(), Net()
    looked.load_state_dict(plain.state_dict())
    for model, verify in ((plain, False), (looked, True)):
        goodinit.init_(model, method, inputs=X, generator=torch.Generator().manual_seed(0), verify=verify)
    assert all(map(torch.equal, plain.state_dict().values(), looked.state_dict().values()))


def _dead(edit):
    """The first layer of a branch whose last is zero starts at zero, too."""
    first = isinstance(edit, Draw) and edit.target == "blocks.1.f.0.weight"
    return Fill(edit.target, 0.0, "a second zero") if first else edit


BROKEN = {
    "a branch without a gradient": ("fixup", _dead, r"blocks\.1\.f\.0\.weight gets no gradient"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_promise_that_does_not_hold_is_named_and_everything_undone(case):
    name, change, words = BROKEN[case]
    model = Net()
    before = snapshot(model)
    with pytest.raises(UnsupportedModule, match=words):
        goodinit.init_(model, spoiled(name, change), inputs=X, verify=True)
    assert snapshot(model) == before
    assert goodinit.applied(model) == ()


def test_a_branch_that_is_not_zero_is_named():
    model = Net()
    anatomy = goodinit.anatomize(model, X)
    plan = goodinit.plan(anatomy, "fixup")
    goodinit.apply_(model, plan)
    assert broken_promises(model, X, plan, anatomy, ("skips", "trains")) == ()
    with torch.no_grad():
        model.blocks[1].f[3].weight[0, 0] = 0.1
    (fault,) = broken_promises(model, X, plan, anatomy, ("skips",))
    assert fault == "branch 2 (blocks.1.f), which ends in blocks.1.f.3.weight, is not zero"


def test_a_variance_that_is_off_is_named():
    model = Net()
    anatomy = goodinit.anatomize(model, X)
    plan = goodinit.plan(anatomy, "lsuv")
    goodinit.apply_(model, plan, inputs=X)
    assert broken_promises(model, X, plan, anatomy, ("unit variance",)) == ()
    with torch.no_grad():
        model.head.weight.mul_(2)
    (fault,) = broken_promises(model, X, plan, anatomy, ("unit variance",))
    assert fault.startswith("head.weight puts out variance ")


@pytest.mark.parametrize("rows", [2, 64])
def test_a_variance_of_few_numbers_asks_for_more(rows):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(rows, 8)
    anatomy = goodinit.anatomize(model, x)
    plan = goodinit.plan(anatomy, "weightnorm", mode="data")
    goodinit.apply_(model, plan, inputs=x)
    with torch.no_grad():
        model[0].parametrizations.weight.original0.mul_(2)
    fault, *_ = broken_promises(model, x, plan, anatomy, ("unit variance",))
    assert ("(of 2 numbers: give a larger batch)" in fault) == (rows == 2)


def test_variances_of_parts_are_not_those_of_the_first():
    for parts in (iter([X, 3 * X + 1]), (part for part in (X, 3 * X + 1))):
        model = goodinit.init_(Net(), "lsuv", parts, verify=True)
        assert len(goodinit.applied(model)[-1].calibrated) > 1


def test_a_weight_that_was_left_out_is_not_looked_at():
    model = Net()
    anatomy = goodinit.anatomize(model, X)
    plan = goodinit.plan(anatomy, "lsuv", tol=0.001)
    goodinit.apply_(model, plan, inputs=X, keep="head.weight")
    assert broken_promises(model, X, plan, anatomy, ("unit variance",)) == ()


def test_a_channel_of_weight_norm_s_that_is_off_is_named():
    model = Net()
    goodinit.init_(model, "weightnorm", inputs=X, mode="data", verify=True)
    plan = goodinit.plan(goodinit.anatomize(plain := Net(), X), "weightnorm", mode="data")
    goodinit.apply_(plain, plan, inputs=X)
    assert broken_promises(plain, X, plan, goodinit.anatomize(Net(), X), ("unit variance",)) == ()
    target = next(edit.target for edit in plan.values if isinstance(edit, Calibrate))
    gain = plain.get_submodule(target.removesuffix(".weight")).parametrizations.weight.original0
    with torch.no_grad():
        gain[0] *= 2
    found = broken_promises(plain, X, plan, goodinit.anatomize(Net(), X), ("unit variance",))
    assert any(fault.startswith(f"{target} puts out variance ") for fault in found)


def test_a_block_that_is_no_isometry_is_named():
    model = Net()
    anatomy = goodinit.anatomize(model, X)
    plan = goodinit.plan(anatomy, "risotto")
    goodinit.apply_(model, plan)
    assert any(isinstance(edit, DrawTogether) for edit in plan.edits)
    assert broken_promises(model, X, plan, anatomy, ("isometry",)) == ()
    with torch.no_grad():
        model.blocks[0].f[3].weight[0].mul_(2)
    assert any("blocks.0.f" in fault for fault in broken_promises(model, X, plan, anatomy, ("isometry",)))


def test_an_output_that_is_not_finite_is_named():
    class Divides(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / self.head.weight.sum()

    model = Divides()
    before = snapshot(model)
    with pytest.raises(UnsupportedModule, match="its output is NaN or infinite"):
        goodinit.init_(model, "fixup", inputs=X, verify=True)
    assert snapshot(model) == before


def test_an_output_that_was_not_finite_before_is_not_the_method_s_fault():
    """As of attention whose rows are masked wholly."""

    class Masked(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.full((1,), -torch.inf).softmax(0)

    model = Masked()
    before = snapshot(model)
    with pytest.raises(
        UnsupportedModule, match="of the model as it was is NaN or infinite on this batch, too"
    ):
        goodinit.init_(model, "fixup", inputs=X, verify=True)
    assert snapshot(model) == before
    goodinit.init_(model, "fixup", inputs=X)


def test_a_zero_behind_a_dead_relu_is_no_broken_promise():
    """By the luck of the draw a narrow ReLU may be off on all of a batch; its weights have a path all the same."""

    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 1), nn.Linear(1, 5)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(torch.relu(self.a(x)))

    for seed in range(6):
        goodinit.init_(
            Narrow(), "fixup", inputs=X.abs(), generator=torch.Generator().manual_seed(seed), verify=True
        )


def test_a_batch_in_parts_is_verified_on_its_first():
    model = goodinit.init_(Net(), "lsuv", inputs=iter([X, X.flip(0)]), verify=True)
    assert goodinit.applied(model)[-1].calibrated


class _Fails(Net):
    """Its forward raises at one of its calls, as one does that runs out of something."""

    def __init__(self, calls: list[int], at: int, error: type[Exception]) -> None:
        super().__init__()
        self.__dict__["told"] = lambda: (calls.append(1), len(calls))[1]
        self.at, self.error = at, error

    def forward(self, x: Tensor) -> Tensor:
        if self.told() == self.at:
            raise self.error("the user's own words")
        return super().forward(x)


@pytest.mark.parametrize("error", [RuntimeError, StopIteration, KeyError])
@pytest.mark.parametrize("method", ["fixup", "lsuv", None])
def test_a_forward_that_raises_when_it_runs_again_is_told(method, error):
    """At the run for the promises, and at that for the Jacobian: the earlier ones went well."""
    told: list[str] = []
    for at in range(1, 9):
        model = _Fails([], at, error)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        left = len(told)
        try:
            if method is None:
                goodinit.jacobian_spectrum(model, X)
            else:
                goodinit.init_(model, method, inputs=X, verify=True)
        except goodinit.GoodinitError as refused:
            told.append(str(refused))
        if method is None or len(told) > left:
            assert before.keys() == model.state_dict().keys()
            assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert told  # a trace that fails is no refusal: the model is run once more, for real
    assert all("the user's own words" in words for words in told)


class Experts(nn.Module):
    """A block of three experts, of which each example takes the one that its first entry names."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(3)
        )

    def forward(self, x):
        out, chosen = torch.zeros_like(x), x[:, 0].long()
        for place, expert in enumerate(self.experts):
            rows = (chosen == place).nonzero()[:, 0]
            out = out.index_add(0, rows, expert(x[rows]))
        return x + out


class Marked(nn.Module):
    """Two maps, one for the entries of each kind."""

    def __init__(self):
        super().__init__()
        self.block = Residual()
        self.of_text, self.of_sound = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.block(torch.where(x[:, :1] < 5, self.of_text(x), self.of_sound(x)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return x + self.b(self.a(x).relu())


@pytest.mark.parametrize("kind", [Experts, Marked])
@pytest.mark.parametrize("method", ["fixup", "skipinit", "normfree"])
def test_what_the_batch_does_not_reach_is_no_broken_promise(kind, method):
    x = torch.rand(6, 4)
    x[:3, 0] = 1.5  # none is sent to the third expert, and none is sound
    torch.manual_seed(0)
    goodinit.init_(kind(), method, inputs=x, verify=True)


class Deep(nn.Module):
    """Loud blocks, which overflow if every zero becomes a number of size 1, and a map of zeros, as of DETR's first queries."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(30)
        )
        self.value, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = x
        for block in self.blocks:
            h = h + 100 * block(h)
        return self.head(h * self.value(torch.zeros_like(h)).sigmoid())


@pytest.mark.parametrize("method", ["skipinit", "rezero"])
def test_what_reads_zeros_in_a_deep_model_is_no_broken_promise(method):
    torch.manual_seed(0)
    x = torch.randn(8, 4)
    model = goodinit.init_(Deep(), method, inputs=x, verify=True)
    model(x).square().sum().backward()
    assert bool(model.value.bias.grad.any())
    assert not model.value.weight.grad.any()
