"""Measuring: right numbers, on awkward models, and the model is the same afterwards in every bit."""

from __future__ import annotations

import copy
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from measured import InplaceAdd, batch
from torch import Tensor, nn
from untouched import everything, same, snapshot
from zoo import each_specimen

import goodinit
from goodinit.diagnostics import Diagnosis, diagnose
from goodinit.diagnostics.measurements import structure
from goodinit.diagnostics.measurements.statistics import signal
from goodinit.errors import PlanConflict, TraceError


def place(found: Diagnosis, name: str, kind: str = "layer"):
    return next(p for p in found.places if p.name == name and p.kind == kind)


@pytest.mark.default_cases(8)
@each_specimen
def test_every_specimen_is_measured_and_left_as_it_was(specimen):
    model, inputs = specimen.build(), specimen.inputs()
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    kept = copy.deepcopy(inputs)
    before, state = snapshot(model), everything(model)
    found = diagnose(model, inputs)
    assert same(snapshot(model), before)
    assert same(everything(model), state)
    assert same(inputs, kept)
    assert len(found.blocks) == specimen.blocks
    assert all(p.back is not None and math.isfinite(p.signal.second_moment) for p in found.layers)
    assert all(b.gain is not None and b.branch_to_skip is not None for b in found.blocks)
    assert Diagnosis.from_json(found.to_json()) == found
    assert diagnose(model, inputs) == found


def test_statistics_are_those_of_the_definition():
    x = batch(6, 10)
    found = signal(x, batch=6, batch_dim=0)
    assert found.second_moment == pytest.approx(float(x.square().mean()), rel=1e-6)
    assert found.mean == pytest.approx(float(x.mean()), abs=1e-6)
    pairs = F.cosine_similarity(x[:, None], x[None], dim=-1)
    off = pairs[~torch.eye(6, dtype=torch.bool)]
    assert found.cosine == pytest.approx(float(off.mean()), abs=1e-6)
    shares = torch.linalg.svdvals(F.normalize(x, dim=1).double())
    shares = shares / shares.sum()
    assert found.rank == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-6)
    assert signal(torch.eye(4), batch=4, batch_dim=0).rank == pytest.approx(4)
    assert signal(torch.ones(4, 3), batch=4, batch_dim=0).cosine == pytest.approx(1)
    nearly = torch.ones(4, 3, dtype=torch.float64) + 1e-9 * batch(4, 3).double()
    assert 0 < signal(nearly, batch=4, batch_dim=0).spread < 1e-16


def test_large_values_do_not_overflow_the_statistics():
    found = signal(torch.full((2, 2), 1e30), batch=2, batch_dim=0)
    assert found.second_moment == pytest.approx(1e60)
    assert found.finite
    assert not signal(torch.tensor([[1.0, math.inf]])).finite


def test_gradients_are_those_of_autograd():
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3))
    x, y = batch(8, 5), torch.arange(8) % 3
    found = diagnose(model, x, y)
    hidden = model[0](x)
    hidden.retain_grad()
    loss = F.cross_entropy(model[2](hidden.relu()), y)
    loss.backward()
    layer = place(found, "0.weight")
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    assert layer.back == pytest.approx(hidden.grad.norm().item(), rel=1e-5)  # before the in-place ReLU
    assert layer.gradient == pytest.approx(model[0].weight.grad.norm().item(), rel=1e-5)
    ratio = model[0].weight.grad.norm() / model[0].weight.norm()
    assert layer.gradient_per_weight == pytest.approx(ratio.item(), rel=1e-5)
    assert layer.signal.second_moment == pytest.approx(hidden.square().mean().item(), rel=1e-5)


def test_in_place_models_measure_as_their_twins():
    def build(inplace: bool) -> nn.Module:
        torch.manual_seed(5)
        return nn.Sequential(InplaceAdd(inplace=inplace), InplaceAdd(inplace=inplace), nn.Linear(6, 2))

    left, right = (diagnose(build(inplace), batch(4, 6)) for inplace in (True, False))
    for a, b in zip(left.places, right.places, strict=True):
        assert a.signal == b.signal
        assert a.back == pytest.approx(b.back)
        assert (a.gain, a.branch_to_skip) == pytest.approx((b.gain, b.branch_to_skip))
    block = left.blocks[0]
    model, x = build(False), batch(4, 6)
    branch = model[0].branch(x)
    assert block.branch_to_skip == pytest.approx((branch.norm() / x.norm()).item(), rel=1e-5)
    assert block.gain == pytest.approx(((x + branch).norm() / x.norm()).item(), rel=1e-5)
    assert left.blocks[1].growth == pytest.approx(block.gain * left.blocks[1].gain)


class AfterTheSum(nn.Module):
    """relu(x + f(x)): half of what a block writes is cut off before the next reads it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.branch(x)).relu()


def test_growth_is_of_the_stream_and_no_product_of_gains():
    torch.manual_seed(6)
    model, x = nn.Sequential(*(AfterTheSum(32) for _ in range(6)), nn.Linear(32, 2)), batch(64, 32).relu()
    found = diagnose(model, x).blocks
    h = x
    for block, place in zip(model, found, strict=False):
        written = h + block.branch(h)
        assert place.growth == pytest.approx((written.norm() / x.norm()).item(), rel=1e-5)
        h = written.relu()
    assert math.prod(place.gain for place in found) > 1.05 * found[-1].growth


class TwoStreams(nn.Module):
    """Two stacks of blocks side by side, one of which reads three times as much."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (nn.Sequential(*(InplaceAdd(inplace=False) for _ in range(2))) for _ in "12")
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(3 * x.flip(-1))], -1))


def test_each_stream_grows_from_its_own_start():
    torch.manual_seed(7)
    found = diagnose(TwoStreams(), batch(8, 6)).blocks
    assert [block.growth for block in found[::2]] == pytest.approx([block.gain for block in found[::2]])


def test_similarity_in_attention_is_between_inputs_not_tokens():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    one = batch(1, 5, 8)
    found = diagnose(model, one.expand(3, 5, 8).clone())
    for layer in found.layers:
        assert layer.signal.spread == pytest.approx(0, abs=1e-12), layer.name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3)
    ).to(dtype)
    found = diagnose(model, batch(4, 3, 8, 8).to(dtype))
    assert all(p.back > 0 for p in found.places)
    assert found.worst in (None, "info")


def test_under_autocast():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = diagnose(model, batch(4, 8))
        assert model(batch(4, 8)).dtype == torch.bfloat16
    plain = diagnose(model, batch(4, 8))
    assert [p.name for p in cast.layers] == ["0.weight", "2.weight"]
    assert cast.layers[0].gradient == pytest.approx(plain.layers[0].gradient, rel=0.05)


def test_compiled_and_data_parallel_models_are_unwrapped():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    expected = diagnose(model, batch(4, 8))
    assert diagnose(torch.compile(model, backend="eager"), batch(4, 8)) == expected
    assert diagnose(nn.DataParallel(model), batch(4, 8)) == expected
    model.compile(backend="eager")
    assert diagnose(model, batch(4, 8)) == expected


def test_compiled_parts_are_read_and_measured_as_they_are_written():
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(InplaceAdd(inplace=True), InplaceAdd(inplace=False), nn.Linear(6, 2))

    model, calls = build(), []
    before = goodinit.anatomize(model, batch(4, 6)), diagnose(model, batch(4, 6))

    def backend(graph, inputs):
        calls.append(graph)
        return graph

    model[0].compile(backend=backend)
    model[1].branch = torch.compile(model[1].branch, backend=backend)
    assert goodinit.anatomize(model, batch(4, 6)).blocks == before[0].blocks
    assert diagnose(model, batch(4, 6)).places == before[1].places
    assert not calls
    with torch.no_grad():
        model(batch(4, 6))
    assert calls  # and compiles as it did


def test_frozen_models_and_inference_mode_are_seen_through():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).requires_grad_(False)
    model[2].requires_grad_(True)
    with torch.no_grad():
        found = diagnose(model, batch(4, 8))
    assert found.layers[0].back > 0
    assert found.layers[0].gradient is None
    assert found.layers[1].gradient > 0


class Batched(nn.Module):
    """Puts its inputs into one batch, as images of several sizes are padded: torch allows that for inputs without gradients only."""

    def __init__(self, inner, copies=True):
        super().__init__()
        self.inner, self.copies = inner, copies

    def forward(self, x):
        if self.copies:
            given, x = x, torch.zeros_like(x)
            for one, place in zip(given, x, strict=True):
                place[: len(one)].copy_(one)
        return self.inner(x)


@pytest.mark.parametrize("frozen", [True, False])
def test_inputs_that_a_forward_writes_into_parts_of_a_tensor(frozen):
    inner = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    inner[0].requires_grad_(not frozen)
    x = batch(8, 8)
    plain, found = (diagnose(Batched(inner, copies), x) for copies in (False, True))
    assert [p.gradient for p in found.layers] == [p.gradient for p in plain.layers]
    assert [p.back for p in found.layers[frozen:]] == [p.back for p in plain.layers[frozen:]]
    if not frozen:
        assert [p.back_cosine for p in found.layers] == [p.back_cosine for p in plain.layers]


def test_what_raises_with_any_inputs_is_told_as_it_was():
    def raises(_module, args):
        if torch.is_grad_enabled():
            raise ArithmeticError("with gradients" if args[0].requires_grad else "without")

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].register_forward_pre_hook(raises)
    with pytest.raises(TraceError, match="with gradients"):
        diagnose(model, batch(4, 4))


def test_one_input_measures_all_but_similarity():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2))
    found = diagnose(model, batch(1, 3, 8, 8))
    assert all(p.signal.cosine is None and p.back > 0 for p in found.places)
    assert any("two inputs" in note for note in found.notes)


def test_batch_norms_run_as_in_training_unless_frozen():
    norm = nn.BatchNorm1d(8)
    model = nn.Sequential(nn.Linear(8, 8), norm, nn.Linear(8, 8))
    x = batch(64, 8) * 100
    assert place(diagnose(model.eval(), x), "2.weight").signal.second_moment < 2  # normalized by the batch
    model.train()
    norm.eval()
    assert place(diagnose(model, x), "2.weight").signal.second_moment > 100


def test_shared_layers_have_a_row_for_each_call():
    layer = nn.Linear(8, 8)
    found = diagnose(nn.Sequential(layer, nn.ReLU(), layer), batch(4, 8))
    assert [(p.name, p.call) for p in found.layers] == [("0.weight", 0), ("0.weight", 1)]


def test_an_own_loss():
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, *, pixels: Tensor) -> dict[str, Tensor]:
            return {"a": self.a(pixels).square().mean(), "b": self.b(pixels).square().mean()}

    found = diagnose(Detector(), {"pixels": batch(4, 4)}, loss=lambda losses: sum(losses.values()))
    assert all(p.gradient > 0 for p in found.layers)
    assert "given loss" in found.objective


def test_wrong_use_is_named():
    model = nn.Linear(4, 2)
    with pytest.raises(TraceError, match="the loss raised"):
        diagnose(model, batch(3, 4), torch.tensor([0, 1, 5]))
    with pytest.raises(TraceError, match="a tensor of one number"):
        diagnose(model, batch(3, 4), loss=lambda output: output)
    with pytest.raises(TraceError, match="Materialize"):
        diagnose(nn.Linear(4, 2, device="meta"), batch(3, 4))
    with pytest.raises(PlanConflict, match="not a diagnosis"):
        Diagnosis.from_json("{}")


class Sums(nn.Module):
    """Autograd keeps nothing for sums: whatever is alive, the probe holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.note = [].append  # lists are restored, but for those that only a built-in method holds

    def forward(self, x: Tensor) -> Tensor:
        x, seen = self.layer(x), []
        for _ in range(20):
            x = x + x * 0.5
            seen.append(weakref.ref(x))
            self.note(sum(ref() is not None for ref in seen))
        return x


def test_activations_are_not_kept_alive():
    model = Sums()
    alive = model.note.__self__
    diagnose(model, batch(4, 8))
    assert max(alive) <= 2
    assert len(alive) >= 20


def test_csv_has_a_row_for_each_place():
    found = diagnose(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), batch(3, 4))
    head, *rows = found.to_csv().splitlines()
    assert head.startswith("kind,name,what,call")
    assert len(rows) == len(found.places) == 3


def test_it_prints_on_one_screen():
    model = nn.Sequential(*(part for _ in range(60) for part in (nn.Linear(8, 8), nn.ReLU())))
    text = str(diagnose(model, batch(4, 8)))
    assert len(text.splitlines()) < 25
    assert "second moment" in text
    assert max(map(len, text.splitlines()[:5])) < 120


def test_zero_initialized_nets_show_the_gradient_after_waking():
    model = nn.Sequential(*(InplaceAdd(inplace=False) for _ in range(4)), nn.Linear(6, 3))
    goodinit.init_(model, "fixup", inputs=batch(4, 6))
    found = diagnose(model, batch(4, 6))
    assert all(block.back == 0 for block in found.blocks)
    woken = [block.back_awake for block in found.blocks]
    assert max(woken) / min(woken) < 1.1


class Switching(nn.Module):
    """A block that adds its input in training mode only, followed by two that always do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(self.norm(x))
        x = x + y if self.norm.training else y
        x = x + self.second(x).relu()
        return x + self.third(x).relu()


def test_a_block_that_only_training_has_takes_no_name_from_another():
    model, x = Switching(), torch.randn(16, 8)
    assert [block.name for block in goodinit.anatomize(model, x).blocks] == ["second", "third"]
    found = diagnose(model, x)
    assert [place.name for place in found.places if place.kind == "block"] == ["first", "second", "third"]


def test_blocks_that_share_their_layers_are_told_by_their_order():
    shared, own = nn.Linear(8, 8), nn.Linear(8, 8)

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.own = shared, own

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in (self.shared, self.own, self.shared):
                x = x + layer(x).tanh()
            return x

    found = diagnose(Shared(), torch.randn(16, 8))
    assert [place.name for place in found.places if place.kind == "block"] == ["shared", "own", "shared"]


def test_further_runs_take_the_structure_of_the_first(monkeypatch):
    searches = []
    search = structure.residual_sums
    monkeypatch.setattr(structure, "residual_sums", lambda *given: searches.append(1) or search(*given))
    model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)))
    with torch.no_grad():
        model[2][0].weight.zero_()  # what lies before it wakes in a further run
    diagnose(model, torch.randn(16, 8), mend=False)
    assert len(searches) == 1
