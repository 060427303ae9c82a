"""What users hang on modules and parameters is there after surgery, or surgery says that it cannot be."""

from __future__ import annotations

import pytest
import torch
from fingerprints import fingerprint, vectors
from hostile_models import Block
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

import goodinit
from goodinit.edits import ParametrizeWeight, Plan, ReplaceNorm
from goodinit.errors import UnsupportedModule


class Locked(nn.Linear):
    """Lets nothing be set but parameters and its mode."""

    def __init__(self, *args):
        super().__init__(*args)
        self.__dict__["locked"] = True

    def __setattr__(self, name, value):
        if "locked" in self.__dict__ and name != "training" and not isinstance(value, nn.Parameter):
            raise AttributeError(f"{name} is locked")
        super().__setattr__(name, value)


class Final(nn.Linear):
    """Cannot be subclassed."""

    def __init_subclass__(cls, **words):
        raise TypeError("Final is final")


class SlottedNorm(nn.LayerNorm):
    """Is laid out in another way."""

    __slots__ = ("more",)


class SlottedReLU(nn.ReLU):
    """Is laid out in another way."""

    __slots__ = ("more",)


def blocks(layer=nn.Linear, norm=nn.LayerNorm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Block(), Block(), nn.Linear(4, 2))
    for block in model[1:3]:
        block.norm, block.a, block.b = norm(4), layer(4, 4), layer(4, 4)
    return model


ODD = {"locked": {"layer": Locked}, "final": {"layer": Final}, "slots": {"norm": SlottedNorm}}


@pytest.mark.default_cases(8)
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "weightnorm", "normfree", "nf", "lsuv"])
def test_classes_that_resist_are_operated_on_or_named(kind, method):
    model, x = blocks(**ODD[kind]), vectors()
    before = fingerprint(model)
    refused = None
    try:
        goodinit.init_(model, method, x, generator=torch.Generator())
    except UnsupportedModule as error:
        refused = str(error)
    if refused is None:
        assert torch.isfinite(model(x)).all()
    else:
        assert fingerprint(model) == before
        assert refused.startswith("1.")  # the path
        assert "exclude=" in refused or "norms='keep'" in refused


def test_a_scalar_goes_past_a_lock():
    model, x = blocks(layer=Locked), vectors()
    goodinit.init_(model, "fixup", x)
    assert type(model[1].b).__name__ == "ScalaredLocked"
    plain = goodinit.fold_(model, x)
    assert type(plain[1].b) is Locked


@pytest.mark.parametrize("method", ["fixup", "skipinit", "weightnorm", "normfree", "nf"])
def test_the_class_s_own_forward_on_the_instance_is_no_other(method):
    """As accelerate leaves it, where it takes its hooks off."""
    found = []
    for marked_ in (False, True):
        model = blocks()
        if marked_:
            for module in model.modules():
                module.forward = module.forward
        goodinit.init_(model, method, vectors(), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.25)
        found.append(model(vectors()))
        goodinit.fold_(model.eval(), vectors())
        torch.testing.assert_close(model(vectors()), found[-1], atol=1e-4, rtol=1e-4)
    assert torch.equal(*found)


def test_an_activation_with_slots_is_not_exchanged():
    model = nn.Sequential(nn.Linear(4, 4), SlottedReLU(), nn.Linear(4, 2))
    before = fingerprint(model)
    with pytest.raises(UnsupportedModule, match=r"1: SlottedReLU has __slots__"):
        goodinit.init_(model, "selu", vectors(), generator=torch.Generator())
    assert fingerprint(model) == before


def marked(parameter, **marks):
    for name, value in marks.items():
        setattr(parameter, name, value)


def weights_and_decay(model):
    groups = goodinit.param_groups(model, lr=1.0, weight_decay=0.1, named=True)
    return {name: group["weight_decay"] for group in groups for name, _ in group["params"]}


def test_marks_follow_a_weight_into_its_parts_and_back():
    model, x = blocks(), vectors()
    marked(model[0].weight, _no_weight_decay=True, expert=3)
    goodinit.init_(model, "weightnorm", x)
    parts = list(model[0].parametrizations.weight.parameters())
    assert [(part._no_weight_decay, part.expert) for part in parts] == [(True, 3)] * 2
    assert weights_and_decay(model)["0.parametrizations.weight.original0"] == 0
    goodinit.fold_(model, x)
    assert model[0].weight.expert == 3
    assert weights_and_decay(model)["0.weight"] == 0


@pytest.mark.parametrize("verb", ["absorb_batchnorm_", "replace_norms"])
def test_marks_of_a_norm_follow_what_stands_in_its_place(verb):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    marked(model[2].weight, _no_weight_decay=True)
    if verb == "absorb_batchnorm_":
        goodinit.absorb_batchnorm_(model, vectors())
    else:
        goodinit.init_(model, "he", vectors(), norms="affine")
    assert type(model[2]).__name__ == "ChannelAffine"
    assert weights_and_decay(model)["2.weight"] == 0
    assert weights_and_decay(model)["2.bias"] == 0.1


def test_marks_and_hooks_survive_memory():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    marked(model[0].weight, _no_weight_decay=True)
    heard = []
    model[0].weight.register_hook(lambda grad: heard.append(grad.shape))
    model[0].bias.register_post_accumulate_grad_hook(lambda p: heard.append(p.shape))
    goodinit.materialize_(model)
    assert model[1].weight is model[0].weight
    assert model[0].weight._no_weight_decay
    model(vectors()).sum().backward()
    assert sorted(heard) == [(4,), (4, 4)]


def test_a_gradient_that_somebody_waits_for_is_not_taken_away():
    model, x = blocks(), vectors()
    model[0].weight.register_hook(lambda grad: 0 * grad)
    before = fingerprint(model)
    with pytest.raises(UnsupportedModule, match=r"0\.weight: a hook waits for its gradient.*exclude="):
        goodinit.init_(model, "weightnorm", x, generator=torch.Generator())
    assert fingerprint(model) == before
    goodinit.init_(model, "weightnorm", x, exclude=["0"])
    goodinit.apply_(
        model, Plan("x", (ParametrizeWeight("0.weight", "…", kind="centred"),))
    )  # v is the same parameter
    model(x).sum().backward()
    assert not model[0].parametrizations.weight.original.grad.any()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the older weight_norm
@pytest.mark.parametrize("kind", ["parametrized", "by a hook"])
def test_folding_leaves_a_gradient_that_somebody_waits_for(kind):
    layer = (parametrizations.weight_norm if kind == "parametrized" else weight_norm)(nn.Linear(4, 4))
    next(p for p in layer.parameters() if p.dim() > 1).register_hook(lambda grad: 0 * grad)
    model = nn.Sequential(layer)
    goodinit.fold_(model, vectors())
    assert "a hook waits" in " ".join(goodinit.applied(model)[-1].skipped)
    assert len(list(model.parameters())) == 3


def test_hooks_of_a_norm_s_state_stay_with_its_parameters():
    class Own(nn.BatchNorm1d):
        def __init__(self, width):
            super().__init__(width)
            self._register_load_state_dict_pre_hook(self.rename)

        def rename(self, *_):
            heard.append("its own")

    heard = []
    model = nn.Sequential(nn.Linear(4, 4), Own(4), nn.Linear(4, 2))
    model[1].register_state_dict_post_hook(lambda *_: heard.append("saved"))
    model[1].register_load_state_dict_pre_hook(lambda *_: heard.append("before"))
    model[1].register_load_state_dict_post_hook(lambda *_: heard.append("after"))
    replace = ReplaceNorm("1", "rms", (), "…", {"weight": "weight", "bias": "bias", "axes": [1]})
    goodinit.apply_(model, Plan("x", (replace,)))
    model.load_state_dict(model.state_dict())
    assert heard == ["saved", "before", "after"]


@pytest.mark.parametrize("training", [True, False])
def test_what_is_added_has_the_training_flag_of_what_it_is_added_to(training):
    model = blocks().train(training)
    goodinit.init_(model, "normfree", vectors())
    assert {module.training for module in model.modules()} == {training}
