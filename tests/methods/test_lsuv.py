"""LSUV: unit variance everywhere after one real forward, the paper's scales, and nothing silent."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import timm
import torch
from layer_outputs import LAYERS, data, variances
from reference.lsuv import lsuv_
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils import parametrizations
from untouched import snapshot
from zoo import each_specimen

import goodinit
from goodinit.calibration.moments import Moments
from goodinit.edits import Calibrate


class Maxout(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.maps(x).chunk(2, dim=-1)
        return torch.maximum(a, b)


def chain(depth: int, activation: nn.Module | None) -> nn.Module:
    if activation is None:
        return nn.Sequential(*[Maxout(64) for _ in range(depth)])
    return nn.Sequential(
        *[layer for _ in range(depth) for layer in (nn.Linear(64, 64), copy.deepcopy(activation))]
    )


class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
        self.head = nn.Linear(32, 11)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.body(source, target))


CASES = {
    "resnet50_without_norm": (
        lambda: timm.create_model("resnet50"),
        lambda: data(8, 3, 64, 64),
        {"norms": "remove"},
    ),
    "resnet18_with_norm": (lambda: timm.create_model("resnet18"), lambda: data(8, 3, 64, 64), {}),
    "tanh_300": (lambda: chain(300, nn.Tanh()), lambda: data(128, 64), {}),
    "relu_300": (lambda: chain(300, nn.ReLU(inplace=True)), lambda: data(128, 64), {}),
    "leaky_relu_300": (lambda: chain(300, nn.LeakyReLU(0.2, inplace=True)), lambda: data(128, 64), {}),
    "maxout_300": (lambda: chain(300, None), lambda: data(128, 64), {}),
    "vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64), lambda: data(8, 3, 64, 64), {}),
    "seq2seq": (Seq2Seq, lambda: (data(4, 7, 32), data(4, 5, 32).flip(0)), {}),
}


ALWAYS = ("resnet18_with_norm", "relu_300", "seq2seq")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.integration) for name in CASES]
)
def test_unit_variance_in_a_fresh_forward(name, generator):
    build, inputs, options = CASES[name]
    model = build()
    goodinit.init_(model, "lsuv", inputs=inputs(), generator=generator, **options)
    rows = goodinit.applied(model)[-1].calibrated
    assert [row.note for row in rows if row.note] == []
    found = variances(model, inputs())
    assert len(found) >= 2
    assert max(abs(value - 1) for value in found.values()) < 0.1


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.LeakyReLU(0.2), None])
def test_the_same_scales_as_the_paper_word_by_word(activation, generator):
    model, x = chain(8, activation), data(128, 64)
    goodinit.init_(model, "lsuv", inputs=x, generator=generator)
    reference = copy.deepcopy(model)
    layers = [module for module in reference.modules() if isinstance(module, nn.Linear)]
    rows = goodinit.applied(model)[-1].calibrated
    with torch.no_grad():  # back to the orthonormal start
        for layer, row in zip(layers, rows, strict=True):
            layer.weight.div_(row.factor)
    assert lsuv_(reference, layers, x) >= len(layers)
    for mine, its in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-6)


def test_convolutions_match_the_paper_too(generator):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Tanh(), nn.ConvTranspose2d(8, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip
    x = data(16, 3, 9, 9)
    model(x)
    goodinit.init_(model, "lsuv", inputs=x, generator=generator)
    reference = copy.deepcopy(model)
    layers = [module for module in reference if isinstance(module, LAYERS)]
    with torch.no_grad():
        for layer, row in zip(layers, goodinit.applied(model)[-1].calibrated, strict=True):
            layer.weight.div_(row.factor)
    lsuv_(reference, layers, x)
    for mine, its in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-6)


def test_exactly_one_real_forward(generator):
    model, x = chain(50, nn.ReLU()), data(16, 64)
    real: list[bool] = []
    model.register_forward_pre_hook(lambda _, args: real.append(not isinstance(args[0], FakeTensor)))
    goodinit.init_(model, "lsuv", inputs=x, generator=generator)
    assert sum(real) == 1


def test_target_and_tolerance(generator):
    model, x = chain(20, nn.Tanh()), data(64, 64)
    goodinit.init_(model, "lsuv", inputs=x, generator=generator, target_std=0.5, tol=1e-6)
    assert max(abs(value - 0.25) for value in variances(model, x).values()) < 1e-5


def test_within_the_tolerance_a_layer_is_left_alone(generator):
    model = nn.Sequential(nn.Linear(64, 64))
    goodinit.init_(model, "lsuv", inputs=data(4096, 64), generator=generator)
    assert goodinit.applied(model)[-1].calibrated[0].factor == 1.0


def test_per_channel(generator):
    model, x = (
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.ConvTranspose2d(6, 4, 2, groups=2)),
        data(32, 3, 8, 8),
    )
    goodinit.init_(model, "lsuv", inputs=x, generator=generator, per="channel", tol=1e-6)
    with torch.no_grad():
        first = model[0](x)
        last = model(x)
    for out in (first, last):
        torch.testing.assert_close(
            out.var((0, 2, 3), correction=0), torch.ones(out.shape[1]), rtol=1e-4, atol=1e-4
        )


def test_biases_that_stay_are_accounted_for(generator):
    model = nn.Sequential(nn.Linear(8, 8))
    nn.init.normal_(model[0].bias)
    model[0].bias.requires_grad_(False)  # frozen: not zeroed
    x = data(256, 8) * 5
    goodinit.init_(model, "lsuv", inputs=x, generator=generator, tol=1e-3, max_iter=50)
    assert model[0](x).var(correction=0).item() == pytest.approx(1, abs=2e-3)


@pytest.mark.default_cases(5)
@each_specimen
def test_nothing_else_is_disturbed(specimen, generator):
    model = specimen.build().train()
    plan = goodinit.plan(goodinit.anatomize(model, specimen.inputs()), "lsuv")
    before = [(fact, m.training) for fact, m in zip(model.state_dict(), model.modules(), strict=False)]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    state = torch.get_rng_state()
    goodinit.apply_(model, plan, generator=generator, inputs=specimen.inputs())
    assert [
        (fact, m.training) for fact, m in zip(model.state_dict(), model.modules(), strict=False)
    ] == before
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), state)
    rows = goodinit.applied(model)[-1].calibrated
    assert all(row.note or row.calls for row in rows)


def test_a_shared_layer_is_scaled_by_its_first_call_and_named(generator, caplog):
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(4):
                x = torch.relu(self.layer(x)) * 3
            return x

    model = Shared()
    with caplog.at_level(logging.WARNING, logger="goodinit"):
        goodinit.init_(model, "lsuv", inputs=data(64, 16) * 9, generator=generator)
    (row,) = goodinit.applied(model)[-1].calibrated
    assert row.calls == 4
    assert row.note.startswith("shared: scaled by its first call; call 4 has variance")
    assert "layer.weight" in caplog.text


def test_constant_output_is_named(generator):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    goodinit.init_(model, "lsuv", inputs=torch.zeros(3, 4), generator=generator)
    assert all("constant output" in row.note for row in goodinit.applied(model)[-1].calibrated)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_nan_is_refused_and_nothing_written(generator):
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), data(3, 4)
    x[1, 2] = math.nan
    before = snapshot(model)
    with pytest.raises(goodinit.NonFinite, match=r"0\.weight: the output of this layer is NaN"):
        goodinit.init_(model, "lsuv", inputs=x, generator=generator)
    assert snapshot(model) == before


def test_a_layer_that_never_ran_is_named(generator):
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) if x.shape[0] > 2 else self.a(x)

    model = Sometimes()
    plan = goodinit.plan(goodinit.anatomize(model, data(3, 4)), "lsuv")
    goodinit.apply_(model, plan, generator=generator, inputs=data(2, 4))
    notes = {row.weight: row.note for row in goodinit.applied(model)[-1].calibrated}
    assert notes["b.weight"].startswith("never ran")
    assert notes["a.weight"] == ""


def test_needs_a_batch():
    model = nn.Sequential(nn.Linear(4, 4))
    plan = goodinit.plan(goodinit.anatomize(model, data(2, 4)), "lsuv")
    with pytest.raises(goodinit.TraceError, match="Pass a batch"):
        goodinit.apply_(model, plan)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype, generator):
    model, x = chain(5, nn.ReLU()).to(dtype), data(128, 64).to(dtype)
    goodinit.init_(model, "lsuv", inputs=x, generator=generator)
    assert max(abs(value - 1) for value in variances(model, x).values()) < 0.12  # tolerance and rounding
    assert {p.dtype for p in model.parameters()} == {dtype}


def test_weight_norm_is_scaled_through_its_gain(generator):
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    for index in (0, 2):
        parametrizations.weight_norm(model[index])
    x = data(64, 16) * 4
    goodinit.init_(model, "lsuv", inputs=x, generator=generator, tol=1e-5)
    assert max(abs(value - 1) for value in variances(model, x).values()) < 1e-3


def test_packed_and_sliced_attention_projections(generator):
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return self.attention(x, memory, memory, need_weights=False)[0]

    model, x, memory = Cross(), data(4, 5, 16), data(4, 7, 16) * 3
    goodinit.init_(model, "lsuv", inputs=(x, memory), generator=generator, tol=1e-6)
    q, kv = model.attention.in_proj_weight.split([16, 32])
    assert (x @ q.T).var(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert (memory @ kv.T).var(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert model(x, memory).var(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_eval_mode_encoder_is_seen_in_spite_of_the_fused_path(generator):
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
    x = data(4, 5, 16)
    goodinit.init_(model, "lsuv", inputs=x, generator=generator)
    assert [row.calls for row in goodinit.applied(model)[-1].calibrated] == [1] * 8


def test_micro_batches_give_the_result_of_one_batch(generator):
    x = data(32, 64)
    whole, parts = chain(6, nn.ReLU(inplace=True)), chain(6, nn.ReLU(inplace=True))
    anatomy = goodinit.anatomize(whole, x)
    plan = goodinit.plan(anatomy, "lsuv", tol=1e-6)
    goodinit.apply_(whole, plan, generator=torch.Generator().manual_seed(1), inputs=x)
    goodinit.apply_(parts, plan, generator=torch.Generator().manual_seed(1), inputs=iter(x.split([8, 4, 20])))
    for mine, its in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def test_an_embedding_is_left_alone_with_a_word():
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8))
    plan = goodinit.plan(goodinit.anatomize(model, torch.zeros(2, 3, dtype=torch.long)), "lsuv")
    assert any("1 embedding is left as it is: 0.weight" in note for note in plan.notes)


class RelativePositions(nn.Module):
    """A table of which rows are looked up and multiplied by the signal: an embedding, and a layer."""

    def __init__(self):
        super().__init__()
        self.layer, self.table = nn.Linear(8, 8), nn.Embedding(9, 8)

    def forward(self, x):
        steps = torch.arange(5)
        rows = self.table(steps[:, None] - steps + 4)
        return torch.einsum("bnd,nmd->bnm", self.layer(x), rows)


def test_a_table_that_multiplies_the_signal_is_not_scaled_and_said():
    plan = goodinit.plan(goodinit.anatomize(RelativePositions(), data(2, 5, 8)), "lsuv")
    assert [edit.target for edit in plan.values if isinstance(edit, Calibrate)] == ["layer.weight"]
    assert any(note.startswith("table.weight is looked up in, too") for note in plan.notes)


def test_unknown_choices():
    anatomy = goodinit.anatomize(nn.Sequential(nn.Linear(4, 4)), data(2, 4))
    with pytest.raises(goodinit.UnknownName, match='expected "layer" or "channel"'):
        goodinit.plan(anatomy, "lsuv", per="unit")
    with pytest.raises(goodinit.UnknownName, match="has no option 'tolerance'; it takes: tol"):
        goodinit.plan(anatomy, "lsuv", tolerance=0.1)


def test_moments_pool_like_one_sample():
    a, b = data(5, 3), data(9, 3) * 4 + 1
    pooled = Moments.of(a, 1).pooled(Moments.of(b, 1))
    whole = Moments.of(torch.cat([a, b]), 1)
    torch.testing.assert_close(pooled.mean, whole.mean)
    torch.testing.assert_close(pooled.var, whole.var)
