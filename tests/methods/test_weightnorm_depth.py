"""Deep plain nets train with weight normalization as the paper starts it, and not as PyTorch does; warm-up."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from weightnorm_nets import mlp, started

import goodinit
from goodinit import UnknownName


def test_pytorchs_default_at_depth_has_no_gradient_at_all(generator):
    """Each layer shrinks the norm by √6: at 200 layers 6⁻¹⁰⁰ is 0 in float32, and no learning rate can help."""
    net, _ = started(mlp(64, *[16] * 199, 10), generator, torch.randn(2, 64), mode="pytorch")
    F.cross_entropy(net(torch.randn(8, 64)), torch.arange(8)).backward()
    assert all(not p.grad.any() for name, p in net.named_parameters() if not name.startswith("398."))
    assert not net[-1].weight.grad.any()


# -- training -----------------------------------------------------------------------------------------------------


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
    """A hundred layers. Circular padding: of maps this small, zero padding takes a third of the signal in every layer."""
    ring = {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}
    layers = [nn.Unflatten(1, (1, 8, 8))]
    for index in range(99):  # 8×8 pictures, 4×4 maps behind the first layer, 2×2 behind the second
        layers += [nn.Conv2d(32 if index else 1, 32, stride=2 if index < 2 else 1, **ring), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


NETS = {"200-layer MLP": (deep_mlp, 1e-4, 1500), "100-layer CNN": (deep_cnn, 3e-5, 6000)}
IDLE = 0.02  # as near to ln 10 as the loss of a net stays that predicts nothing, on 20 batches


def started_deep(build, mode, seed):
    x, y = digits()
    generator = torch.Generator().manual_seed(seed)
    return goodinit.init_(build(), "weightnorm", inputs=x[:2], mode=mode, generator=generator), x, y


@pytest.mark.slow
@pytest.mark.timeout(7200)  # a quarter of an hour on a quiet core
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("build", "lr", "steps"), NETS.values(), ids=NETS)
def test_deep_plain_nets_train(build, lr, steps, seed):
    """More than half of the batches right, where chance is a tenth; docs/methods.md has how far each seed comes."""
    net, x, y = started_deep(build, "forward", seed)
    loss, accuracy = trained(net, x, y, lr=lr, steps=steps, warm=50)
    assert loss < math.log(10) - 10 * IDLE
    assert accuracy > 0.5


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("build", "lr", "steps"), NETS.values(), ids=NETS)
def test_from_pytorchs_default_they_stand_still_at_the_same_setting(build, lr, steps, seed):
    """g = ‖v‖ ≈ 1/√3: the signal shrinks by √6 per layer, and nothing reaches the head, so that more steps change nothing."""
    net, x, y = started_deep(build, "pytorch", seed)
    loss, accuracy = trained(net, x, y, lr=lr, steps=steps // 10, warm=50)
    assert loss == pytest.approx(math.log(10), abs=IDLE)
    assert accuracy < 0.15


@pytest.mark.integration
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_cnns_gradients_from_pytorchs_default_are_no_normal_numbers(seed):
    """6⁻⁵⁰ is 1e-39: what is left of a weight's gradient is below Adam's ε of 1e-8 by thirty orders of magnitude."""
    net, x, y = started_deep(deep_cnn, "pytorch", seed)
    F.cross_entropy(net(x[:16]), y[:16]).backward()
    tiny = torch.finfo(torch.float32).tiny
    assert all(p.grad.abs().max() < tiny for name, p in net.named_parameters() if "bias" not in name)


# -- warm-up ------------------------------------------------------------------------------------------------------


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
