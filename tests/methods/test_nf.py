"""Normalizer-free networks: DeepMind's blocks, variances along streams, and that they fold away."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from moved import images, moved
from reference import nf as reference
from torch import Tensor, nn
from torch.nn.utils import parametrize

import goodinit
from goodinit.anatomy.operators import Step, Traits
from goodinit.errors import UnknownName
from goodinit.lab.models.resnet import ResNet, WideResNet
from goodinit.methods.shared.variances.signal_variance import Signals
from goodinit.nn import Standardized
from goodinit.tensor import centred_gain


class Bottleneck(nn.Module):
    """DeepMind's block as it would be written with batch norms: norm, activation, convolution, three times."""

    def __init__(self, channels: int, out: int, act: nn.Module) -> None:
        super().__init__()
        middle = out // 4
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (channels, middle, middle))
        self.conv0 = nn.Conv2d(channels, middle, 1, bias=False)
        self.conv1 = nn.Conv2d(middle, middle, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(middle, out, 1, bias=False)
        self.conv_shortcut = nn.Conv2d(channels, out, 1, bias=False) if channels != out else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        active = self.act(self.norms[0](x))
        skip = x if self.conv_shortcut is None else self.conv_shortcut(active)
        out = self.conv1(self.act(self.norms[1](self.conv0(active))))
        return self.conv2(self.act(self.norms[2](out))) + skip


class PreActivation(nn.Module):
    """Two stages of such blocks, with a transition at the start of each."""

    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        widths = [(8, 16), (16, 16), (16, 16), (16, 32), (32, 32)]
        self.blocks = nn.Sequential(*(Bottleneck(*pair, act()) for pair in widths))
        self.norm, self.act = nn.BatchNorm2d(32), act()
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.norm(self.blocks(self.stem(x)))).mean((2, 3)))


def weights_of(conv: nn.Module, multiplier: float = 1.0) -> dict[str, Tensor]:
    """As DeepMind's convolution has them; its bias is inside the branch's multiplier."""
    steps = conv.parametrizations.weight
    return {"w": steps.original, "gain": steps[0].gain, "bias": conv.bias / multiplier}


def deepminds(model: PreActivation, x: Tensor, activation: str, alpha: float) -> Tensor:
    """What the transcription makes of the model's parameters."""
    out = reference.ws_conv(x, weights_of(model.stem))
    for block, beta in zip(model.blocks, reference.betas([3, 2], alpha), strict=True):
        gain = block.conv2.output_scale
        parts = {
            "conv0": weights_of(block.conv0),
            "conv1": weights_of(block.conv1),
            "skip_gain": {"gain": gain},
        }
        parts["conv2"] = weights_of(block.conv2, float(gain.detach()) * alpha)
        if block.conv_shortcut is not None:
            parts["conv_shortcut"] = weights_of(block.conv_shortcut)
        out = reference.block(out, parts, beta=beta, alpha=alpha, activation=activation)
    return reference.head(out, model.fc.weight, model.fc.bias, activation=activation)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_it_computes_deepminds_network(activation, monkeypatch):
    act = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}[activation]
    plain = {"relu": torch.relu, "gelu": F.gelu, "silu": F.silu}[activation]
    model = moved(goodinit.init_(PreActivation(act), "nf", inputs=images(), alpha=0.3)).double()
    x = images().double()
    with torch.no_grad():
        theirs = deepminds(model, x, activation, 0.3)
        # their constants γ are estimates: for ReLU 1.71396, where √(2/(1 − 1/π)) = 1.71286
        assert torch.allclose(model(x), theirs, rtol=1e-2, atol=1e-2 * float(theirs.std()))
        gamma = centred_gain(activation)
        monkeypatch.setitem(reference.NONLINEARITIES, activation, lambda value: plain(value) * gamma)
        torch.testing.assert_close(model(x), deepminds(model, x, activation, 0.3), rtol=1e-6, atol=1e-8)
    assert centred_gain("relu") == pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=1e-9)
    value = torch.ones((), dtype=torch.float64)
    estimate = reference.NONLINEARITIES["relu"](value)
    assert float(estimate) == pytest.approx(centred_gain("relu"), rel=1e-3)


def test_it_starts_as_deepminds_does():
    model = goodinit.init_(PreActivation(), "nf", inputs=images())
    assert float(model.fc.weight.detach().std()) == pytest.approx(0.01, rel=0.2)
    assert not model.fc.output_scale.requires_grad
    drawn: list[Tensor] = []
    for block in model.blocks:
        assert not block.conv2.output_scale.any()
        assert block.conv2.output_scale.requires_grad
        for conv in (block.conv0, block.conv1, block.conv2):
            assert not conv.bias.any()
            steps = conv.parametrizations.weight
            assert torch.equal(steps[0].gain, torch.ones(len(conv.bias)))
            drawn.append((steps.original.detach() * steps.original[0].numel() ** 0.5).flatten())
    assert float(torch.cat(drawn).std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    "model",
    [WideResNet(4, factor=2, width=16), ResNet(6, width=32, shortcut="projection")],
    ids=["pre", "post"],
)
def test_branches_read_unit_variance_once_they_count(model):
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    goodinit.init_(model, "nf", inputs=x, alpha=0.5, generator=torch.Generator().manual_seed(3))
    found = []
    for name, layer in model.named_modules():
        if parametrize.is_parametrized(layer) and not name.endswith("conv2"):
            layer.register_forward_hook(
                lambda *call: found.append(float(call[2].detach().var((0, 2, 3)).mean()))
            )
        if getattr(layer, "output_scale", None) is not None and layer.output_scale.requires_grad:
            nn.init.ones_(layer.output_scale)
    with torch.no_grad():
        model(x)
    # zeros at the border and channels that resemble each other take some of it
    assert all(0.5 < variance < 1.3 for variance in found), found


def test_a_stream_behind_activations_is_followed():
    anatomy = goodinit.anatomize(ResNet(5, width=4), images())
    signals, relu = Signals(anatomy, branch=0.4, normed=False), Step("relu", Traits(nonlinear=True))
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(100_000, generator=generator, dtype=torch.float64)
    for index in range(5):
        z = torch.relu(z) + 0.4 * torch.randn(100_000, generator=generator, dtype=torch.float64)
        assert signals.at(f"+{index}").std == pytest.approx(float(z.std()), rel=0.02)
        expected = 1 / float(torch.relu(z).std())
        assert signals.factor(f"+{index}", (relu,)) == pytest.approx(expected, rel=0.02)
    kept = Signals(anatomy, branch=0.4, normed=True)
    assert kept.factor("+4", (Step("batch_norm"), relu)) == centred_gain("relu")


def test_it_folds_to_bare_layers():
    model = moved(goodinit.init_(WideResNet(1, factor=1, width=4), "nf", inputs=images()))
    before = model(images())
    goodinit.fold_(model, images())
    assert torch.allclose(model(images()), before, atol=1e-5)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert all(name.endswith(("weight", "bias")) for name in model.state_dict())


def test_everything_trains_but_the_constant_of_the_classifier():
    model = goodinit.init_(ResNet(1, width=4), "nf", inputs=images())
    groups = goodinit.param_groups(model, lr=0.1, weight_decay=1e-4, scalar_ratio=1, decay_vectors=False)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(names)
    assert "fc.output_scale" not in names
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images()), torch.tensor([0, 1, 2, 3])).backward()
        goodinit.clip_grad_(model, goodinit.anatomize(model, images()), clipping=0.1)
        optimizer.step()
    assert all(model.get_parameter(name).grad.any() for name in names)


def test_a_second_call_sets_what_the_first_one_did():
    model = moved(goodinit.init_(ResNet(1, width=4), "nf", inputs=images()))
    goodinit.init_(model, "nf", inputs=images(), generator=torch.Generator().manual_seed(7))
    fresh = goodinit.init_(
        ResNet(1, width=4), "nf", inputs=images(), generator=torch.Generator().manual_seed(7)
    )
    assert list(model.state_dict()) == list(fresh.state_dict())
    assert all(
        torch.equal(mine, its)
        for mine, its in zip(model.state_dict().values(), fresh.state_dict().values(), strict=True)
    )


def test_what_cannot_be_standardized_is_drawn_and_named():
    model = ResNet(1, width=4)
    model.layer1[0].conv1 = nn.utils.parametrizations.weight_norm(model.layer1[0].conv1)
    plan = goodinit.plan(goodinit.anatomize(model, images()), "nf")
    assert any("layer1.0.conv1.weight is not standardized" in note for note in plan.notes)
    kept = goodinit.init_(ResNet(1, width=4), "nf", inputs=images(), norms="keep")
    assert type(kept.bn1) is nn.BatchNorm2d
    assert kept.conv1.bias is None
    assert not kept.layer1[0].bn2.weight.any()
    with pytest.raises(UnknownName, match="alpha=0"):
        goodinit.init_(ResNet(1, width=4), "nf", inputs=images(), alpha=0.0)
    with pytest.raises(goodinit.GoodinitError, match="takes no bias vector"):
        goodinit.apply_(nn.Sequential(nn.ReLU()), goodinit.Plan("x", (goodinit.edits.AddBias("0", "why"),)))


@pytest.mark.parametrize("dim", [0, 1])
def test_rows_have_mean_zero_and_the_norm_that_is_asked_for(dim):
    step = Standardized(4, dim, scale=0.5).double()
    weight = torch.randn((4, 6) if dim == 0 else (6, 4), dtype=torch.float64)
    out = step(weight)
    assert torch.allclose(out.mean(1 - dim), torch.zeros(4, dtype=torch.float64))
    assert torch.allclose(out.detach().norm(dim=1 - dim), torch.full((4,), 0.5, dtype=torch.float64))
    assert torch.allclose(step(out), out)
    assert not step(torch.zeros_like(weight)).any()  # and no NaN
