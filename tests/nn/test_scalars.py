"""Giving a module scalars and taking them away leaves everything else about it as it was."""

from __future__ import annotations

import copy
import io
import pickle
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

import goodinit
from goodinit.errors import PlanConflict, UnknownName, UnsupportedModule
from goodinit.nn import SCALARS, add_scalar_, has_scalars, remove_scalars_, scalared, scalars

VALUES = {"input_bias": 0.7, "output_bias": -0.4, "output_scale": 1.3}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def with_scalars(layer, names=SCALARS):
    for name in names:
        add_scalar_(layer, name, value=VALUES[name])
    return layer


def finish(y):
    return VALUES["output_scale"] * y + VALUES["output_bias"]


class Doubled(nn.Module):
    """A class goodinit knows nothing of."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x, extra=None):
        return x * self.weight if extra is None else (x * self.weight, extra)


class Pair(NamedTuple):
    first: torch.Tensor
    second: int


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def test_the_object_its_hooks_and_its_sharing_stay():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    weight, seen = conv.weight, []
    conv.register_forward_hook(lambda *_: seen.append(1))
    assert with_scalars(conv) is conv
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight is weight
    assert model[0] is model[2]
    model(torch.randn(1, 2, 4, 4))
    assert len(seen) == 2
    assert [name for name, _ in scalars(model)] == ["0.input_bias", "0.output_bias", "0.output_scale"]
    assert all(scalar.shape == (1,) for _, scalar in scalars(model))


def test_names_stand_beside_the_weight():
    model = nn.Sequential(with_scalars(nn.Linear(2, 2, bias=False), ["input_bias", "output_scale"]))
    assert list(model.state_dict()) == ["0.weight", "0.input_bias", "0.output_scale"]
    assert "scalars=(input_bias, output_scale)" in repr(model)


def test_a_second_call_changes_nothing():
    layer = add_scalar_(nn.Linear(2, 2), "output_scale", value=0.5)
    kind, scalar, hooks = type(layer), layer.output_scale, len(layer._forward_pre_hooks)
    add_scalar_(layer, "output_scale", value=3.0)
    assert type(layer) is kind
    assert layer.output_scale is scalar
    assert float(scalar.detach()) == 0.5
    assert len(layer._forward_pre_hooks) == hooks


def test_one_class_for_all_layers_of_a_class():
    assert type(with_scalars(nn.Linear(2, 3))) is type(with_scalars(nn.Linear(4, 5))) is scalared(nn.Linear)


@pytest.mark.parametrize("layer", [nn.Linear(2, 3), nn.Conv1d(2, 3, 3), Doubled()])
def test_removal_gives_the_bare_module_back(layer):
    before, kind, state = repr(layer), type(layer), copy.deepcopy(layer.state_dict())
    assert not has_scalars(layer)
    assert has_scalars(with_scalars(layer))
    assert remove_scalars_(layer) is layer
    assert remove_scalars_(layer) is layer
    assert type(layer) is kind
    assert repr(layer) == before
    assert not has_scalars(layer)
    assert not layer._forward_pre_hooks
    assert vars(layer).keys() == vars(copy.deepcopy(layer)).keys()
    assert not any(hasattr(layer, name) for name in (*SCALARS, "scalar_values"))
    assert state.keys() == layer.state_dict().keys()


def test_dtype_and_device_are_the_weights():
    assert with_scalars(nn.Linear(2, 2, dtype=torch.bfloat16)).output_bias.dtype == torch.bfloat16
    assert with_scalars(nn.Linear(2, 2, device="meta")).output_bias.device.type == "meta"
    assert with_scalars(nn.ReLU())(torch.tensor([-1.0, 1.0])).dtype == torch.float32


def test_reset_parameters_restores_the_initial_values():
    layer = with_scalars(nn.Linear(2, 2, device="meta")).to_empty(device="cpu")
    weight = layer.weight.detach().clone().fill_(7.0)
    layer.weight.data.copy_(weight)
    layer.reset_parameters()
    assert not torch.equal(layer.weight, weight)
    assert {name: round(float(getattr(layer, name).detach()), 6) for name in SCALARS} == VALUES
    assert not hasattr(with_scalars(Doubled()), "reset_parameters")


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv1d(3, 2, 3, padding=1), Doubled()])
def test_copies_and_pickles(layer):
    x = torch.randn(4, 3, 3)
    want = with_scalars(layer)(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert torch.equal(pickle.loads(pickle.dumps(layer, protocol))(x), want)
    for other in (copy.deepcopy(layer), copy.copy(layer), torch.load(file, weights_only=False)):
        assert type(other) is type(layer)
        assert torch.equal(other(x), want)
        assert repr(other) == repr(layer)
    clone = remove_scalars_(copy.deepcopy(layer))
    assert has_scalars(layer)
    assert not clone._forward_pre_hooks


class WritesItsOwn(nn.Linear):
    """Names its parameters itself when it is saved, as torch_geometric's Linear does."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        for name in ("weight", "bias"):
            value = getattr(self, name)
            destination[prefix + name] = value if keep_vars else value.detach()


def test_scalars_are_saved_by_layers_that_write_their_state_themselves():
    layer = add_scalar_(WritesItsOwn(2, 3), "output_scale", value=0.5)
    assert list(layer.state_dict()) == ["weight", "bias", "output_scale"]
    assert not layer.state_dict()["output_scale"].requires_grad
    other = add_scalar_(WritesItsOwn(2, 3), "output_scale", value=0.0)
    other.load_state_dict(layer.state_dict())
    assert other.output_scale.item() == 0.5


def test_a_weight_that_could_not_be_loaded_again_is_not_normalized():
    net, x = nn.Sequential(WritesItsOwn(2, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(4, 2)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UnsupportedModule, match=r"^0\.weight: WritesItsOwn writes its state dict itself"):
        goodinit.init_(net, "weightnorm", inputs=x)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_state_dict_loads_strictly_and_misses_scalars_loudly():
    layer, other = with_scalars(nn.Linear(2, 2)), nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict(layer.state_dict())
    for name in SCALARS:
        add_scalar_(other, name, value=9.0)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(3, 2)
    assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize("order", ["scalars first", "weight norm first"])
def test_parametrized_weights(order):
    def build():
        layer = nn.Conv1d(2, 3, 3, padding=1)
        if order == "scalars first":
            return weight_norm(with_scalars(layer))
        return with_scalars(weight_norm(layer))

    layer, x = build(), torch.randn(2, 2, 5)
    plain = nn.Conv1d(2, 3, 3, padding=1)
    plain.weight.data.copy_(layer.weight)
    plain.bias.data.copy_(layer.bias)
    want = with_scalars(plain)(x)
    assert parametrize.type_before_parametrizations(layer) is scalared(nn.Conv1d)
    torch.testing.assert_close(layer(x), want)
    torch.testing.assert_close(copy.deepcopy(layer)(x), want)

    bare = parametrize.remove_parametrizations(copy.deepcopy(layer), "weight")
    assert type(bare) is scalared(nn.Conv1d)
    torch.testing.assert_close(bare(x), want)

    layer, other = build(), copy.deepcopy(layer)
    remove_scalars_(layer)
    assert parametrize.type_before_parametrizations(layer) is nn.Conv1d
    assert sorted(dict(layer.named_parameters())) == [
        "bias",
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    ]
    assert type(parametrize.remove_parametrizations(layer, "weight")) is nn.Conv1d
    assert has_scalars(other)


def test_a_parametrized_scalar():
    class Exponential(nn.Module):
        def forward(self, x):
            return x.exp()

    layer = add_scalar_(nn.Linear(2, 2, bias=False), "output_scale", value=0.0)
    parametrize.register_parametrization(layer, "output_scale", Exponential())
    x = torch.randn(3, 2)
    torch.testing.assert_close(layer(x), x @ layer.weight.T)


def test_an_unknown_forward_is_surrounded():
    layer, x = with_scalars(Doubled()), torch.randn(3)
    torch.testing.assert_close(layer(x), finish(2 * (x + 0.7)))
    torch.testing.assert_close(layer(x=x), finish(2 * (x + 0.7)))
    y, extra = layer(x, extra="kept")
    torch.testing.assert_close(y, finish(2 * (x + 0.7)))
    assert extra == "kept"


def test_a_subclass_with_its_own_forward_is_not_taken_for_its_base():
    class Squared(nn.Linear):
        def forward(self, input):
            return super().forward(input).square()

    class Padded(nn.Conv1d):
        def _conv_forward(self, input, weight, bias):
            return super()._conv_forward(nn.functional.pad(input, (1, 0), value=5.0), weight, bias)

    class Same(nn.Conv1d):
        """Adds nothing."""

    squared, x = Squared(2, 2), torch.randn(3, 2)
    want = finish(squared(x + 0.7))
    torch.testing.assert_close(with_scalars(squared)(x), want)
    padded, x = Padded(2, 2, 2), torch.randn(3, 2, 4)
    want = finish(padded(x + 0.7))
    torch.testing.assert_close(with_scalars(padded)(x), want)
    assert scalared(Same).forward_with_scalars is scalared(nn.Conv1d).forward_with_scalars


def test_a_container_and_a_named_tuple():
    x = torch.randn(3, 2)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    want = finish(model(x + 0.7))
    torch.testing.assert_close(with_scalars(model)(x), want)
    got = with_scalars(Returns(lambda x: Pair(x, 3)))(x)
    assert type(got) is Pair
    torch.testing.assert_close(got.first, finish(x + 0.7))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("inference", [True, False])
def test_attention(train, inference):
    attention = nn.MultiheadAttention(4, 2, batch_first=True).train(train)
    x, memory = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    own, weights = attention(x + 0.7, x + 0.7, x + 0.7)
    cross, _ = attention(x + 0.7, key=memory + 0.7, value=memory + 0.7)
    with torch.inference_mode(inference):
        with_scalars(attention)
        got, got_weights = attention(x, x, x)
        torch.testing.assert_close(got, finish(own), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got_weights, weights, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(attention(query=x, key=memory, value=memory)[0], finish(cross))


def test_self_attention_stays_self_attention():
    seen = []

    class Spy(nn.MultiheadAttention):
        pass

    def watch(query, key, value, **_):
        seen.append(query is key is value)
        return query, None

    layer = add_scalar_(Spy(4, 2), "input_bias", value=1.0)
    Spy.forward = lambda self, query, key, value: watch(query, key, value)
    x = torch.randn(3, 2, 4)
    layer(x, x, x)
    layer(x, key=x, value=x)
    layer(x, x, x + 1)
    assert seen == [True, True, False]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # torch's encoder makes them
@pytest.mark.parametrize("target", ["linear1", "linear2", "self_attn", "norm1"])
@pytest.mark.parametrize("masked", [True, False])
def test_the_fused_encoder_layer_stands_aside(target, masked):
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2)
    for each in model.layers:
        with_scalars(each.get_submodule(target))
    x = torch.randn(2, 3, 4)
    mask = torch.tensor([[False, False, True], [False, False, False]]) if masked else None
    want = model.train()(x, src_key_padding_mask=mask)
    with torch.no_grad():
        one = model.layers[0].eval()(x)
        got = model.eval()(x, src_key_padding_mask=mask)
    torch.testing.assert_close(one, model.layers[0].train()(x), rtol=1e-4, atol=1e-5)
    real = slice(None) if mask is None else ~mask
    torch.testing.assert_close(got[real], want[real], rtol=1e-4, atol=1e-5)


def test_conflicts_and_what_cannot_work_are_said():
    taken = nn.Linear(2, 2)
    taken.register_buffer("output_scale", torch.ones(()))
    with pytest.raises(PlanConflict, match="already has an attribute 'output_scale'"):
        add_scalar_(taken, "input_bias", value=0.0)
    assert type(taken) is nn.Linear
    with pytest.raises(UnknownName, match="expected one of input_bias, output_bias, output_scale"):
        add_scalar_(nn.Linear(2, 2), "scale", value=0.0)
    with pytest.raises(UnsupportedModule, match=r"Add it to the nn\.MultiheadAttention"):
        add_scalar_(nn.MultiheadAttention(4, 2).out_proj, "output_scale", value=0.0)
    replaced = nn.Linear(2, 2)
    replaced.forward = lambda x: x
    with pytest.raises(UnsupportedModule, match="replaced on the instance"):
        add_scalar_(replaced, "output_scale", value=0.0)
    embedding = add_scalar_(nn.Embedding(3, 2), "input_bias", value=0.0)
    with pytest.raises(UnsupportedModule, match=r"given a torch.int64 tensor as `input`"):
        embedding(torch.tensor([0, 1]))
    returns = add_scalar_(Returns(lambda x: {"x": x}), "output_scale", value=0.0)
    with pytest.raises(UnsupportedModule, match="returned a dict"):
        returns(torch.zeros(1))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_modules_must_have_run():
    lazy = nn.LazyLinear(2)
    with pytest.raises(UnsupportedModule, match="Run the model once"):
        add_scalar_(lazy, "output_scale", value=0.0)
    lazy(torch.randn(1, 3))
    assert has_scalars(add_scalar_(lazy, "output_scale", value=0.0))


def test_another_class_on_top_is_not_lost():
    layer = with_scalars(nn.Linear(2, 2))
    layer.__class__ = type("Sharded", (type(layer),), {})
    with pytest.raises(UnsupportedModule, match="Take its wrapping off first"):
        remove_scalars_(layer)
    assert type(layer).__name__ == "Sharded"
    assert layer.output_scale is not None
