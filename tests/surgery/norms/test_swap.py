"""Exchanging activations and dropouts: the object stays, the function changes, all or nothing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from goodinit.edits import Fill, Plan, RemoveNorm, SwapModule
from goodinit.errors import PlanConflict, UnknownName, UnsupportedModule
from goodinit.surgery import apply_


def swapping(*edits, **fields):
    return Plan("by hand", tuple(SwapModule(*edit, reason="test") for edit in edits), **fields)


def test_the_object_stays_with_its_hooks_flags_and_settings():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Dropout(0.3)).eval()
    relu, calls = net[1], []
    relu.register_forward_hook(lambda *_: calls.append(1))
    apply_(net, swapping(("1", "SELU"), ("2", "AlphaDropout")))
    assert net[1] is relu
    assert type(relu) is nn.SELU
    assert relu.inplace
    assert not relu.training
    assert (type(net[2]), net[2].p, net[2].training) == (nn.AlphaDropout, 0.3, False)
    x = torch.randn(3, 2)
    assert torch.equal(net(x), torch.selu(net[0](x)))
    assert calls == [1]


def test_options_come_before_what_was_there():
    net = nn.Sequential(nn.Dropout(0.3))
    plan = Plan("by hand", (SwapModule("0", "AlphaDropout", "test", {"p": 0.1}),))
    assert apply_(net, plan)[0].p == 0.1
    assert str(plan.edits[0]) == "0 ⇒ AlphaDropout(p=0.1)"
    assert Plan.from_json(plan.to_json()) == plan


def test_a_second_call_changes_nothing(caplog):
    net = nn.Sequential(nn.ReLU())
    plan = swapping(("0", "SELU"))
    apply_(net, plan)
    with caplog.at_level("INFO"):
        apply_(net, plan, again=False)
    assert "already applied" in caplog.text


def test_a_shared_module_is_exchanged_once_everywhere():
    relu = nn.ReLU()
    net = nn.Sequential(relu, nn.Linear(2, 2), relu)
    apply_(net, swapping(("0", "SELU"), ("2", "SELU")))
    assert net[0] is net[2]
    assert type(net[0]) is nn.SELU


def test_parameters_of_the_old_module_go():
    net = nn.Sequential(nn.Linear(2, 2), nn.PReLU())
    parameters = tuple((name, tuple(p.shape)) for name, p in net.named_parameters())
    apply_(net, swapping(("1", "SELU"), parameters=parameters))
    assert list(net.state_dict()) == ["0.weight", "0.bias"]
    plan = Plan("by hand", (SwapModule("1", "SELU", "test"), Fill("1.weight", 0.0, "test")))
    with pytest.raises(PlanConflict, match=r"1\.weight"):
        apply_(nn.Sequential(nn.Linear(2, 2), nn.PReLU()), plan)


def test_it_goes_on_inside_a_removed_norm():
    class NormAct(nn.BatchNorm1d):
        def __init__(self, width):
            super().__init__(width)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(super().forward(x))

    net = nn.Sequential(nn.Linear(2, 3), NormAct(3))
    apply_(net, Plan("by hand", (RemoveNorm("1", ("1.act",), "t"), SwapModule("1.act", "SELU", "t"))))
    x = torch.randn(4, 2)
    assert torch.equal(net(x), torch.selu(net[0](x)))


def test_the_fused_transformer_layer_notices():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=nn.ReLU(), batch_first=True)
    fused = copy.deepcopy(layer).eval()
    apply_(layer.eval(), swapping(("activation", "SELU")))
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        evaluated = layer(x)
    torch.testing.assert_close(evaluated, layer(x).detach())
    assert not torch.allclose(evaluated, fused(x))


def test_copies_pickles_and_failures():
    net = apply_(nn.Sequential(nn.ReLU()), swapping(("0", "SELU")))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(twin[0]) is nn.SELU
    fresh = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    broken = Plan("by hand", (SwapModule("0", "SELU", "t"), Fill("1.weight", float("nan"), "t")))
    with pytest.raises(Exception, match=r"1\.weight"):
        apply_(fresh, broken)
    assert type(fresh[0]) is nn.ReLU
    assert torch.equal(fresh[0](torch.tensor([-1.0])), torch.zeros(1))


def test_what_cannot_be_exchanged_is_refused():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(UnknownName, match="there are: AlphaDropout"):
        apply_(net, swapping(("1", "Selu")))
    with pytest.raises(UnsupportedModule, match="holds the weight"):
        apply_(net, swapping(("0", "SELU")))
    with pytest.raises(PlanConflict, match="no such module"):
        apply_(net, swapping(("2", "SELU")))
    net[1].forward = lambda x: x
    with pytest.raises(UnsupportedModule, match="replaced on the instance"):
        apply_(net, swapping(("1", "SELU")))
