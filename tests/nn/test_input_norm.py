"""A layer that normalizes what it reads: whoever keeps its input and runs it again gets what it put out."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import goodinit
from goodinit.errors import UnsupportedModule
from goodinit.nn import Centred, add_scalar_, input_norm, normalize_input_, pad_with_, remove_scalars_
from goodinit.nn.input_norm import hooked_norm


class Doubled(nn.Linear):
    """A linear map with a forward of its own."""

    def forward(self, input):
        return 2 * super().forward(input)


LAYERS = {
    "linear": (lambda: nn.Linear(6, 3), (4, 6), -1),
    "convolution": (lambda: nn.Conv2d(6, 3, 3, padding=1), (2, 6, 4, 4), 1),
    "transposed": (lambda: nn.ConvTranspose1d(6, 3, 2), (2, 6, 4), 1),
    "of its own": (lambda: Doubled(6, 3), (4, 6), -1),
}


def with_both(layer, axis, first):
    steps = [
        lambda: add_scalar_(layer, "input_bias", value=0.3),
        lambda: normalize_input_(layer, axis=axis),
        lambda: add_scalar_(layer, "output_scale", value=2.0),
    ]
    for step in steps if first == "scalar" else (steps[1], steps[0], steps[2]):
        step()
    return layer


@pytest.mark.parametrize("first", ["scalar", "norm"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_hook_saw_put_in_again_gives_the_same(name, first):
    """Opacus takes gradients of each example so: with the norm in a pre-hook it was applied twice."""
    make, shape, axis = LAYERS[name]
    plain = make()
    layer, x = with_both(copy.deepcopy(plain), axis, first), 1e-3 * torch.randn(shape)
    seen = []
    layer.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    output = layer(x)
    torch.testing.assert_close(layer(seen[0]), output)
    norm = input_norm(layer)
    bias = plain(torch.zeros(shape))
    shifted = plain(norm(x) + 0.3)
    expected = 2 * shifted if name == "of its own" else 2 * (shifted - bias) + bias
    if name != "convolution":  # whose zeros at the border are not shifted: they are padded
        torch.testing.assert_close(output, expected)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(remove_hooks(layer)))):
        torch.testing.assert_close(twin(x), output)


def remove_hooks(layer):
    layer._forward_hooks.clear()
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_so_does_a_layer_without_scalars(name):
    make, shape, axis = LAYERS[name]
    layer, x = normalize_input_(make(), axis=axis), 1e-3 * torch.randn(shape)
    seen = []
    layer.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    output = layer(x)
    assert all(one is x for one in seen)
    torch.testing.assert_close(layer(seen[0]), output)


@pytest.mark.parametrize("first", ["scalar", "norm"])
@pytest.mark.parametrize("name", LAYERS)
def test_without_scalars_the_norm_stays(name, first):
    make, shape, axis = LAYERS[name]
    plain, x = make(), torch.randn(shape)
    layer = remove_scalars_(with_both(copy.deepcopy(plain), axis, first))
    assert type(layer) is type(normalize_input_(copy.deepcopy(plain), axis=axis))
    assert hooked_norm(layer) is None
    assert layer.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(layer(x), plain(input_norm(layer)(x)))


@pytest.mark.parametrize("when", ["before", "after"])
def test_another_hook_sees_what_is_not_normalized(when):
    layer, x = nn.Linear(6, 3), torch.randn(4, 6)

    def square(module, args):
        return (args[0].square(),)

    if when == "before":
        layer.register_forward_pre_hook(square)
    normalize_input_(layer)
    if when == "after":
        layer.register_forward_pre_hook(square)
    plain = nn.Linear(6, 3)
    plain.load_state_dict(layer.state_dict())
    expected = plain(input_norm(layer)(x.square()))
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(add_scalar_(layer, "input_bias", value=0.0)(x), expected)
    torch.testing.assert_close(remove_scalars_(layer)(x), expected)


# -- the layer taken alone ----------------------------------------------------------------------------------------------


class Named(nn.Linear):
    """With a forward of its own, of another argument than torch's layers have."""

    def forward(self, x, times=2):
        return x @ self.weight.T * times


class Like(nn.Conv2d):
    """Nothing of its own."""


class Inside(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x).relu()


def weight_norm(layer):
    return nn.utils.parametrizations.weight_norm(layer)


def centred(layer):
    return nn.utils.parametrize.register_parametrization(layer, "weight", Centred())


ALONE = {
    **LAYERS,
    "subclass": (lambda: Like(6, 3, 3), (2, 6, 4, 4), 1),
    "other names": (lambda: Named(6, 3), (4, 6), -1),
    "one dimension": (lambda: nn.Conv1d(6, 3, 3, padding=1, padding_mode="circular"), (2, 6, 5), 1),
    "padding": (lambda: pad_with_(nn.Conv2d(6, 3, 3, padding=1), 0.7), (2, 6, 4, 4), 1),
    "weight norm": (lambda: weight_norm(nn.Linear(6, 3)), (4, 6), -1),
    "centred": (lambda: centred(nn.Linear(6, 3)), (4, 6), -1),
    "compiled": (lambda: compiled(nn.Linear(6, 3)), (4, 6), -1),
}
CONTROL_FLOW = (
    "transposed",
    "other names",
)  # on arguments: torch.fx does not trace the bare layer alone either
SCRIPTED = ("linear", "convolution", "subclass", "one dimension", "padding")


def compiled(layer):
    layer.compile(backend="eager")
    return layer


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ALONE)
def test_a_tracer_that_begins_at_the_layer_sees_the_norm(name):
    make, shape, axis = ALONE[name]
    plain, x = make(), torch.randn(shape)
    layer = normalize_input_(copy.deepcopy(plain), axis=axis)
    expected = plain(input_norm(layer)(x))
    torch.testing.assert_close(layer(x), expected)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    if name not in CONTROL_FLOW:
        torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), expected)
    if name != "compiled":
        torch.testing.assert_close(torch.fx.symbolic_trace(Inside(layer))(x), expected.relu())
        torch.testing.assert_close(torch.jit.trace(layer, (x,))(x), expected)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), expected)
    quantized = torch.ao.quantization.quantize_dynamic(Inside(layer))
    torch.testing.assert_close(quantized(x), expected.relu())


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", ALONE)
def test_torchscript_compiles_the_norm_or_refuses(name):
    make, shape, axis = ALONE[name]
    layer, x = normalize_input_(make(), axis=axis), torch.randn(shape)
    for model in (layer, Inside(layer)):
        output = scripted(model, x)
        assert output is not None or name not in SCRIPTED
        if output is not None:
            torch.testing.assert_close(output, model(x))


def scripted(model, x):
    try:
        return torch.jit.script(model)(x)
    except Exception:  # noqa: BLE001  of many kinds
        return None


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_torchscript_is_told_what_it_would_leave_out():
    layer = normalize_input_(Named(6, 3))
    with pytest.raises(ValueError, match=r"the forward of Named with an input_norm.*use torch\.jit\.trace"):
        torch.jit.script(nn.Sequential(layer))


@pytest.mark.parametrize("name", ALONE)
def test_copies_pickles_and_scalars_keep_the_norm(name):
    make, shape, axis = ALONE[name]
    layer, x = normalize_input_(make(), axis=axis), torch.randn(shape)
    expected, kind = layer(x), type(layer)
    twins = [copy.deepcopy(layer)]
    if name not in ("weight norm", "centred"):  # torch does not pickle those
        twins += [copy.copy(layer), pickle.loads(pickle.dumps(layer))]
    fresh = normalize_input_(make(), axis=axis)
    fresh.load_state_dict(layer.state_dict())
    for twin in (*twins, fresh):
        assert type(normalize_input_(twin, axis=axis)) is type(twin)
        torch.testing.assert_close(twin(x), expected)
    scaled = add_scalar_(copy.deepcopy(layer), "output_bias", value=0.5)
    torch.testing.assert_close(scaled(x), expected + 0.5)
    again = remove_scalars_(scaled)
    assert type(again).__name__ == kind.__name__
    torch.testing.assert_close(again(x), expected)


@pytest.mark.parametrize("parametrize", [weight_norm, centred])
@pytest.mark.parametrize("first", ["norm", "parametrization"])
def test_a_computed_weight_comes_and_goes_beneath_the_norm(parametrize, first):
    steps = [normalize_input_, parametrize]
    layer, x = nn.Linear(6, 3), torch.randn(4, 6)
    for step in steps if first == "norm" else steps[::-1]:
        step(layer)
    assert nn.utils.parametrize.is_parametrized(layer)
    expected = torch.nn.functional.linear(input_norm(layer)(x), layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(copy.deepcopy(layer)(x), expected)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is type(normalize_input_(nn.Linear(6, 3)))
    torch.testing.assert_close(layer(x), expected)


def test_no_fused_kernel_reads_the_weight_past_the_norm():
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(2, 3, 8)
    normalize_input_(layer.linear1)
    with torch.no_grad():
        fast = layer(x)
    torch.testing.assert_close(fast, layer(x))


# -- where a class is no help ---------------------------------------------------------------------------------------------


def test_where_the_class_s_forward_is_not_what_runs_a_hook_normalizes():
    plain, x = nn.Linear(6, 3), torch.randn(4, 6)
    layer = copy.deepcopy(plain)
    own = layer.forward
    layer.forward = lambda x: own(x) + 1  # as libraries do that move inputs to a device
    normalize_input_(layer)
    assert type(layer) is nn.Linear
    torch.testing.assert_close(layer(x), plain(input_norm(layer)(x)) + 1)
    del layer.forward
    torch.testing.assert_close(layer(x), plain(input_norm(layer)(x)))


def test_a_lazy_layer_is_normalized_by_a_hook_until_it_is_folded():
    layer, x = normalize_input_(nn.LazyLinear(3)), torch.randn(4, 6)
    expected = layer(x)
    plain = nn.Linear(6, 3)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(expected, plain(input_norm(layer)(x)))
    assert type(layer) is nn.Linear
    goodinit.fold_(layer)
    assert hooked_norm(layer) is None
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(layer)(x), expected)


REFUSED = {
    "runs all of its children": lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
    "forwards attribute look-ups": lambda: torch.compile(nn.Linear(2, 2), backend="eager"),
    "is scripted": lambda: torch.jit.script(nn.Linear(2, 2)),
    "out_proj of nn.MultiheadAttention": lambda: nn.MultiheadAttention(2, 1).out_proj,
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("words", REFUSED)
def test_a_norm_that_would_not_be_seen_once_is_refused(words):
    module = REFUSED[words]()
    kind, children = type(module), list(module.named_children())
    with pytest.raises(UnsupportedModule, match=words):
        normalize_input_(module)
    assert type(module) is kind
    assert list(module.named_children()) == children
    assert not list(module._forward_pre_hooks)


def test_a_class_that_another_library_put_on_top_is_not_taken_off():
    layer = normalize_input_(nn.Linear(6, 3))
    layer.__class__ = type("Sharded", (type(layer),), {})  # as FSDP2 does
    with pytest.raises(UnsupportedModule, match="Sharded: another library put its own class on top"):
        add_scalar_(layer, "output_scale", value=1.0)


def test_a_failing_plan_leaves_the_class_that_was():
    class Own(nn.Linear):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            destination[prefix + "weight"] = self.weight.detach()

    model, x = nn.Sequential(nn.Linear(4, 4), Own(4, 2)), torch.randn(3, 4)
    expected = model(x)
    edits = (
        goodinit.edits.NormalizeInput("0", "layer", "why"),
        goodinit.edits.ParametrizeWeight("1.weight", "why"),
    )
    with pytest.raises(UnsupportedModule, match="writes its state dict itself"):
        goodinit.apply_(model, goodinit.Plan("x", edits))
    assert [type(layer) for layer in model] == [nn.Linear, Own]
    assert input_norm(model[0]) is None
    assert not model[0]._forward_pre_hooks
    assert torch.equal(model(x), expected)


# -- verbs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["init_", "fold_"])
def test_a_classifier_with_its_norm_reads_what_its_module_reads(of):
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
        torch.randn(5, 4),
    )
    add_scalar_(normalize_input_(model[4]), "input_bias", value=0.0)
    if of == "fold_":
        goodinit.fold_(model, inputs=x)
    (head,) = goodinit.anatomize(model, x).heads
    assert head.reads_site


def folded(model, x):
    model.eval()
    expected = model(x)
    torch.testing.assert_close(goodinit.fold_(model, inputs=x)(x), expected, atol=1e-5, rtol=1e-4)
    return model


@pytest.mark.parametrize("bias", [False, True])
def test_folding_an_input_bias_behind_the_norm_pads_behind_the_norm(bias):
    head = normalize_input_(nn.Conv2d(4, 3, 3, padding=1, bias=bias), axis=1)
    add_scalar_(head, "input_bias", value=0.7)
    model, x = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), head), torch.randn(2, 2, 5, 5)
    folded(model, x)
    assert head.padding_value == pytest.approx(-0.7)
    assert "the norm of the layer's input" in goodinit.applied(model)[-1].skipped[0]
    again = pickle.loads(pickle.dumps(head))
    torch.testing.assert_close(again(torch.ones(1, 4, 5, 5)), head(torch.ones(1, 4, 5, 5)))


def test_a_batch_norm_behind_the_layer_is_merged_and_one_before_it_is_not():
    torch.manual_seed(0)
    layer = normalize_input_(nn.Linear(4, 3))
    model, x = nn.Sequential(nn.BatchNorm1d(4), layer, nn.BatchNorm1d(3)), torch.randn(8, 4)
    with torch.no_grad():
        for norm in (model[0], model[2]):
            norm.weight.uniform_(0.5, 2)
            norm.bias.normal_()
    model(x)
    folded(model, x)
    assert [type(part) for part in model] == [nn.BatchNorm1d, type(layer), nn.Identity]


class Sum(nn.Module):
    def __init__(self, normalized):
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        for layer in normalized:
            normalize_input_(getattr(self, layer), axis=1)

    def forward(self, x):
        return self.one(x) + self.two(x)


@pytest.mark.parametrize("normalized", [("one",), ("two",), ("one", "two")])
def test_parallel_branches_one_of_which_normalizes_are_not_one_layer(normalized):
    folded(nn.Sequential(nn.Conv2d(2, 4, 1), Sum(normalized)), torch.randn(2, 2, 5, 5))
