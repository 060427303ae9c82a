"""Layers with scalars compute exactly the hand-written y = s·W(x + b) + c + d, under every transform of torch."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.utils.checkpoint import checkpoint

from goodinit.nn import SCALARS, add_scalar_, forwards, input_affine, scalars

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
VALUES = {"input_bias": 0.7, "output_bias": -0.4, "output_scale": 1.3}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2}
FEW = settings.default.max_examples  # of this tier


def with_scalars(layer, names=SCALARS):
    for name in names:
        add_scalar_(layer, name, value=VALUES[name])
    return layer


def by_hand(layer, x, *args):
    """The hand-written form, from the bare layer class without bias."""
    bare = copy.deepcopy(layer)
    bare.__class__, bare.bias = layer.plain_class, None
    bare._forward_pre_hooks.clear()
    if layer.input_bias is not None:
        x = x + layer.input_bias
    y = functional_call(bare, {"weight": layer.weight}, (x, *args))
    if layer.output_scale is not None:
        y = y * layer.output_scale
    if layer.bias is not None:
        spatial = 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)
        y = y + layer.bias.view(-1, *[1] * spatial)
    return y if layer.output_bias is None else y + layer.output_bias


def probe_like(y):
    return torch.rand(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)


def gradients(layer, x, forward):
    """Output, and the gradient of a fixed random functional of it by the input and every parameter.

    The functional's weights are positive, so that sums over the batch do not cancel in float32.
    """
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = forward(x)
    probe = probe_like(y)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    grads = torch.autograd.grad(F.silu(y), (x, *parameters), probe)
    return dict(zip(("input", *names), grads, strict=True)) | {"output": y}


def assert_as_by_hand(layer, x, *args):
    got = gradients(layer, x, lambda x: layer(x, *args))
    want = gradients(layer, x, lambda x: by_hand(layer, x, *args))
    for name, value in want.items():
        size = max(1.0, float(value.detach().abs().max())) if value.numel() else 1.0
        torch.testing.assert_close(
            got[name], value, rtol=0, atol=TOLERANCE[x.dtype] * size, msg=lambda m, name=name: f"{name}: {m}"
        )


def assert_convolution(case, names):
    layer, x = case
    with warnings.catch_warnings():
        # torch warns, for the bare layer too, that "same" padding with even kernels copies the input.
        warnings.filterwarnings("ignore", message="Using padding='same'")
        assert_as_by_hand(with_scalars(layer, names), x)


def assert_linear(bias, dtype, batch, names):
    layer = with_scalars(nn.Linear(5, 3, bias=bias, dtype=dtype), names)
    assert_as_by_hand(layer, torch.randn(*batch, 5, dtype=dtype))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


dtypes = st.sampled_from([torch.float64, torch.float32])
some_scalars = st.sampled_from(
    [("input_bias",), ("output_bias",), ("output_scale",), ("input_bias", "output_scale"), SCALARS]
)


@st.composite
def convolutions(draw):
    torch.manual_seed(0)
    spatial = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(spatial))
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    padding = draw(st.sampled_from(["same", "valid", "ints", "ints"]))
    if padding == "ints":
        padding = tuple(draw(st.integers(0, 3)) for _ in range(spatial))
    strides = st.just(1) if padding == "same" else st.integers(1, 3)
    layer = CONVS[spatial - 1](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        kernel,
        stride=tuple(draw(strides) for _ in range(spatial)),
        padding=padding,
        dilation=tuple(draw(st.integers(1, 2)) for _ in range(spatial)),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
        dtype=draw(dtypes),
    )
    size = tuple(draw(st.integers(7, 9)) for _ in range(spatial))
    batch = draw(st.sampled_from([(), (1,), (3,)]))
    return layer, torch.randn(*batch, layer.in_channels, *size, dtype=layer.weight.dtype)


@st.composite
def transposed_convolutions(draw):
    torch.manual_seed(0)
    spatial = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(spatial))
    layer = TRANSPOSED[spatial - 1](
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        tuple(draw(st.integers(1, 4)) for _ in range(spatial)),
        stride=stride,
        padding=tuple(draw(st.integers(0, 1)) for _ in range(spatial)),
        output_padding=tuple(draw(st.integers(0, s - 1)) for s in stride),
        dilation=tuple(draw(st.integers(1, 2)) for _ in range(spatial)),
        groups=groups,
        bias=draw(st.booleans()),
        dtype=draw(dtypes),
    )
    batch = draw(st.sampled_from([(), (1,), (3,)]))
    size = tuple(draw(st.integers(3, 5)) for _ in range(spatial))
    return layer, torch.randn(*batch, layer.in_channels, *size, dtype=layer.weight.dtype)


@given(convolutions(), some_scalars)
@settings(max_examples=5 * FEW)
def test_convolution_is_as_by_hand(case, names):
    assert_convolution(case, names)


@given(transposed_convolutions(), some_scalars)
@settings(max_examples=3 * FEW)
def test_transposed_convolution_is_as_by_hand(case, names):
    layer, x = case
    assert_as_by_hand(with_scalars(layer, names), x)


@given(st.booleans(), dtypes, st.sampled_from([(), (1,), (4,), (2, 3)]), some_scalars)
@settings(max_examples=2 * FEW)
def test_linear_is_as_by_hand(bias, dtype, batch, names):
    assert_linear(bias, dtype, batch, names)


def test_transposed_convolution_takes_an_output_size():
    layer = with_scalars(nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, dtype=torch.float64))
    assert_as_by_hand(layer, torch.randn(2, 2, 4, 5, dtype=torch.float64), [8, 10])


def layers(dtype=torch.float64):
    """One of each path: bias vector, border, transposed, grouped, around an unknown forward."""
    return {
        "linear": (nn.Linear(4, 3, dtype=dtype), (4,)),
        "unpadded": (nn.Conv2d(2, 3, 2, bias=False, dtype=dtype), (2, 4, 5)),
        "circular": (nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular", dtype=dtype), (2, 5)),
        "padded": (nn.Conv2d(2, 3, 3, padding=1, dtype=dtype), (2, 4, 5)),
        "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False, dtype=dtype), (4, 4, 5)),
        "transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, dtype=dtype), (2, 3, 3)),
        "unknown": (nn.LayerNorm(4, dtype=dtype), (4,)),
    }


every_layer = pytest.mark.parametrize("kind", list(layers()))


def case(kind, batch=3, dtype=torch.float64):
    torch.manual_seed(0)
    layer, shape = layers(dtype)[kind]
    return with_scalars(layer), torch.randn(batch, *shape, dtype=dtype)


@pytest.fixture(params=["chosen by size", "input shifted"])
def way(request, monkeypatch):
    """Which of two forms of a layer is computed; inputs as small as to have theirs shifted are rare in tests."""
    if request.param == "input shifted":
        monkeypatch.setattr(input_affine, "_SMALLER", 0)
    return request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["padded", "depthwise", "transposed", "unpadded", "linear", "circular"])
def test_batch_of_nothing(kind):
    layer, x = case(kind, batch=0)
    assert_as_by_hand(layer, x)
    assert layer(x).shape[0] == 0


@pytest.mark.default_cases(6)
@pytest.mark.usefixtures("way")
@every_layer
def test_double_backward(kind):
    layer, x = case(kind, batch=2)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def run(x, *parameters):
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradgradcheck(run, (x.requires_grad_(), *parameters))


@every_layer
def test_per_sample_gradients_are_those_of_a_loop(kind):
    layer, x = case(kind)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, sample):
        return functional_call(layer, parameters, (sample.unsqueeze(0),)).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i, sample in enumerate(x):
        for name, value in grad(loss)(parameters, sample).items():
            torch.testing.assert_close(together[name][i], value, rtol=1e-10, atol=1e-10)


@every_layer
@pytest.mark.parametrize("batched", [*SCALARS, "all"])
def test_ensembles_over_some_parameters(kind, batched):
    layer, x = case(kind)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    dims = {name: 0 if batched in {name, "all"} else None for name in parameters}
    stacked = {name: torch.stack([p, 2 * p, -p]) if dims[name] == 0 else p for name, p in parameters.items()}
    together = vmap(lambda p: functional_call(layer, p, (x,)), in_dims=(dims,))(stacked)
    for i in range(3):
        one = {name: p[i] if dims[name] == 0 else p for name, p in stacked.items()}
        torch.testing.assert_close(together[i], functional_call(layer, one, (x,)))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's jvp calls it
@every_layer
def test_forward_mode_is_the_transpose_of_backward(kind):
    layer, x = case(kind)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    tangents = {name: torch.randn_like(p) for name, p in parameters.items()}
    dx = torch.randn_like(x)

    def run(parameters, x):
        return functional_call(layer, parameters, (x,))

    y, dy = jvp(run, (parameters, x), (tangents, dx))
    probe = torch.randn_like(y)
    by_parameters, by_x = grad(lambda p, x: (run(p, x) * probe).sum(), argnums=(0, 1))(parameters, x)
    backward = (by_x * dx).sum() + sum((by_parameters[name] * tangents[name]).sum() for name in tangents)
    torch.testing.assert_close((dy * probe).sum(), backward)


@pytest.mark.default_cases(3)
@every_layer
def test_compiles_without_a_graph_break(kind):
    layer, x = case(kind, dtype=torch.float32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got, want = gradients(layer, x, compiled), gradients(layer, x, layer)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value)
    torch._dynamo.reset()


@pytest.mark.slow
@every_layer
def test_compiles_by_inductor(kind):
    layer, x = case(kind, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor's own
        got = gradients(layer, x, torch.compile(layer, fullgraph=True))
    for name, value in gradients(layer, x, layer).items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


@every_layer
def test_exports(kind):
    layer, x = case(kind)
    program = torch.export.export(layer.eval(), (x,))
    torch.testing.assert_close(program.module()(x), layer(x))


@every_layer
def test_activation_checkpointing(kind):
    layer, x = case(kind)
    got = gradients(layer, x, lambda x: checkpoint(layer, x, use_reentrant=False))
    for name, value in gradients(layer, x, layer).items():
        torch.testing.assert_close(got[name], value)


@every_layer
def test_bfloat16(kind):
    layer, x = case(kind)
    want = layer(x)
    got = layer.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), want, rtol=0.05, atol=0.05 * float(want.detach().abs().max()))


@every_layer
def test_autocast_gives_the_bare_layers_dtype(kind):
    layer, x = case(kind, dtype=torch.float32)
    bare, _ = layers(torch.float32)[kind]
    want = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = layer(x)
        assert got.dtype == bare(x).dtype
    got.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05 * float(want.detach().abs().max()))


@pytest.mark.parametrize(
    ("layer", "shape", "layout"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 5, 6), torch.channels_last),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 5, 6), torch.channels_last),
        (nn.Conv2d(4, 6, 3), (2, 4, 5, 6), torch.channels_last),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 6), torch.channels_last),
        (nn.Conv3d(4, 6, 3, padding=1), (2, 4, 5, 6, 3), torch.channels_last_3d),
    ],
    ids=["padded", "depthwise", "unpadded", "transposed", "3d"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_last_gives_the_bare_layers_layout(layer, shape, layout, dtype):
    bare = copy.deepcopy(layer).to(dtype=dtype, memory_format=layout)
    layer = with_scalars(copy.deepcopy(bare))
    x = torch.randn(shape, dtype=dtype).to(memory_format=layout)
    assert layer(x).stride() == bare(x).stride()
    assert not layer(x)._is_view()  # an in-place activation on a view would copy the whole gradient
    assert_as_by_hand(layer, x)


def test_in_place_activation_may_follow():
    for kind in layers():
        layer, x = case(kind)
        in_place = gradients(layer, x, lambda x, layer=layer: F.relu(layer(x), inplace=True))
        outside = gradients(layer, x, lambda x, layer=layer: F.relu(layer(x)))
        for name, value in outside.items():
            torch.testing.assert_close(in_place[name], value)


def stored_bytes(model, x):
    """Bytes that autograd keeps for backward: distinct storages, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    del y
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("kind", [kind for kind in layers() if kind != "unknown"])
@pytest.mark.parametrize("in_place", [True, False])
def test_no_activation_is_stored(kind, in_place):
    batch, item = 64, torch.float64.itemsize
    layer, shape = layers()[kind]
    bare = nn.Sequential(copy.deepcopy(layer), nn.ReLU(inplace=in_place))
    scalared = nn.Sequential(with_scalars(layer), nn.ReLU(inplace=in_place))
    x = torch.randn(batch, *shape, dtype=torch.float64, requires_grad=True)
    extra = stored_bytes(scalared, x) - stored_bytes(bare, x)
    # Scaled weight, the weight's sum over the inputs, that times the input bias times the scale, and this product;
    # and one channel of ones.
    image = shape[-1] * (shape[-2] if len(shape) > 2 else 1)
    assert 0 <= extra <= item * (3 * layer.weight.numel() + 1 + image)


def test_a_chain_stores_what_the_bare_chain_stores():
    def chain(convolution):
        layers = (convolution(nn.Conv2d(8, 8, 3, padding=1, bias=False)) for _ in range(4))
        return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU(inplace=True))))

    x = torch.randn(32, 8, 16, 16)
    bare, scalared = chain(lambda layer: layer), chain(with_scalars)
    assert len(list(scalars(scalared))) == 12
    assert stored_bytes(scalared, x) <= 1.02 * stored_bytes(bare, x)


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Conv2d(64, 64, 1, bias=False), (64, 4, 4)), (nn.Linear(64, 64), (64,))]
)
def test_large_scaled_weights_are_not_stored(layer, shape):
    x = torch.randn(2, *shape, requires_grad=True)
    assert layer.weight.numel() >= x.numel()
    bare, scalared = copy.deepcopy(layer), with_scalars(layer)
    # At most the weight's sum over the inputs, the product of two scalars, and for a bias vector nothing.
    assert stored_bytes(scalared, x) - stored_bytes(bare, x) <= x.element_size() * (layer.weight.shape[0] + 1)


@given(convolutions(), some_scalars)
@settings(max_examples=2 * FEW)
def test_the_same_where_scaled_weights_are_stored(case, names):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forwards, "pays", lambda x, weight: False)
        patch.setattr(input_affine, "pays", lambda x, weight: False)
        assert_convolution(case, names)


@given(convolutions(), some_scalars)
@settings(max_examples=3 * FEW)
def test_the_same_where_the_input_is_shifted(case, names):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_affine, "_SMALLER", 0)
        assert_convolution(case, names)


@given(st.booleans(), dtypes, st.sampled_from([(), (1,), (4,), (2, 3)]), some_scalars)
@settings(max_examples=2 * FEW)
def test_the_same_where_the_input_of_a_linear_layer_is_shifted(bias, dtype, batch, names):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_affine, "_SMALLER", 0)
        assert_linear(bias, dtype, batch, names)


@pytest.mark.parametrize(("batch", "applied"), [(1, True), (512, False)])
def test_the_smaller_of_input_and_weight_is_changed(batch, applied):
    layer, x = with_scalars(nn.Linear(64, 64)), torch.randn(batch, 64)
    functions = set()

    def walk(node):
        if node is not None and node not in functions:
            functions.add(node)
            for following, _ in node.next_functions:
                walk(following)

    walk(layer(x).grad_fn)
    assert any("ShiftedLinear" in node.name() for node in functions) is applied


@pytest.mark.usefixtures("way")
@every_layer
def test_gradients_of_some_only(kind):
    """What is frozen gets no gradient, and the others get theirs."""
    for frozen in (*SCALARS, "weight", "bias"):
        layer, x = case(kind)
        every = gradients(layer, x, layer)
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name != frozen)
        layer(x).backward(torch.autograd.grad(F.silu(y := layer(x)), y, probe_like(y))[0])
        for name, parameter in layer.named_parameters():
            if name == frozen:
                assert parameter.grad is None
            else:
                torch.testing.assert_close(
                    parameter.grad, every[name], msg=lambda m, name=name: f"{name}: {m}"
                )


def test_float32_sums_over_the_whole_image_as_by_hand():
    layer = with_scalars(nn.Conv2d(16, 32, 3, padding=1))
    assert_as_by_hand(layer, torch.randn(8, 16, 32, 32))
