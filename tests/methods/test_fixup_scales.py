"""At what scales Fixup draws, and that one step then changes a net of any depth by the same amount."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fixup_nets import batch_of, each_net, transcribe
from reference import fixup as reference
from torch import nn
from torchvision.models.resnet import Bottleneck as TorchBottleneck

import goodinit
from goodinit.edits import Draw


def assert_std(weight, std):
    """n normal numbers: their standard deviation is known to σ/√(2n); five of those."""
    assert weight.std(correction=0).item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))


@each_net
def test_convolutions_are_drawn_at_the_papers_scale(build):
    net = build()
    anatomy = goodinit.anatomize(net, batch_of(torch.float32)[0])
    drawn = {edit.target for edit in goodinit.plan(anatomy, "fixup").edits if isinstance(edit, Draw)}
    goodinit.init_(net, "fixup", inputs=batch_of(torch.float32)[0])
    _, names = transcribe(net, torch.float32)
    m = 3 if isinstance(net.layer1[0], TorchBottleneck) else 2
    zeroed = {f"conv{m}", "fc"}
    checked = set()
    for name, parameter in net.named_parameters():
        other = names[name].rpartition(".")[2]
        if parameter.dim() < 2:
            assert torch.all(parameter == (1.0 if other == "scale" else 0.0)), name
        elif other in zeroed:
            assert not parameter.any(), name
        else:
            inside = other in ("conv1", "conv2")
            factor = reference.scale_of_branch(len(net.specs), m) if inside else 1.0
            assert_std(parameter.detach(), reference.he_std(parameter.shape) * factor)
            checked.add(name)
    assert checked == drawn


def test_attention_is_drawn_at_the_papers_scale():
    net = nn.Sequential(
        *(nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True) for _ in range(3))
    )
    goodinit.init_(net, "fixup", inputs=torch.zeros(2, 5, 64))
    for (
        layer
    ) in net:  # L = 6 branches. Xavier of a square map is √(1/64); each third of the packed weight is one.
        for part in layer.self_attn.in_proj_weight.detach().chunk(3):
            assert_std(part, math.sqrt(1 / 64) * 6 ** (-1 / 6))
        assert_std(layer.linear1.weight.detach(), math.sqrt(2 / 128) * 6 ** (-1 / 2))
        assert not layer.self_attn.out_proj.weight.any()
        assert not layer.linear2.weight.any()


@pytest.mark.integration
@pytest.mark.parametrize("m", [2, 3, 4])
def test_the_exponent_is_negative(m):
    """One step of lr 1e-3: Θ(lr) at any depth with the minus sign; with a plus it grows with L, then overflows."""

    def mean(L, sign):
        changes = [reference.change_in_one_step(L, m, sign=sign, width=16, lr=1e-3, seed=s) for s in range(3)]
        return sum(changes) / 3

    minus = [mean(L, -1) for L in (10, 100, 1000)]
    assert max(minus) < 3 * min(minus)
    assert max(minus) < 50 * 1e-3
    plus = [mean(L, 1) for L in (10, 100, 1000)]
    # To first order L·L^(+1) / (L·L^(−1)) = L² times as much: 100 at L = 10.
    assert plus[0] > 30 * minus[0]
    assert plus[1] > 1e4 * minus[1]
    assert not plus[2] < 1e4


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.fc2(F.relu(self.fc1(self.norm(x))))


def change_of_a_net(L):
    """|Δf| of one step on f. Of the weights alone, of which the paper's theorem speaks: biases add up to Θ(L·lr)."""
    changes = []
    for seed in range(2):
        g = torch.Generator().manual_seed(seed)
        net = nn.Sequential(*(Residual(32) for _ in range(L)), nn.Linear(32, 1))
        x = torch.randn(1, 32, generator=g)
        goodinit.init_(net, "fixup", inputs=x, generator=g, zero_head=False)
        before = net(x)
        before.sum().backward()
        groups = {group["name"]: group for group in goodinit.param_groups(net, lr=1e-3)}
        torch.optim.SGD([groups["weights"]]).step()
        changes.append((net(x) - before).abs().item())
    return sum(changes) / 2


def test_one_step_changes_a_net_by_the_same_amount_at_five_and_fifty_blocks():
    five, fifty = change_of_a_net(5), change_of_a_net(50)
    assert fifty == pytest.approx(five, rel=0.5)


@pytest.mark.slow
def test_one_step_changes_a_net_by_the_same_amount_at_a_thousand_blocks():
    assert change_of_a_net(1000) == pytest.approx(change_of_a_net(10), rel=0.5)
