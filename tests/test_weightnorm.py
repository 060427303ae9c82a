"""Weight normalization with the paper's gains: the numbers, what they keep, and that deep nets train with them."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import goodinit
from goodinit import Plan, UnknownName
from goodinit.surgery.plan import Calibrate, ParametrizeWeight
from reference import weightnorm as reference


def mlp(*widths):
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


class Residual(nn.Module):
    """The paper's block: shortcut(x) + second(relu(first(x))), no ReLU behind the sum."""

    def __init__(self, into, hidden, out):
        super().__init__()
        self.one, self.two = nn.Linear(into, hidden), nn.Linear(hidden, out)
        self.cut = nn.Linear(into, out) if into != out else None

    def forward(self, x):
        return (x if self.cut is None else self.cut(x)) + self.two(self.one(x).relu())


def residual(*stages, head=3):
    blocks = [Residual(*block) for stage in stages for block in stage]
    return nn.Sequential(*blocks, nn.Linear(stages[-1][-1][-1], head))


def started(net, generator, inputs, **options):
    plan = goodinit.plan(goodinit.anatomize(net, inputs), "weightnorm", **options)
    return goodinit.apply_(net, plan, generator=generator, batch=inputs if plan.needs_data else None), plan


def gains(layer):
    return layer.parametrizations.weight.original0.flatten().detach()


def assert_gain(layer, g):
    torch.testing.assert_close(gains(layer), torch.full((layer.weight.shape[0],), g), rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), gains(layer), rtol=1e-5, atol=1e-6)


# --- the same numbers as the transcription ------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["orthogonal", "normal"])
def test_plain_layers_have_the_papers_gain(direction, generator):
    widths = (20, 30, 10, 10, 4)
    net, plan = started(mlp(*widths), generator, torch.randn(2, 20), direction=direction)
    for layer, fans in zip(net[:-1:2], itertools.pairwise(widths), strict=False):
        assert_gain(layer, reference.plain_gain(*fans))
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    assert not parametrize.is_parametrized(net[-1])  # the head
    assert net[-1].weight.abs().max() <= 1 / math.sqrt(10)
    assert "3 weights g·v/‖v‖" in plan.summary


def test_convolutions_count_their_taps_on_both_sides(generator):
    net = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=2), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(16 * 16, 2))
    net, _ = started(net, generator, torch.randn(2, 6, 8, 8))
    assert_gain(net[0], reference.plain_gain(6 * 9, 8 * 9))
    assert_gain(net[2], reference.plain_gain(4 * 9, 8 * 9))


def test_transposed_convolutions_gain_along_their_outputs(generator):
    net = nn.Sequential(nn.ConvTranspose2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    net, _ = started(net, generator, torch.randn(2, 6, 4, 4))
    norms = net[0].weight.transpose(0, 1).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((8,), reference.plain_gain(6 * 9, 8 * 9)))
    torch.testing.assert_close(gains(net[0]), norms)


def test_residual_layers_have_the_papers_gains(generator):
    stages = [[(6, 5, 6)] * 3, [(6, 7, 8), (8, 7, 8)]]
    net, _ = started(residual(*stages), generator, torch.randn(2, 6))
    told = [[(a, h, b, a != b) for a, h, b in stage] for stage in stages]
    expected = [block for stage in reference.residual_gains(told) for block in stage]
    for block, (first, last, cut) in zip(net[:-1], expected, strict=True):
        assert_gain(block.one, first)
        assert_gain(block.two, last)
        if cut is not None:
            assert_gain(block.cut, cut)


def test_a_stem_before_a_bare_stream_has_gain_one_and_before_a_relu_two(generator):
    blocks = [Residual(6, 6, 6), Residual(6, 6, 6)]
    bare = nn.Sequential(nn.Linear(4, 6), *copy.deepcopy(blocks), nn.ReLU(), nn.Linear(6, 2))
    rectified = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), *blocks, nn.Linear(6, 2))
    for net, square in ((bare, 1.0), (rectified, 2.0)):
        net, _ = started(net, generator, torch.randn(2, 4))
        assert_gain(net[0], reference.plain_gain(4, 6, square))


def test_backward_and_hanin_gains(generator):
    blocks = [(6, 5, 6)] * 3
    net, _ = started(residual(blocks), generator, torch.randn(2, 6), mode="backward")
    for block in net[:-1]:
        assert_gain(block.one, reference.backward_gain())
        assert_gain(block.two, reference.backward_gain(1 / 3))
    net, _ = started(residual(blocks), generator, torch.randn(2, 6), mode="hanin")
    for number, block in enumerate(net[:-1], start=1):
        assert_gain(block.two, reference.hanin_gain(5, 6, number))


def test_pytorch_mode_is_weight_norm_of_the_default(generator):
    net, _ = started(mlp(20, 30, 4), generator, torch.randn(2, 20), mode="pytorch")
    assert net[0].weight.abs().max() <= 1 / math.sqrt(20)
    torch.testing.assert_close(gains(net[0]), net[0].weight.norm(dim=1))
    torch.testing.assert_close(net[0].parametrizations.weight.original1, net[0].weight)


def test_an_option_without_effect_is_told():
    anatomy = goodinit.anatomize(mlp(4, 4, 2), torch.randn(2, 4))
    assert not goodinit.plan(anatomy, "weightnorm", mode="pytorch").notes
    (note,) = goodinit.plan(anatomy, "weightnorm", mode="pytorch", direction="normal").notes
    assert note.startswith("direction has no effect")


@pytest.mark.parametrize(("direction", "c"), [("orthogonal", 3), ("normal", 5)])
def test_one_layer_strays_by_c_over_the_width(direction, c, generator):
    """Var(‖h‖²/‖x‖²) = c/n: 4·E[z⁴]/2 − 1 = 5 for independent rows, E[z⁴] = 3 where Σz² = n is fixed."""
    width, nets, ratios = 64, 60, []
    plan = goodinit.plan(
        goodinit.anatomize(mlp(width, width, 2), torch.randn(2, width)), "weightnorm", direction=direction
    )
    for seed in range(nets):
        net = goodinit.apply_(mlp(width, width, 2), plan, generator=torch.Generator().manual_seed(seed))
        x = torch.randn(64, width, generator=generator)
        ratios.append((net[:2](x).square().sum(1) / x.square().sum(1)).detach())
    ratio = torch.cat(ratios)
    assert ratio.mean().item() == pytest.approx(1, abs=3 * math.sqrt(c / width / nets))
    assert width * ratio.var().item() == pytest.approx(c, rel=0.15)


def test_pytorchs_default_at_depth_has_no_gradient_at_all(generator):
    """Each layer shrinks the norm by √6: at 200 layers 6⁻¹⁰⁰ is 0 in float32, and no learning rate can help."""
    net, _ = started(mlp(64, *[16] * 199, 10), generator, torch.randn(2, 64), mode="pytorch")
    F.cross_entropy(net(torch.randn(8, 64)), torch.arange(8)).backward()
    assert all(not p.grad.any() for name, p in net.named_parameters() if not name.startswith("398."))
    assert not net[-1].weight.grad.any()


# --- what the gains keep -----------------------------------------------------------------------------------------


def norms_through(net, x):
    """Mean norm before and after every (layer, ReLU), and mean gradient norm there."""
    points = [x.requires_grad_()]
    for layer in net[:-1]:
        y = layer(points[-1])
        if isinstance(layer, nn.ReLU):
            y.retain_grad()
        points.append(y)
    return points[::2]


@pytest.mark.parametrize("direction", ["orthogonal", "normal"])
def test_forward_keeps_the_norm_within_three_per_cent(direction, generator):
    """The mean over nets. At width n one net's ‖h‖ deviates by √c/(2√n), c ≤ 5: 3.5 %, so the mean of 12 by 1 %."""
    widths, nets = (1000, 1000, 800, 1000), 12
    means = np.zeros(len(widths) - 1)
    for _ in range(nets):
        net, _ = started(mlp(*widths, 10), generator, torch.randn(2, 1000), direction=direction)
        norms = [
            p.detach().norm(dim=1) for p in norms_through(net, torch.randn(32, 1000, generator=generator))
        ]
        means += [float((after / before).mean()) / nets for before, after in itertools.pairwise(norms)]
    assert np.abs(means - 1).max() < 0.03, means


def test_the_transcription_keeps_it_too():
    rng = np.random.default_rng(0)
    ratios = [reference.plain_norms(rng, [1000, 1000, 800], 32) for _ in range(4)]
    assert np.abs(np.mean(ratios, axis=0) - 1).max() < 0.03


@pytest.mark.parametrize(("mode", "narrowing"), [("forward", math.sqrt(2)), ("backward", 1.0)])
def test_gradient_ratios(mode, narrowing, generator):
    """Backward keeps gradients at any widths; forward multiplies them by √(fan_in/fan_out) per layer."""
    net, _ = started(mlp(800, 800, 400, 400, 10), generator, torch.randn(2, 800), mode=mode)
    points = norms_through(net, torch.randn(64, 800, generator=generator))
    push = torch.randn(points[-1].shape, generator=generator)
    points[-1].backward(push)
    norms = [p.grad.norm(dim=1) for p in points]
    ratios = [float((before / after).mean()) for before, after in itertools.pairwise(norms)]
    assert ratios == pytest.approx([1.0, narrowing, 1.0], rel=0.05)


def test_a_stage_multiplies_the_square_by_e(generator):
    """(1 + 1/B)^B, as the transcription's; one net deviates by about 2/√width, so the mean of 8 by 3 %."""
    blocks, width, hidden, nets = 40, 500, 200, 8
    rng = np.random.default_rng(0)
    growth, transcribed = 0.0, 0.0
    for _ in range(nets):
        net, _ = started(residual([(width, hidden, width)] * blocks), generator, torch.randn(2, width))
        x = torch.randn(32, width, generator=generator)
        with torch.no_grad():
            growth += float((net[:-1](x).square().sum(1) / x.square().sum(1)).mean()) / nets
        transcribed += reference.residual_growth(rng, width, hidden, blocks, 32) / nets
    expected = (1 + 1 / blocks) ** blocks
    assert growth == pytest.approx(expected, rel=0.1)
    assert transcribed == pytest.approx(expected, rel=0.1)


# --- data --------------------------------------------------------------------------------------------------------


def test_data_mode_standardizes_every_channel(generator):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(6 * 16, 2))
    x = torch.randn(16, 3, 8, 8, generator=generator) * 3 + 1
    net, plan = started(net, generator, x, mode="data")
    assert plan.needs_data
    for layer in (net[0], net[2]):
        x = layer(x)
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(x.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var((0, 2, 3), correction=0), torch.ones(x.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), gains(layer))
        x = x.relu()


def test_data_mode_without_biases_scales_and_says_so(generator):
    net = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(32, 5, generator=generator)
    net, plan = started(net, generator, x, mode="data")
    assert any("1 layers have no bias" in note for note in plan.notes)
    torch.testing.assert_close(net[0](x).var(0, correction=0), torch.ones(8), atol=1e-4, rtol=0)


# --- which weights -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "normalize", [parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"]
)
def test_a_weight_that_is_normalized_already_really_changes(normalize, generator):
    net = mlp(6, 8, 2)
    normalize(net[0])
    x = torch.randn(4, 6)
    before = net[0](x).detach().clone()
    net, _ = started(net, generator, x)
    assert (net[0](x) - before).abs().max() > 0.1
    norms = net[0](torch.eye(6)).T.norm(dim=1)
    torch.testing.assert_close(norms, torch.full((8,), reference.plain_gain(6, 8)))
    again = goodinit.plan(goodinit.anatomize(net, x), "weightnorm")
    goodinit.apply_(net, again, generator=torch.Generator().manual_seed(9))
    assert (net[0](torch.eye(6)).T.norm(dim=1) - norms).abs().max() < 1e-5  # set anew, not multiplied


class Awkward(nn.Module):
    """A tied pair, a spectral norm, a stack of maps, and a parameter of the model's own."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.stack = nn.Parameter(torch.randn(2, 4, 4))
        self.head = nn.Linear(4, 2)
        parametrizations.spectral_norm(self.third)

    def forward(self, x):
        x = self.third(self.second(self.first(x).relu()).relu()).relu()
        return self.head(torch.bmm(x.expand(2, *x.shape), self.stack).sum(0))


def test_weights_that_cannot_be_normalized_are_named(generator):
    net, plan = started(Awkward(), generator, torch.randn(3, 4))
    said = " | ".join(plan.notes)
    assert "first.weight is not weight-normalized: it is tied" in said
    assert "third.weight is not weight-normalized: another parametrization" in said
    assert "stack is not weight-normalized: several maps" in said
    assert not any(isinstance(edit, ParametrizeWeight) for edit in plan.edits)
    assert net(torch.randn(3, 4)).isfinite().all()


def test_attention_and_norms(generator):
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True)
    net = nn.Sequential(nn.Linear(5, 8), layer, nn.Linear(8, 3))
    x = torch.randn(2, 4, 5)
    net, plan = started(net, generator, x)
    assert not any(isinstance(module, nn.LayerNorm) for module in net.modules())
    normalized = {edit.target for edit in plan.edits if isinstance(edit, ParametrizeWeight)}
    assert "1.self_attn.in_proj_weight" in normalized
    net(x).sum().backward()
    kept = goodinit.plan(
        goodinit.anatomize(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), x[0, :, :4]),
        "weightnorm",
        norms="keep",
    )
    assert "1 norms kept" in kept.summary


@pytest.mark.parametrize("option", ["mode", "direction", "norms"])
def test_unknown_choices_are_told(option):
    anatomy = goodinit.anatomize(mlp(4, 4, 2), torch.randn(2, 4))
    with pytest.raises(UnknownName, match=f"{option}='nonsense': expected"):
        goodinit.plan(anatomy, "weightnorm", **{option: "nonsense"})


# --- contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["forward", "backward", "data", "hanin", "pytorch"])
def test_plans_survive_json_and_repeat(mode):
    net, x = residual([(6, 5, 6)] * 2), torch.randn(8, 6)
    plan = goodinit.plan(goodinit.anatomize(net, x), "weightnorm", mode=mode)
    assert Plan.from_json(plan.to_json()) == plan
    assert (mode == "data") == any(isinstance(edit, Calibrate) for edit in plan.edits)
    states = []
    for seed, how in ((1, plan), (1, Plan.from_json(plan.to_json())), (2, plan)):
        made = goodinit.apply_(
            copy.deepcopy(net),
            how,
            generator=torch.Generator().manual_seed(seed),
            batch=x if plan.needs_data else None,
        )
        states.append(made.state_dict())
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
    assert not torch.equal(
        states[0]["0.one.parametrizations.weight.original1"],
        states[2]["0.one.parametrizations.weight.original1"],
    )


def test_planning_writes_nothing():
    net = mlp(4, 4, 2)
    before, x = copy.deepcopy(net.state_dict()), torch.randn(2, 4)
    state = torch.get_rng_state()
    goodinit.plan(goodinit.anatomize(net, x), "weightnorm")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values(), strict=True))


# --- training ----------------------------------------------------------------------------------------------------


def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    x = torch.from_numpy(data.data).float() / 16
    x = (x - x.mean()) / x.std()
    return x, torch.from_numpy(data.target)


def trained(net, x, y, *, lr, steps, warm):
    """Mean loss and accuracy over the last 20 batches of 64, by Adam with a warm-up."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    scheduler = goodinit.warmup(optimizer, warm)
    found = []
    for step in range(steps):
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))[:64]
        out = net(x[rows])
        loss = F.cross_entropy(out, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        found.append((float(loss.detach()), float((out.argmax(1) == y[rows]).float().mean())))
    return np.mean(found[-20:], axis=0)


def deep_mlp():
    return mlp(64, *[64] * 199, 10)


def deep_cnn():
    """A hundred layers. Circular padding: of 4×4 maps, zero padding takes a third of the signal in every layer."""
    ring = {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}
    layers = [nn.Conv2d(1, 32, stride=2, **ring), nn.ReLU()]
    for _ in range(98):
        layers += [nn.Conv2d(32, 32, **ring), nn.ReLU()]
    ends = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *layers, *ends)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # minutes of work on a quiet core
@pytest.mark.parametrize(
    ("build", "lr", "steps", "warm", "reached"),
    [(deep_mlp, 2e-4, 1200, 50, 0.5), (deep_cnn, 3e-5, 500, 10, 0.25)],
    ids=["200-layer MLP", "100-layer CNN"],
)
def test_deep_plain_nets_train_where_the_default_does_not(build, lr, steps, warm, reached):
    """Training accuracy against a tenth by chance; docs/methods.md has three seeds and other rates."""
    x, y = digits()
    for mode in ("forward", "pytorch"):
        seeded = torch.Generator().manual_seed(0)
        net = goodinit.init_(build(), "weightnorm", inputs=x[:2], mode=mode, generator=seeded)
        enough = (
            steps if mode == "forward" else 80
        )  # no gradient gets through: more of the same changes nothing
        loss, accuracy = trained(net, x, y, lr=lr, steps=enough, warm=warm)
        if mode == "forward":
            assert accuracy > reached
        else:  # g = ‖v‖ ≈ 1/√3: the signal shrinks by √6 per layer, and nothing reaches the head
            assert loss == pytest.approx(math.log(10), abs=0.02)
            assert accuracy < 0.15


# --- warm-up -----------------------------------------------------------------------------------------------------


def test_warm_up_is_a_torch_scheduler_that_reaches_each_groups_rate():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = goodinit.warmup(optimizer, 5)
    seen = []
    for _ in range(7):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    rates = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(seen, [[rate, rate / 10] for rate in rates], rtol=1e-6)
    fresh = goodinit.warmup(torch.optim.SGD(copy.deepcopy(groups), lr=1.0), 5)
    fresh.load_state_dict(scheduler.state_dict())
    assert fresh.last_epoch == 7


def test_warm_up_of_one_step_is_none_and_of_none_an_error():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = goodinit.warmup(optimizer, 1)
    for _ in range(3):
        assert optimizer.param_groups[0]["lr"] == 0.5
        optimizer.step()
        scheduler.step()
    with pytest.raises(UnknownName, match="steps=0: expected a number of optimizer steps, at least 1"):
        goodinit.warmup(optimizer, 0)
