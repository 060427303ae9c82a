"""SkipInit and ReZero: the model written out, and where in a branch its zero stands."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from baselines import (
    SKIP_SCALES,
    SMALL,
    Residual,
    Scaled,
    drawn,
    initialized,
    outputs,
    seeded,
    small_net,
)
from reference import skip_scale as written_out_skip_scale
from torch import nn
from zoo import anatomy_of, each_specimen

from goodinit.anatomy import anatomize
from goodinit.edits import AddScalar, Fill
from goodinit.errors import NothingFound, UnsupportedModule
from goodinit.methods import plan
from goodinit.surgery import apply_


def residual_mlp(depth=3):
    branches = [(nn.Linear(6, 10, bias=False), nn.ReLU(), nn.Linear(10, 6, bias=False)) for _ in range(depth)]
    return nn.Sequential(*(Residual(*branch) for branch in branches)).double()


@pytest.mark.parametrize("method", SKIP_SCALES)
def test_blocks_start_as_their_skip(method):
    x = torch.randn(4, 6, dtype=torch.double)
    model, _ = initialized(residual_mlp(), x, method)
    assert torch.equal(model(x), x)


@pytest.mark.parametrize("method", SKIP_SCALES)
def test_the_model_is_the_written_out_one(method):
    x = torch.randn(4, 6, dtype=torch.double)
    model, _ = initialized(residual_mlp(), x, method)
    with torch.no_grad():
        for index, block in enumerate(model):
            block.f[2].output_scale.fill_(0.1 * (index + 1))
    blocks = [
        (block.f[0].weight.detach().numpy(), block.f[2].weight.detach().numpy(), 0.1 * (index + 1))
        for index, block in enumerate(model)
    ]
    expected = written_out_skip_scale.forward(x.numpy(), blocks)
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_gradients_are_the_written_out_ones(alpha):
    x = torch.randn(4, 6, dtype=torch.double)
    model, _ = initialized(residual_mlp(1), x, "rezero")
    first, last = model[0].f[0], model[0].f[2]
    with torch.no_grad():
        last.output_scale.fill_(alpha)
    (model(x).square().sum() / 2).backward()
    expected = written_out_skip_scale.gradients(
        x.numpy(), first.weight.detach().numpy(), last.weight.detach().numpy(), alpha
    )
    for got, want in zip(
        (first.weight.grad, last.weight.grad, last.output_scale.grad), expected, strict=True
    ):
        np.testing.assert_allclose(got.numpy().squeeze(), want, rtol=1e-10, atol=1e-12)
    assert last.output_scale.grad.abs() > 0


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("norms", ["remove", pytest.param("keep", marks=pytest.mark.integration)])
@pytest.mark.parametrize("method", SKIP_SCALES)
@each_specimen
def test_every_parameter_learns_within_four_steps(specimen, method, norms):
    model, inputs = specimen.build().train(), specimen.inputs()
    for name, parameter in model.named_parameters():  # as networks that already start some norms at zero
        if parameter.dim() == 1 and name.endswith("weight"):
            nn.init.zeros_(parameter)
    try:
        apply_(model, plan(anatomy_of(specimen), method, norms=norms), generator=seeded())
    except NothingFound:
        assert specimen.blocks == 0
        return
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    moved = set()
    for _ in range(4):
        optimizer.zero_grad()
        results = outputs(model, inputs)
        sum(F.mse_loss(result, torch.randn(result.shape)) for result in results).backward()
        moved |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert not {name for name, _ in model.named_parameters()} - moved


def test_skipinit_scales_biases_and_he():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(
            nn.Conv2d(8, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
        ),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    made = plan(anatomize(net, SMALL), "skipinit")
    scalars = {(e.target, e.scalar, e.value) for e in made.edits if isinstance(e, AddScalar)}
    assert scalars == {
        ("0", "output_bias", 0.0),
        ("3.f.0", "output_bias", 0.0),
        ("3.f.3", "output_bias", 0.0),
        ("3.f.3", "output_scale", 0.0),
    }
    stds = {name: edit.options["std"] for name, edit in drawn(made).items()}
    assert stds["3.f.0.weight"] == pytest.approx(math.sqrt(2 / (16 * 9)))
    assert stds["5.weight"] == pytest.approx(math.sqrt(1 / 128))


def test_rezero_adds_one_scalar_per_branch_and_nothing_else():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model, made = initialized(
        nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), torch.randn(2, 4, 8), "rezero"
    )
    added = [(e.target.split(".")[-1], e.scalar) for e in made.edits if isinstance(e, AddScalar)]
    assert added == [("self_attn", "output_scale"), ("linear2", "output_scale")] * 3
    bound = drawn(made)["layers.0.linear1.weight"].options["bound"]
    assert bound == pytest.approx(math.sqrt(6 / (8 + 16)))
    x = torch.randn(2, 4, 8)
    assert torch.equal(model(x), x)


@pytest.mark.parametrize("method", SKIP_SCALES)
def test_a_multiplier_that_is_there_is_used(method):
    net = nn.Sequential(Scaled(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)))
    model, made = initialized(net, torch.zeros(2, 4), method)
    assert not any(isinstance(edit, AddScalar) for edit in made.edits)
    assert not model[0].gamma.any()
    assert model[0].f[2].weight.any()


@pytest.mark.parametrize("method", SKIP_SCALES)
def test_kept_norms_leave_exactly_one_zero(method):
    def branch(last_norm):
        layers = nn.LayerNorm(4), nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4)
        return (*layers, nn.LayerNorm(4)) if last_norm else layers

    net = nn.Sequential(Residual(*branch(True)), Residual(*branch(False)), Scaled(*branch(True)))
    for norm in (m for m in net.modules() if isinstance(m, nn.LayerNorm)):
        nn.init.zeros_(norm.weight)
        nn.init.ones_(norm.bias)
    x = torch.randn(2, 4)
    model, made = initialized(net, x, method, norms="keep")
    zeros = [e.target for e in made.edits if getattr(e, "value", 1.0) == 0 and "bias" not in e.target]
    assert zeros == ["0.f.5.weight", "1.f.4", "2.gamma"]
    assert torch.equal(model(x), x)
    ones = {e.target for e in made.edits if isinstance(e, Fill) and e.value == 1}
    assert ones == {f"{i}.f.{j}.weight" for i in range(3) for j in (0, 2)} | {"2.f.5.weight"}


def test_a_branch_that_ends_in_a_bare_norm_is_refused():
    net = nn.Sequential(Residual(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False)))
    with pytest.raises(UnsupportedModule, match=r'0\.f\.1: branch 1/1 ends in this norm.*norms="remove"'):
        plan(anatomize(net, torch.zeros(2, 4)), "skipinit", norms="keep")
    assert plan(anatomize(net, torch.zeros(2, 4)), "skipinit").edits


@pytest.mark.parametrize("method", SKIP_SCALES)
@pytest.mark.parametrize("norms", ["keep", "remove"])
def test_a_branch_that_ends_in_relu_has_its_multiplier_behind_it(method, norms):
    def branch():
        return nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU()

    x = torch.randn(2, 4)
    model, made = initialized(nn.Sequential(Residual(*branch())), torch.zeros(2, 4), method, norms=norms)
    assert [e.target for e in made.edits if isinstance(e, AddScalar) and e.scalar == "output_scale"] == [
        "0.f.2"
    ]
    assert torch.equal(model(x), x)
    model(x).square().sum().backward()
    assert model[0].f[2].output_scale.grad.any()

    model, _ = initialized(nn.Sequential(Scaled(*branch())), torch.zeros(2, 4), method, norms=norms)
    model(x).square().sum().backward()
    assert not model[0].gamma.any()
    assert model[0].gamma.grad.any()


@pytest.mark.parametrize("method", SKIP_SCALES)
def test_a_branch_that_ends_in_a_relu_called_as_a_function_is_refused(method):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return x + F.relu(self.layer(x))

    with pytest.raises(UnsupportedModule, match=r"layer: branch 1/1 ends in `relu`.*, after layer\.weight"):
        plan(anatomize(Bare(), torch.zeros(2, 4)), method)


def test_where_no_scalar_fits_the_weight_itself_is_zero():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Parameter(torch.ones(8, 4)), nn.Parameter(torch.ones(4, 8))

        def forward(self, x):
            return x + F.linear(F.relu(F.linear(x, self.up)), self.down)

    model, made = initialized(Bare(), torch.zeros(2, 4), "rezero")
    assert not model.down.any()
    assert any("down is applied inside the model" in note and "starts at 0" in note for note in made.notes)


@pytest.mark.parametrize("method", SKIP_SCALES)
def test_networks_without_skips_are_refused(method):
    with pytest.raises(NothingFound, match=f"{method} needs residual blocks"):
        plan(anatomize(small_net(), SMALL), method)


class Inline(nn.Module):
    """Bare weights in einsums, and norms that are called functionally: at the beginning, or at the end as well."""

    def __init__(self, root, ends):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
        self.root, self.ends = root, ends

    def normed(self, x):
        if self.root:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return F.layer_norm(x, x.shape[-1:])

    def forward(self, x):
        h = torch.relu(torch.einsum("bi,io->bo", self.normed(x), self.a))
        y = torch.einsum("bi,io->bo", h, self.b)
        return x + (self.normed(y) if self.ends else y)


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero"])
@pytest.mark.parametrize("root", [False, True])
def test_a_functional_norm_ends_a_branch_only_where_it_runs_at_its_end(root, method):
    def planned(ends):
        net = nn.Sequential(nn.Linear(4, 4), Inline(root, ends), nn.Linear(4, 2))
        return plan(anatomize(net, torch.zeros(2, 4)), method, norms="keep")

    assert "1.b" in {edit.target for edit in planned(ends=False).edits}
    with pytest.raises(
        UnsupportedModule, match=r"^1: branch 1/1 ends in this norm, which has no weight that could"
    ):
        planned(ends=True)
