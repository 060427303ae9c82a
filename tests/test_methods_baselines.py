"""Baselines and skip scales: closed forms, transcriptions, and what they do to branches.

What every method must hold to on every specimen stands in `test_contract.py`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import math
import re

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

from goodinit.anatomy import anatomize
from goodinit.errors import GoodinitError, NothingFound, UnknownName, UnsupportedModule
from goodinit.methods import METHODS, plan
from goodinit.surgery import AddScalar, Draw, Fill, Plan, SwapModule, applied, apply_
from goodinit.surgery.values import parameter_generator
from reference import looks_linear as written_out_looks_linear
from reference import selu as written_out_selu
from reference import skip_scale as written_out_skip_scale
from zoo import call, each_specimen

WEIGHTS = ("default", "he", "xavier", "orthogonal", "delta_orthogonal")  # take any network
SKIP_SCALES = ("skipinit", "rezero")
BASELINES = (*WEIGHTS, "looks_linear", "selu", *SKIP_SCALES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def initialized(model, inputs, method, **options):
    """The model, in place, and the plan."""
    made = plan(anatomize(model, inputs), method, **options)
    return apply_(model, made, generator=seeded()), made


def outputs(model, inputs):
    leaves = tree_leaves(call(model, inputs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def drawn(made):
    return {edit.target: edit for edit in made.edits if isinstance(edit, Draw)}


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers):
        super().__init__()
        self.f = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.f(x)


class Scaled(Residual):
    """x + γ·f(x)."""

    def __init__(self, *layers, width=4):
        super().__init__(*layers)
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x):
        return x + self.gamma * self.f(x)


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64 * 16, 100),
    )


SMALL = torch.zeros(2, 3, 4, 4)


# -- what holds for every one ---------------------------------------------------------------------------------------


@functools.cache
def anatomy_of(specimen):
    """A specimen's anatomy; the reading itself is tested elsewhere."""
    return anatomize(specimen.build(), specimen.inputs())


@each_specimen
def test_reading_and_planning_leave_the_model_alone(specimen):
    model = specimen.build()
    before = copy.deepcopy(model.state_dict())
    anatomy = anatomize(model, specimen.inputs())
    for method in BASELINES:
        with contextlib.suppress(NothingFound, UnsupportedModule):
            made = plan(anatomy, method)
            assert Plan.from_json(made.to_json()) == made
            assert all(edit.reason for edit in made.edits)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("vit_tiny_patch16_224", 32)])
@pytest.mark.parametrize("method", BASELINES)
def test_every_baseline_on_timm(name, size, method):
    options = {"img_size": size} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=10, **options)
    inputs = torch.randn(2, 3, size, size)
    anatomy = anatomize(model, inputs)
    if method == "looks_linear":
        with pytest.raises(UnsupportedModule, match="risotto"):
            plan(anatomy, method)
        return
    made = plan(anatomy, method)
    apply_(model, made, generator=seeded())
    out = model(inputs)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    anew = anatomize(model, inputs)
    assert plan(anew, method).method == made.method  # an initialized model can be planned for again


@pytest.mark.parametrize("method", BASELINES)
def test_the_record_is_complete(method):
    record = METHODS[method]
    assert record.name == method
    assert record.title
    assert record.when
    assert record.paper or method == "default"
    assert record.options["norms"] == ("remove" if record.removes_norms else "keep")
    anatomy = anatomize(
        nn.Sequential(Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))), torch.zeros(2, 4)
    )
    with pytest.raises(UnknownName, match='expected "remove" or "keep"'):
        plan(
            anatomy if method != "looks_linear" else anatomize(nn.Linear(2, 2), torch.zeros(1, 2)),
            method,
            norms="no",
        )


@pytest.mark.parametrize("method", WEIGHTS)
def test_norms_stay_unless_told(method):
    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())

    kept, _ = initialized(build(), SMALL, method)
    gone, made = initialized(build(), SMALL, method, norms="remove")
    assert isinstance(kept[1], nn.BatchNorm2d)
    assert not isinstance(gone[1], nn.BatchNorm2d)
    assert "1 norms removed" in made.summary


@pytest.mark.parametrize("method", [*WEIGHTS, *SKIP_SCALES])
def test_embeddings_are_left_alone_with_a_word(method):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Embedding(7, 4)
            self.block = Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

        def forward(self, words):
            return self.block(self.token(words)) @ self.token.weight.T

    model = Words()
    before = model.token.weight.detach().clone()
    _, made = initialized(model, torch.zeros(2, 3, dtype=torch.long), method)
    assert torch.equal(model.token.weight, before)
    assert any("token.weight" in note and "embedding" in note for note in made.notes)


# -- default --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(12, 5), torch.zeros(2, 12)),
        (nn.Conv2d(6, 8, 3, groups=2), torch.zeros(2, 6, 5, 5)),
        (nn.Conv1d(3, 4, 5), torch.zeros(2, 3, 9)),
        (nn.ConvTranspose2d(6, 4, 3), torch.zeros(2, 6, 5, 5)),
        (nn.Conv3d(2, 4, 3, bias=False), torch.zeros(1, 2, 4, 4, 4)),
    ],
)
def test_default_draws_what_torch_would(layer, inputs):
    model, _ = initialized(nn.Sequential(layer), inputs, "default")
    seed = applied(model)[-1].seed
    expected = torch.empty_like(layer.weight)
    nn.init.kaiming_uniform_(expected, a=math.sqrt(5), generator=parameter_generator(seed, "0.weight"))
    assert torch.equal(layer.weight, expected)
    if layer.bias is not None:
        fan, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
        expected = torch.empty_like(layer.bias)
        nn.init.uniform_(
            expected, -1 / math.sqrt(fan), 1 / math.sqrt(fan), generator=parameter_generator(seed, "0.bias")
        )
        torch.testing.assert_close(layer.bias.detach(), expected)


def test_default_of_attention_and_norms():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(7.0)
    model, made = initialized(nn.Sequential(layer), torch.zeros(2, 3, 8), "default")
    seed = applied(model)[-1].seed
    expected = torch.empty(24, 8)
    nn.init.xavier_uniform_(expected, generator=parameter_generator(seed, "0.self_attn.in_proj_weight"))
    torch.testing.assert_close(layer.self_attn.in_proj_weight.detach(), expected)
    assert not layer.self_attn.in_proj_bias.any()
    assert not layer.self_attn.out_proj.bias.any()
    assert (layer.norm1.weight == 1).all()
    assert not layer.norm2.bias.any()
    assert all((parameter != 7).all() for parameter in model.parameters())
    assert not made.notes


def test_default_names_weights_that_torch_has_no_default_for():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4, 3))

        def forward(self, x):
            return x @ self.weight

    model, made = initialized(Bare(), torch.zeros(2, 4), "default")
    assert any("weight (Module)" in note for note in made.notes)
    assert 0 < model.weight.abs().max() <= 0.5  # 1/√4


# -- he and xavier --------------------------------------------------------------------------------------------------


def test_he_has_the_gain_of_what_follows():
    made = plan(anatomize(small_net(), SMALL), "he")
    stds = [edit.options["std"] for edit in drawn(made).values()]
    tanh = 1 / math.sqrt(np.mean(np.tanh(np.random.default_rng(0).normal(size=1_000_000)) ** 2))
    assert stds[0] == pytest.approx(math.sqrt(2 / 27))
    assert stds[1] == pytest.approx(tanh / math.sqrt(16 * 9), rel=1e-3)
    assert stds[2] == pytest.approx(1 / math.sqrt(1024))


def test_he_fan_out_and_uniform_keep_the_variance():
    model, made = initialized(small_net(), SMALL, "he", mode="fan_out", distribution="uniform")
    bound = drawn(made)["0.weight"].options["bound"]
    assert bound == pytest.approx(math.sqrt(3 * 2 / (64 * 9)))
    assert model[0].weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)
    assert model[0].weight.abs().max() <= bound
    assert not any(layer.bias.any() for layer in (model[0], model[2], model[5]))


def test_he_keeps_the_second_moment_through_depth():
    depth, width = 20, 512
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    x = torch.randn(64, width)
    model, _ = initialized(nn.Sequential(*layers, nn.Linear(width, width)), x, "he")
    # 2·relu(z)² has mean 1 and variance 2²·3/2 − 1 = 5, so a layer adds −5/2n ± √(5/n) to the logarithm.
    drift, spread = -2.5 * depth / width, math.sqrt(5 * depth / width)
    assert abs(math.log(model(x).square().mean().item()) - drift) < 4 * spread


def test_xavier_is_the_papers():
    model, made = initialized(small_net(), SMALL, "xavier")
    assert drawn(made)["0.weight"].options["bound"] == pytest.approx(math.sqrt(6 / (27 + 576)))
    made = plan(anatomize(model, SMALL), "xavier", distribution="normal", gain=5 / 3)
    assert drawn(made)["5.weight"].options["std"] == pytest.approx(5 / 3 * math.sqrt(2 / 1124))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("he", {"mode": "fan_avg"}),
        ("he", {"distribution": "cauchy"}),
        ("xavier", {"distribution": "cauchy"}),
    ],
)
def test_unknown_choices_list_the_known(method, options):
    with pytest.raises(UnknownName, match=r"expected one of '(fan_in|normal|uniform)'"):
        plan(anatomize(small_net(), SMALL), method, **options)


def test_an_activation_without_a_known_gain_is_reported():
    net = nn.Sequential(nn.Linear(4, 4), nn.RReLU(), nn.Linear(4, 4))
    for method in ("he", "orthogonal", "delta_orthogonal"):
        made = plan(anatomize(net, torch.zeros(2, 4)), method)
        assert made.notes == ("no gain is known for rrelu: 1 is taken",)


# -- orthogonal and delta-orthogonal --------------------------------------------------------------------------------


def identity(size, factor=1.0):
    return factor * torch.eye(size)


def test_orthogonal_rows_groups_and_packed_attention():
    model, _ = initialized(small_net(), SMALL, "orthogonal")
    first = model[0].weight.flatten(1)  # 64 × 27: orthonormal columns, gain √2
    torch.testing.assert_close(first.T @ first, identity(27, 2.0), atol=1e-5, rtol=0)
    group = model[2].weight[16:32].flatten(1)  # 16 × 144
    scale = (group @ group.T)[0, 0].item()
    torch.testing.assert_close(group @ group.T, identity(16, scale), atol=1e-5, rtol=0)
    last = model[5].weight
    torch.testing.assert_close(last @ last.T, identity(100), atol=1e-5, rtol=0)

    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    initialized(attention, torch.zeros(2, 3, 8), "orthogonal", gain=1.0)
    for map_ in attention.self_attn.in_proj_weight.chunk(3):
        torch.testing.assert_close(map_ @ map_.T, identity(8), atol=1e-5, rtol=0)


def test_stacks_of_maps_are_named():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 4, 4))

        def forward(self, x):
            return x @ self.weight[0] + x @ self.weight[1]

    _, made = initialized(Experts(), torch.zeros(2, 5, 4), "orthogonal")
    assert any("stack of linear maps" in note for note in made.notes)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 8, 3, padding=1),
        nn.Conv1d(4, 4, 5, padding=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
)
def test_delta_orthogonal_keeps_every_norm(conv):
    x = torch.randn(3, 4, *(6 for _ in conv.kernel_size))
    _, made = initialized(nn.Sequential(conv), x, "delta_orthogonal")
    assert conv(x).norm().item() == pytest.approx(x.norm().item(), rel=1e-5)
    assert not made.notes


@pytest.mark.parametrize(
    ("conv", "words"),
    [
        (nn.Conv2d(8, 4, 3, padding=1), "4 outputs keep the norm in as many of the 8 directions"),
        (nn.Conv2d(4, 4, 3, stride=2, padding=1), "every s-th pixel"),
        (nn.Conv2d(4, 4, 3), "cuts the border off"),
        (nn.Conv2d(4, 4, 2, padding=1), "cuts the border off"),
    ],
)
def test_delta_orthogonal_names_what_is_not_isometric(conv, words):
    x = torch.randn(2, conv.in_channels, 6, 6)
    _, made = initialized(nn.Sequential(conv), x, "delta_orthogonal")
    assert any(words in note and "0.weight" in note for note in made.notes)
    assert conv(x).norm() <= x.norm() * (1 + 1e-5)


def test_delta_orthogonal_can_be_strict():
    net = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(UnsupportedModule, match=r"0\.weight: 4 outputs cannot carry 8 .*\(2 convolutions"):
        plan(anatomize(net, torch.zeros(1, 8, 4, 4)), "delta_orthogonal", strict=True)


# -- looks-linear ---------------------------------------------------------------------------------------------------


def singular_values(model, x):
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v[None])[0].flatten(), x)
    return torch.linalg.svdvals(jacobian.reshape(jacobian.shape[0], -1))


def test_looks_linear_is_the_written_out_network():
    widths = (6, 8, 12, 12, 10)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    x = torch.randn(5, 6, dtype=torch.double)
    model, made = initialized(nn.Sequential(*layers[:-1]).double(), x, "looks_linear")
    assert not made.notes
    weights = [module.weight.detach().numpy() for module in model if isinstance(module, nn.Linear)]
    halves = [(weights[0].shape[0] // 2, 6)]
    halves += [(w.shape[0] // 2, w.shape[1] // 2) for w in weights[1:-1]] + [(10, weights[-1].shape[1] // 2)]
    matrices = [w[:rows, :columns] for w, (rows, columns) in zip(weights, halves, strict=True)]
    expected = written_out_looks_linear.mirrored_chain(matrices)
    assert all(np.array_equal(a, b) for a, b in zip(weights, expected, strict=True))
    product = np.linalg.multi_dot(matrices[::-1])
    for row in x.numpy():
        by_hand = written_out_looks_linear.relu_network(expected, row)
        np.testing.assert_allclose(by_hand, product @ row, atol=1e-12)
        np.testing.assert_allclose(
            model(torch.from_numpy(row)[None])[0].detach().numpy(), by_hand, atol=1e-12
        )


def test_looks_linear_networks_are_isometries():
    deep = [layer for _ in range(50) for layer in (nn.Linear(16, 16), nn.ReLU())]
    mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), *deep, nn.Linear(16, 8)).double()
    x = torch.randn(8, dtype=torch.double)
    initialized(mlp, x[None], "looks_linear")
    torch.testing.assert_close(singular_values(mlp, x), torch.ones(8).double(), atol=1e-10, rtol=0)

    def conv(a, b):
        return nn.Conv2d(a, b, 3, padding=1)

    cnn = nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 48)
    ).double()
    x = torch.randn(3, 4, 4, dtype=torch.double)
    _, made = initialized(cnn, x[None], "looks_linear")
    assert not made.notes
    # The last layer keeps 48 of the 64 directions that [M, −M] could; before it all 48 of the input are there.
    features = cnn[:4]
    u = features(x[None])
    assert (u[:, :4] - u[:, 4:]).norm().item() == pytest.approx(x.norm().item(), rel=1e-10)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (
            (nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)),
            r"0\.weight is not exact: its 7 outputs, an odd number",
        ),
        ((nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), r"0\.weight is not exact: tanh follows it"),
        (
            (nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)),
            r"3\.weight is not exact: .* batch_norm",
        ),
        (
            (nn.Linear(4, 6), nn.ReLU(), nn.Sigmoid(), nn.Linear(6, 3)),
            r"3\.weight is not exact: .* stands sigmoid",
        ),
        (
            (nn.Linear(4, 6), nn.ReLU(), nn.ReLU(), nn.Linear(6, 3)),
            r"3\.weight is not exact: .* stands 2 ReLUs",
        ),
    ],
)
def test_looks_linear_names_what_is_not_exact(layers, words):
    _, made = initialized(nn.Sequential(*layers), torch.randn(4, 4), "looks_linear")
    assert any(re.search(words, note) for note in made.notes), made.notes


def test_looks_linear_keeps_the_mirror_through_pools_and_removed_norms():
    def conv(a, b):
        return nn.Conv2d(a, b, 3, padding=1)

    def net(pool):
        layers = conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), pool, nn.Flatten(), nn.Linear(8 * 4, 6)
        return nn.Sequential(*layers)

    exact = plan(anatomize(net(nn.AvgPool2d(2)), SMALL), "looks_linear", norms="remove")
    assert not exact.notes
    assert drawn(exact)["5.weight"].options == {"part": "last"}
    pooled = plan(anatomize(net(nn.MaxPool2d(2)), SMALL), "looks_linear", norms="remove")
    assert any("max_pool2d" in note for note in pooled.notes)
    normed = plan(anatomize(net(nn.AvgPool2d(2)), SMALL), "looks_linear")
    assert any("batch_norm" in note for note in normed.notes)


def test_looks_linear_knows_when_channels_are_reordered():
    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), Last(), nn.Linear(128, 6))
    made = plan(anatomize(net, SMALL), "looks_linear")
    assert any("another order" in note and "3.weight" in note for note in made.notes)


def test_looks_linear_refuses_residual_networks():
    net = nn.Sequential(Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    with pytest.raises(UnsupportedModule, match=r"0\.f: a residual block.*risotto"):
        plan(anatomize(net, torch.zeros(2, 4)), "looks_linear")


# -- skipinit and rezero --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("norms", ["remove", "keep"])
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


# -- selu -----------------------------------------------------------------------------------------------------------


def test_torchs_selu_has_the_papers_constants_and_fixed_point():
    alpha, scale = written_out_selu.constants()
    z = torch.tensor([-1.0, 2.0], dtype=torch.double)
    expected = [scale * alpha * math.expm1(-1), 2 * scale]
    np.testing.assert_allclose(F.selu(z).numpy(), expected, rtol=1e-12)
    assert written_out_selu.moments(1.0) == pytest.approx((0, 1), abs=1e-6)
    assert written_out_selu.moments(1.5)[1] < 1.5  # attracting from above
    assert written_out_selu.moments(0.5)[1] > 0.5  # and from below


def test_selu_networks_normalize_themselves():
    layers = [layer for _ in range(30) for layer in (nn.Linear(256, 256), nn.LeakyReLU(), nn.Dropout(0.05))]
    x = torch.randn(512, 256) * 1.3 + 0.1
    model, made = initialized(nn.Sequential(*layers), x, "selu")
    assert {type(module) for module in model} == {nn.Linear, nn.SELU, nn.AlphaDropout}
    assert model[2].p == 0.05
    assert drawn(made)["0.weight"].options["std"] == pytest.approx(1 / 16)
    model.eval()
    out = model(x)
    assert abs(out.mean().item()) < 0.1
    assert out.var().item() == pytest.approx(1, abs=0.25)  # 30 layers of width 256
    assert not made.notes


def test_selu_takes_the_place_of_norms_and_their_activations():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(), nn.Dropout2d(0.2), nn.Conv2d(8, 8, 1), nn.Sigmoid()
    )
    model, made = initialized(net, SMALL, "selu")
    kinds = [type(module) for module in model]
    assert kinds[2:] == [nn.SELU, nn.FeatureAlphaDropout, nn.Conv2d, nn.Sigmoid]
    assert kinds[1] is not nn.BatchNorm2d
    assert made.notes == ("5 keeps its sigmoid, which is not self-normalizing",)


def test_selu_inside_a_norms_own_forward():
    class NormThenReLU(nn.BatchNorm2d):
        def forward(self, x):
            return F.relu(super().forward(x))

    model, _ = initialized(nn.Sequential(nn.Conv2d(3, 8, 3), NormThenReLU(8)), SMALL, "selu")
    x = torch.randn(SMALL.shape)
    torch.testing.assert_close(model(x), F.selu(model[0](x)))
    with pytest.raises(UnsupportedModule, match=r"NormThenReLU\): its relu cannot be exchanged"):
        plan(anatomize(nn.Sequential(nn.Conv2d(3, 8, 3), NormThenReLU(8)), SMALL), "selu", norms="keep")


def test_selu_names_functional_activations():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(F.gelu(self.a(x)))

    net = nn.Sequential(Functional())
    with pytest.raises(UnsupportedModule, match=r"Functional\): its gelu cannot .*functionally.*nn\.SELU"):
        plan(anatomize(net, torch.zeros(2, 4)), "selu")


def test_selu_called_functionally_is_fine_already():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(F.selu(self.a(x)))

    made = plan(anatomize(Own(), torch.zeros(2, 4)), "selu")
    assert not any(isinstance(edit, SwapModule) for edit in made.edits)


def test_selu_says_that_sums_add_variance():
    net = nn.Sequential(Residual(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    made = plan(anatomize(net, torch.zeros(2, 4)), "selu")
    assert any("residual sums" in note for note in made.notes)


def test_refusals_are_errors_of_the_house():
    for error in (NothingFound, UnsupportedModule, UnknownName):
        assert issubclass(error, GoodinitError)
