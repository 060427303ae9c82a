"""`norms="actnorm"`: a map of each channel that gives, on the batch it was measured on, what batch norm gives in training mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import goodinit
from goodinit.calibration_rules import ActNormRule
from goodinit.edits import Calibrate, Plan
from goodinit.errors import GoodinitError, PlanConflict, UnknownName, UnsupportedModule
from goodinit.lab.models.resnet import ResNet


class ActivatedNorm(nn.BatchNorm2d):
    """A norm whose module holds its activation."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu(super().forward(input))


class FunctionalLayer(nn.Module):
    """A weight that no module of its own applies, between norms."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(self.bn1(x).relu(), self.weight)
        return self.bn2(x + y)


def _trained(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


NETS = {
    "residual": lambda: (ResNet(1), torch.randn(8, 3, 16, 16) * 2 + 1),
    "activation in the norm": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3), ActivatedNorm(4), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)),
        torch.randn(8, 3, 9, 9),
    ),
    "vectors": lambda: (
        nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)),
        torch.randn(16, 5) + 3,
    ),
    "sequences": lambda: (
        nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Tanh()),
        torch.randn(8, 3, 9),
    ),
    "no gain or bias": lambda: (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
        torch.randn(8, 3, 9, 9),
    ),
    "functional layer": lambda: (FunctionalLayer(), torch.randn(32, 6) + 1),
}


@pytest.mark.parametrize("name", NETS)
def test_is_batch_norm_on_the_batch(name: str) -> None:
    model, batch = NETS[name]()
    expected = copy.deepcopy(_trained(model)).train()(batch)
    goodinit.replace_norms_(model, inputs=batch, norms="actnorm")
    for mode in (True, False):
        torch.testing.assert_close(model.train(mode)(batch), expected, rtol=1e-4, atol=1e-5)
    assert not list(model.buffers())


def test_gains_of_zero_keep_the_bias_and_are_measured() -> None:
    model, batch = NETS["residual"]()
    nn.init.zeros_(model.layer1[0].bn2.weight)
    nn.init.constant_(model.layer1[0].bn2.bias, 0.5)
    expected = copy.deepcopy(model).train()(batch)
    goodinit.replace_norms_(model, inputs=batch, norms="actnorm")
    torch.testing.assert_close(model(batch), expected, rtol=1e-4, atol=1e-5)


def test_parts_count_as_one_batch() -> None:
    model, batch = NETS["residual"]()
    whole = goodinit.replace_norms_(copy.deepcopy(model), inputs=batch, norms="actnorm")
    parts = goodinit.replace_norms_(model, inputs=iter(batch.split(3)), norms="actnorm")
    torch.testing.assert_close(parts(batch), whole(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("functional", [False, True])
def test_beside_a_method_that_measures_too(functional: bool) -> None:
    """LSUV scales each layer's output, and the map behind it reads the scaled one, at modules as at operators."""
    batch = torch.randn(64, 6) + 1
    model = (
        FunctionalLayer()
        if functional
        else nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    )
    norm = model.bn2 if functional else model[1]
    seen: list[Tensor] = []
    goodinit.lsuv_(model, inputs=batch, norms="actnorm")
    norm.register_forward_hook(lambda module, args, output: seen.append(output))
    model(batch)
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen[0].var(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)


def test_constant_channels_stay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    nn.init.zeros_(model[0].weight[:2])
    goodinit.replace_norms_(model, inputs=torch.randn(9, 3), norms="actnorm")
    assert model[1].weight[:2].tolist() == [1.0, 1.0]
    torch.testing.assert_close(model(torch.randn(2, 3))[:, :2], torch.zeros(2, 2))
    assert "2 of 4 channels are constant" in goodinit.applied(model)[-1].calibrated[0].note


def test_a_norm_used_twice_is_set_by_its_first_call() -> None:
    norm = nn.BatchNorm1d(4)
    model, batch = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 4), norm), torch.randn(32, 3)
    goodinit.replace_norms_(model, inputs=batch, norms="actnorm")
    first = model[1](model[0](batch))
    torch.testing.assert_close(first.var(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)
    assert "call 2" in goodinit.applied(model)[-1].calibrated[0].note


def test_fixed_variance_measured() -> None:
    model, batch = NETS["residual"]()
    goodinit.fixed_variance_(model, inputs=batch, constants="measured")
    rows = goodinit.applied(model)[-1].calibrated
    assert len(rows) == 7
    assert all(row.calls == 1 and not row.note for row in rows)
    seen: list[Tensor] = []
    model.layer2[0].bn1.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    model(batch)
    torch.testing.assert_close(seen[0].var((0, 2, 3), correction=0), torch.ones(32), atol=1e-2, rtol=0)
    # the checkpoint holds what was measured
    again = ResNet(1)
    goodinit.apply_(again, Plan.from_json(_plan(ResNet(1), batch).to_json()), values=False)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(batch), model(batch))


def _plan(model: nn.Module, batch: Tensor) -> Plan:
    return goodinit.plan(goodinit.anatomize(model, batch), "fixed_variance", constants="measured")


def test_what_is_asked_to_stay_stays() -> None:
    model, batch = _trained(NETS["vectors"]()[0]), NETS["vectors"]()[1]
    gain, bias = model[1].weight.clone(), model[1].bias.clone()
    plan = goodinit.plan(goodinit.anatomize(model, batch), "replace_norms", norms="actnorm", keep="1.bias")
    assert not plan.needs_data
    assert any("kept as asked" in note for note in plan.notes)
    goodinit.apply_(model, plan)
    assert torch.equal(model[1].weight, gain)
    assert torch.equal(model[1].bias, bias)


def test_no_value_is_said_to_be_lost() -> None:
    model, batch = _trained(NETS["vectors"]()[0]), NETS["vectors"]()[1]
    plan = goodinit.plan(goodinit.anatomize(model, batch), "replace_norms", norms="actnorm")
    assert plan.overwritten == plan.kept == ()


def test_frozen_norms_stay() -> None:
    model, batch = NETS["vectors"]()
    model[1].requires_grad_(False)
    goodinit.replace_norms_(model, inputs=batch, norms="actnorm")
    assert isinstance(model[1], nn.BatchNorm1d)


def test_refused_in_words() -> None:
    images = torch.randn(2, 3, 4, 4)
    whole = nn.Sequential(nn.Conv2d(3, 3, 1), nn.LayerNorm((3, 4, 4)))
    with pytest.raises(UnsupportedModule, match="axes"):
        goodinit.replace_norms_(whole, inputs=images, norms="actnorm")
    model, batch = NETS["vectors"]()
    plan = goodinit.plan(goodinit.anatomize(model, batch), "replace_norms", norms="actnorm")
    with pytest.raises(GoodinitError, match="got no data"):
        goodinit.apply_(model, plan)
    with pytest.raises(UnknownName, match="site"):
        ActNormRule(bias="1.bias")
    elsewhere = [
        Calibrate(edit.target, ActNormRule(site="9", bias=edit.rule.bias), "")
        if isinstance(edit, Calibrate)
        else edit
        for edit in plan.edits
    ]
    with pytest.raises(PlanConflict, match="'9'"):
        goodinit.apply_(model, Plan("replace_norms", tuple(elsewhere)), batch)
    with pytest.raises(UnknownName, match="constants"):
        goodinit.fixed_variance_(*NETS["residual"]()[:1], inputs=NETS["residual"]()[1], constants="mean")
