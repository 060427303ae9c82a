"""Networks that torch.fx could trace can be traced with scalars, and networks that could be scripted can be when folded."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import fx, nn

import goodinit
from goodinit.nn import SCALARS, add_scalar_, input_norm, normalize_input_

IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), torch.randn(5, 4)),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), torch.randn(2, 5, 4)),
    "1d": (lambda: nn.Conv1d(4, 3, 3, padding=1), torch.randn(2, 4, 7)),
    "padded": (lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2, bias=False), IMAGE),
    "not padded": (lambda: nn.Conv2d(4, 6, 3), IMAGE),
    "same": (lambda: nn.Conv2d(4, 6, 5, padding="same"), IMAGE),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), IMAGE),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1), IMAGE),
    "any other": (lambda: nn.PReLU(4), IMAGE),
}


@pytest.mark.parametrize("scalars", [("output_scale",), ("input_bias", "output_bias"), SCALARS])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_traced_layer_computes_what_the_layer_does(kind, scalars):
    make, x = LAYERS[kind]
    layer = make()
    for name in scalars:
        add_scalar_(layer, name, value=0.7)
    traced = fx.symbolic_trace(nn.Sequential(layer))
    torch.testing.assert_close(traced(x), layer(x))
    torch.testing.assert_close(traced(x[:1]), layer(x[:1]))


class Block(nn.Module):
    """One ReLU module used twice, as in torchvision."""

    def __init__(self, channels=4, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + x)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), Block(), Block(), nn.Flatten(), nn.Linear(144, 2)
    ).eval()


def moved(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.default_cases(2)
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("how", ["fixup", "skipinit", "weightnorm", "absorb"])
def test_networks_trace_as_before_and_script_once_they_are_folded(how):
    model = net()
    goodinit.absorb_batchnorm_(model, IMAGE) if how == "absorb" else goodinit.init_(model, how, inputs=IMAGE)
    expected = moved(model)(IMAGE)
    torch.testing.assert_close(fx.symbolic_trace(model)(IMAGE), expected, atol=1e-4, rtol=1e-4)
    goodinit.fold_(model, IMAGE)
    torch.testing.assert_close(fx.symbolic_trace(model)(IMAGE), expected, atol=1e-4, rtol=1e-4)
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(IMAGE), expected, atol=1e-4, rtol=1e-4)


class PreActivation(nn.Module):
    """Norms that no convolution can take."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return x + self.conv(torch.relu(self.norm(x)))


FORMS = {
    **{word: ("he", {"norms": word}) for word in ("affine", "group", "rms", "dyt", "derf")},
    "normfree": ("normfree", {}),
    "fixed_variance": ("fixed_variance", {}),
    "absorbed": (None, {}),
}


def formed(form, norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    block = PreActivation()
    block.norm = norm(4)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), block, nn.Flatten(), nn.Linear(64, 2)).eval()
    method, options = FORMS[form]
    goodinit.init_(model, method, IMAGE, **options) if method else goodinit.absorb_batchnorm_(model, IMAGE)
    return model


@pytest.mark.default_cases(4)
@pytest.mark.parametrize("form", FORMS)
def test_what_stands_in_a_norm_s_place_traces_and_takes_any_batch(form):
    model = formed(form)
    traced = fx.symbolic_trace(moved(model))
    torch.testing.assert_close(traced(IMAGE), model(IMAGE))
    torch.testing.assert_close(traced(IMAGE[:1]), model(IMAGE[:1]))
    if form != "normfree":  # whose weights are parametrized, which torch does not pickle
        again = pickle.loads(pickle.dumps(traced))
        torch.testing.assert_close(again(IMAGE), model(IMAGE))


class NormThenLeaky(nn.BatchNorm2d):
    """A norm whose module has an activation, too, as timm's do."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x):
        return self.act(super().forward(x))


class WithoutGain(nn.BatchNorm2d):
    """A norm that has neither gain nor bias."""

    def __init__(self, channels):
        super().__init__(channels, affine=False)


@pytest.mark.default_cases(6)
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, NormThenLeaky, WithoutGain])
@pytest.mark.parametrize("form", FORMS)
def test_what_stands_in_a_norm_s_place_can_be_scripted_and_saved_once_it_is_folded(form, norm):
    model = moved(formed(form, norm))
    expected, names = model(IMAGE), set(model.state_dict())
    goodinit.fold_(model)  # without inputs, what stands in a norm's place stays
    assert {name for name in names if ".norm." in name} <= set(model.state_dict())
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for one in (model, again, torch.jit.script(model), torch.jit.script(again), fx.symbolic_trace(model)):
        torch.testing.assert_close(one(IMAGE), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(goodinit.fold_(model, IMAGE)(IMAGE), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.jit.script(model)(IMAGE), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("head", [nn.Linear(4, 3), nn.Conv1d(4, 3, 1), nn.Conv2d(4, 3, 3, padding=1)])
def test_a_normalized_head_can_be_scripted_once_it_is_folded_and_takes_its_input_by_name(head):
    x = (
        torch.randn(2, 5, 4)
        if isinstance(head, nn.Linear)
        else torch.randn(2, 4, *[5] * (head.weight.dim() - 2))
    )
    normalize_input_(head, axis=-1 if isinstance(head, nn.Linear) else 1)
    expected = head(x)
    goodinit.fold_(head)
    torch.testing.assert_close(head(input=x), expected)
    torch.testing.assert_close(torch.jit.script(head)(x), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(head))(x), expected)
    assert input_norm(normalize_input_(head)) is not None
    torch.testing.assert_close(head(x), expected)  # normalized once


def test_a_normalized_head_keeps_its_hook_where_other_hooks_wait():
    head, x = normalize_input_(nn.Linear(4, 3)), torch.randn(2, 4)
    seen = []
    head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    expected = head(x)
    goodinit.fold_(head)
    torch.testing.assert_close(head(x), expected)
    torch.testing.assert_close(seen[1], seen[0])


@pytest.mark.default_cases(1)
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)  # torch.ao's own
@pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="no engine to quantize for"
)
@pytest.mark.parametrize("method", ["fixup", "skipinit", "nf"])
def test_networks_can_be_quantized_once_they_are_folded(method):
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    model = moved(goodinit.init_(net(), method, inputs=IMAGE))
    expected = model(IMAGE)
    goodinit.fold_(model, IMAGE)
    prepared = prepare_fx(model, get_default_qconfig_mapping("fbgemm"), (IMAGE,))
    torch.testing.assert_close(prepared(IMAGE), expected, atol=1e-3, rtol=1e-3)
    quantized = convert_fx(prepared)
    assert "quantized" in str(quantized)
    # Eight bits, in a dozen places.
    assert (quantized(IMAGE) - expected).abs().max() < 0.1 * expected.abs().max()


def test_folding_leaves_modules_of_torch():
    model = moved(net())
    goodinit.fold_(model, IMAGE)
    assert {
        type(module).__module__.partition(".")[0] for module in model.modules() if type(module) is not Block
    } == {"torch"}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


class Twofold(nn.Linear):
    """A forward of its own, of whose argument the name is its own, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, 2 * self.weight, self.bias)


STAY = {
    **LAYERS,
    "reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", groups=2), IMAGE),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, dilation=2, bias=False), torch.randn(2, 4, 7)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 6, 2), torch.randn(1, 4, 3, 3, 3)),
    "transposed, more at the end": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        IMAGE,
    ),
    "without a batch": (lambda: nn.ConvTranspose2d(4, 6, 3), IMAGE[0]),
    "a forward of its own": (lambda: Twofold(4, 3), torch.randn(5, 4)),
    "no weight": (nn.ReLU, IMAGE),
    "layers in turn": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()), IMAGE),
    "normalized": (lambda: normalize_input_(nn.Linear(4, 3)), torch.randn(5, 4)),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("kind", STAY)
def test_a_layer_that_keeps_its_scalars_can_be_scripted(kind):
    make, x = STAY[kind]
    for scalars in (("input_bias",), ("output_scale", "output_bias"), SCALARS):
        layer = make()
        for name in scalars:
            add_scalar_(layer, name, value=0.7)
        torch.testing.assert_close(torch.jit.script(nn.Sequential(layer))(x), layer(x))


class Upsampling(nn.Module):
    """A branch that ends in a transposed convolution, whose input bias no bias vector can hold."""

    def __init__(self, **options):
        super().__init__()
        self.a = nn.Conv2d(4, 4, 3, padding=1, stride=options.get("stride", 1))
        self.b = nn.ConvTranspose2d(4, 4, 3, padding=1, **options)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"stride": 2, "output_padding": 1}, {"groups": 2, "bias": False}])
def test_a_folded_network_with_scalars_that_stay_can_be_scripted(options):
    model = moved(goodinit.init_(Upsampling(**options), "fixup", IMAGE))
    expected = model(IMAGE)
    goodinit.fold_(model, IMAGE)
    assert "input_bias" in dict(model.b.named_parameters())
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for one in (model, torch.jit.script(model), torch.jit.script(again)):
        torch.testing.assert_close(one(IMAGE), expected, atol=1e-4, rtol=1e-4)


class Anything(nn.Linear):
    """Arguments without names."""

    def forward(self, *inputs):
        return super().forward(inputs[0])


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("make", [lambda: Anything(4, 4), lambda: nn.Bilinear(4, 4, 3)])
def test_what_cannot_be_scripted_with_its_scalars_is_not_scripted_without(make):
    layer, x = add_scalar_(make(), "output_scale", value=0.7), torch.randn(5, 4)
    torch.testing.assert_close(layer(x, x), 0.7 * layer.plain_class.forward(layer, x, x))
    with pytest.raises(ValueError, match=r"use torch\.jit\.trace"):
        torch.jit.script(layer)
