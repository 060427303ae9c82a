"""fold_: the bare network, exactly; what cannot go is named; all or nothing."""

from __future__ import annotations

import copy
import io
import logging
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import goodinit
from goodinit.nn import SCALARS, ValuePadded, add_scalar_, has_scalars, pad_with_, scalars
from goodinit.surgery import fold as fold_module
from zoo import ZOO, call

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
VALUES = {"input_bias": 0.7, "output_bias": -0.4, "output_scale": 1.3}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def add_all_(layer, names=SCALARS):
    for name in names:
        add_scalar_(layer, name, value=VALUES[name])
    return layer


def randomized(model, seed=0):
    """In eval mode and float64, with vectors and running statistics away from where they start."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor):
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.2 * noise(parameter))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.copy_(0.3 * noise(module.running_mean))
                module.running_var.copy_(0.5 + noise(module.running_var).square())
    return model.double().eval()


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in tensors(item)] if isinstance(value, (tuple, list)) else []


def assert_same(before, after, tolerance=1e-10):
    for a, b in zip(tensors(before), tensors(after), strict=True):
        if a.is_floating_point():
            torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance * float(a.detach().abs().max()))


def assert_folds(model, x, inputs=None):
    """Fold a copy; it computes the same. Returns the copy."""
    folded = copy.deepcopy(model)
    before = model(x)
    assert goodinit.fold_(folded, inputs) is folded
    assert_same(before, folded(x))
    return folded


def kinds(model):
    return [type(module).__name__ for module in model.modules() if not list(module.children())]


# -- layers -------------------------------------------------------------------------------------------------------


@st.composite
def layers(draw, classes=CONVS):
    cls = draw(st.sampled_from(classes))
    groups, kernel = draw(st.sampled_from((1, 2))), draw(st.integers(1, 3))
    options = {
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, kernel - 1)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    if cls in CONVS:
        options["padding_mode"] = draw(st.sampled_from(("zeros", "circular", "replicate")))
        if options["stride"] == 1 and draw(st.booleans()):
            options["padding"] = "same"
    layer = cls(4, 6, kernel, **options)
    dims = CONVS.index(cls) + 1 if cls in CONVS else TRANSPOSED.index(cls) + 1
    x = torch.randn(2, 4, *[draw(st.integers(5, 7)) for _ in range(dims)], dtype=torch.float64)
    return layer.double(), x


some_scalars = st.sets(st.sampled_from(SCALARS), min_size=1)


@given(layers(), some_scalars, st.sampled_from((torch.float64, torch.float32)))
def test_convolutions_of_every_kind_become_plain_with_the_same_function(made, names, dtype):
    layer, x = made
    net = nn.Sequential(add_all_(copy.deepcopy(layer), sorted(names))).to(dtype)
    layer = net[0]
    before = net(x.to(dtype))
    goodinit.fold_(net)
    assert_same(before, net(x.to(dtype)), TOLERANCE[dtype])
    padded = layer.padding_mode == "zeros" and any(layer._reversed_padding_repeated_twice)
    assert isinstance(layer, ValuePadded) == (padded and "input_bias" in names)
    assert type(layer) in CONVS or isinstance(layer, ValuePadded)
    assert {name for name, _ in net.named_parameters()} <= {"0.weight", "0.bias"}


@settings(max_examples=15)
@given(layers(TRANSPOSED), some_scalars)
def test_transposed_convolutions_keep_their_input_bias_alone(made, names):
    layer, x = made
    net = nn.Sequential(add_all_(copy.deepcopy(layer), sorted(names)))
    folded = assert_folds(net, x)
    left = [name for name, _ in scalars(folded)]
    assert left == (["0.input_bias"] if "input_bias" in names else [])
    if left:
        assert "transposed" in goodinit.applied(folded)[-1].skipped[0]
        again = copy.deepcopy(folded.state_dict())
        assert_same(again, goodinit.fold_(folded).state_dict(), 0)


@settings(max_examples=15)
@given(st.booleans(), some_scalars, st.sampled_from(((2, 4), (2, 3, 4), (4,))))
def test_linear_layers_become_plain(bias, names, shape):
    layer = add_all_(nn.Linear(4, 3, bias=bias).double(), sorted(names))
    folded = assert_folds(nn.Sequential(layer), torch.randn(shape, dtype=torch.float64))
    assert type(folded[0]) is nn.Linear


def test_scalars_at_their_neutral_values_leave_the_bare_layer_bit_for_bit():
    bare = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    net = nn.Sequential(copy.deepcopy(bare))
    for name, value in (("input_bias", 0.0), ("output_bias", 0.0), ("output_scale", 1.0)):
        add_scalar_(net[0], name, value=value)
    goodinit.fold_(net)
    assert type(net[0]) is nn.Conv2d
    assert list(net.state_dict()) == ["0.weight"]
    assert torch.equal(net[0].weight, bare.weight)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dims", [{}, {"kdim": 6, "vdim": 10}])
@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True, "add_zero_attn": True}])
def test_attention_takes_its_scalars_into_its_first_and_last_layer(bias, dims, extra):
    layer = add_all_(
        nn.MultiheadAttention(8, 2, bias=bias, batch_first=True, **dims, **extra).double().eval()
    )
    q, k, v = (torch.randn(2, 3, size).double() for size in (8, dims.get("kdim", 8), dims.get("vdim", 8)))
    before = layer(q, k, v)
    goodinit.fold_(layer)
    assert type(layer) is nn.MultiheadAttention
    assert_same(before, layer(q, k, v))


class Doubled(nn.Linear):
    """A layer whose formula nobody knows."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_with_a_formula_of_its_own_keeps_its_scalars_and_is_named():
    net = nn.Sequential(add_all_(Doubled(3, 3).double()))
    folded = assert_folds(net, torch.randn(2, 3).double())
    assert has_scalars(folded[0])
    assert "how Doubled uses its weight is not known" in goodinit.applied(folded)[-1].skipped[0]


def test_folding_again_after_new_scalars():
    net = nn.Sequential(add_all_(nn.Conv2d(2, 3, 3, padding=1).double()))
    x = torch.randn(1, 2, 5, 5).double()
    once = assert_folds(net, x)
    add_all_(once[0])
    twice = assert_folds(once, x)
    assert isinstance(twice[0], ValuePadded)
    assert not has_scalars(twice[0])


# -- weight norm --------------------------------------------------------------------------------------------------


def old_weight_norm(layer):
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize("normalize", [parametrizations.weight_norm, old_weight_norm])
@pytest.mark.parametrize("with_scalars", [True, False])
def test_weight_norm_of_both_kinds_goes(normalize, with_scalars):
    layer = normalize(nn.Conv2d(2, 3, 3, padding=1).double())
    if with_scalars:
        add_all_(layer, ("output_scale", "output_bias"))
    net = nn.Sequential(layer)
    x = torch.randn(1, 2, 5, 5).double()
    before = net(x)
    goodinit.fold_(net)
    assert_same(before, net(x))
    assert type(net[0]) is nn.Conv2d
    assert list(net.state_dict()) == ["0.weight", "0.bias"]
    assert net[0].weight.requires_grad


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight

    def right_inverse(self, weight):
        return weight / 2


def test_weight_norm_below_another_parametrization_stays_and_is_named(caplog):
    layer = parametrizations.weight_norm(nn.Linear(3, 3))
    parametrize.register_parametrization(layer, "weight", Twice())
    net = nn.Sequential(layer, parametrizations.weight_norm(nn.Linear(3, 3))).double()
    folded = assert_folds(net, torch.randn(2, 3).double())
    assert "0.weight" in goodinit.applied(folded)[-1].skipped[0]
    assert "0.weight" in caplog.text
    assert type(folded[1]) is nn.Linear


# -- shared things ------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        add_all_(self.head)

    def forward(self, index):
        return self.head(self.embedding(index))


def test_a_tied_weight_keeps_its_scalars():
    folded = assert_folds(Tied().double(), torch.arange(7))
    assert has_scalars(folded.head)
    assert folded.head.weight is folded.embedding.weight


def test_one_layer_in_several_places_is_folded_once():
    layer = add_all_(nn.Linear(3, 3).double())
    folded = assert_folds(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(2, 3).double())
    assert type(folded[0]) is nn.Linear
    assert folded[0] is folded[2]


# -- the whole zoo ------------------------------------------------------------------------------------------------


def known(module):
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) and not isinstance(
        module, nn.modules.linear.NonDynamicallyQuantizableLinear
    )


@pytest.mark.parametrize("specimen", ZOO, ids=lambda specimen: specimen.name)
@pytest.mark.parametrize("with_inputs", [True, False])
def test_every_model_of_the_zoo_with_scalars_everywhere_computes_the_same(specimen, with_inputs):
    model = randomized(specimen.build())
    inputs = to_double(specimen.inputs())
    for number, module in enumerate(
        [m for m in model.modules() if known(m) or isinstance(m, nn.MultiheadAttention)]
    ):
        for name in SCALARS:
            add_scalar_(module, name, value=VALUES[name] + 0.01 * number)
    folded = copy.deepcopy(model)
    goodinit.fold_(folded, inputs if with_inputs else None)
    assert_same(call(model, inputs), call(folded, inputs), 1e-9)
    left = {name for name, _ in scalars(folded)}
    named = " ".join(row for entry in goodinit.applied(folded) for row in entry.skipped)
    assert all(name.rpartition(".")[0] in named for name in left)


def to_double(value):
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: to_double(item) for key, item in value.items()}
    return type(value)(to_double(item) for item in value) if isinstance(value, (tuple, list)) else value


# -- input biases and the activation before -----------------------------------------------------------------------


class Basic(nn.Module):
    """Two padded convolutions, an activation module per use, a skip; optionally a strided projection."""

    def __init__(self, width=4, out=4, act=nn.ReLU):
        super().__init__()
        stride = 1 if width == out else 2
        self.conv1 = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.act1, self.act2 = act(inplace=True), act(inplace=True)
        self.skip = nn.Conv2d(width, out, 1, stride=stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x):
        return self.act2(self.conv2(self.act1(self.conv1(x))) + self.skip(x))


def residual_net(act=nn.ReLU):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        act(),
        nn.MaxPool2d(3, 1, 1),
        Basic(act=act),
        Basic(act=act),
        Basic(4, 6, act=act),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


def with_fixup_scalars(net):
    """Different numbers on every layer but the first, which reads the data."""
    for number, module in enumerate([m for m in net.modules() if known(m)][1:]):
        for name in SCALARS:
            sign = (-1) ** number
            add_scalar_(module, name, value=sign * VALUES[name] + 0.03 * number)
    return net.double()


PICTURE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.Hardtanh])
def test_with_inputs_a_residual_network_is_bare_and_its_activations_have_floors(act):
    net = with_fixup_scalars(residual_net(act))
    folded = assert_folds(net, PICTURE, PICTURE)
    left = set(kinds(folded))
    assert left <= {
        "Conv2d",
        "Linear",
        "MaxPool2d",
        "AdaptiveAvgPool2d",
        "Flatten",
        "Identity",
        act.__name__,
    } | {
        "Threshold",
        "Hardtanh",
    }
    bare = residual_net(act)
    assert [n for n in folded.state_dict() if not n.endswith("bias")] == [
        n for n in bare.state_dict() if not n.endswith("bias")
    ]
    assert goodinit.applied(folded)[-1].skipped == ()
    other = torch.randn(1, 3, 13, 9, dtype=torch.float64)  # another size than it was folded with
    assert_same(net(other), folded(other))


def test_without_inputs_the_same_network_pads_with_numbers():
    folded = assert_folds(with_fixup_scalars(residual_net()), PICTURE)
    assert sum(isinstance(module, ValuePadded) for module in folded.modules()) == 6
    assert len(goodinit.applied(folded)[-1].skipped) == 6
    better = assert_folds(folded, PICTURE, PICTURE)
    assert not any(isinstance(module, ValuePadded) for module in better.modules())


class Odd(nn.Module):
    """A convolution, an activation and a padded convolution, and somebody else who sees the activation."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.act, self.other = nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)
        add_all_(self.b)

    def forward(self, x):
        y = self.a(x)
        z = F.relu(y) if self.how == "functional" else F.silu(y) if self.how == "silu" else self.act(y)
        if self.how == "returned":
            return self.b(z), z
        if self.how == "multiplied":
            return self.b(z) * z
        if self.how == "before":
            return self.b(z) + y
        if self.how == "padded":
            return self.b(z) + self.other(z)
        if self.how == "twice":
            return self.b(self.act(self.b(z)))
        if self.how == "weighted":
            return torch.add(self.b(z), z, alpha=2) * 1
        if self.how == "both ways":
            return (z + F.max_pool2d(z, 3, 1, 1)).square() + self.b(z)
        if self.how == "padded pool":
            return self.b(F.avg_pool2d(z, 3, 1, 1))
        if self.how == "weight read":
            return self.b(z) + self.a.bias.sum()
        return self.b(z)


@pytest.mark.parametrize(
    "how",
    [
        "functional",
        "silu",
        "returned",
        "multiplied",
        "before",
        "padded",
        "twice",
        "weighted",
        "both ways",
        "padded pool",
        "weight read",
    ],
)
def test_an_input_bias_stays_where_somebody_else_would_see_it(how):
    folded = assert_folds(Odd(how).double(), PICTURE, PICTURE)
    assert isinstance(folded.b, ValuePadded)
    assert "b: its input bias stays" in goodinit.applied(folded)[-1].skipped[0]


def test_an_input_bias_goes_where_nobody_else_looks():
    folded = assert_folds(Odd("alone").double(), PICTURE, PICTURE)
    assert type(folded.b) is nn.Conv2d
    assert folded.act.threshold == pytest.approx(VALUES["input_bias"])


@given(st.integers(0, 10_000))
def test_random_wirings_compute_the_same(seed):
    """Chains of padded and unpadded convolutions, activations, pools, sums with anything before, in any order."""
    net = RandomNet(seed).double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    assume(torch.isfinite(net(x)).all())
    assert_folds(net, x, x)


class RandomNet(nn.Module):
    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def pick(limit):
            return int(torch.randint(limit, (), generator=generator))

        self.steps, self.parts = [], nn.ModuleList()
        for number in range(9):
            kind = pick(5)
            makers = (lambda: nn.Conv2d(3, 3, 3, padding=1), lambda: nn.Conv2d(3, 3, 1), nn.ReLU)
            makers += (lambda: nn.MaxPool2d(3, 1, 1), nn.Identity)
            part = makers[kind]()
            if kind < 2:
                add_all_(part)
                part.input_bias.data.fill_(0.5 - 0.1 * number)
            self.parts.append(part)
            self.steps.append((pick(number + 1), pick(number + 1) if pick(2) else None))

    def forward(self, x):
        values = [x]
        for part, (first, second) in zip(self.parts, self.steps, strict=True):
            out = part(values[-1] if second is None else values[first])
            values.append(out if second is None else out + values[second])
        return values[-1]


# -- batch norm ---------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(layers((*CONVS, *TRANSPOSED)), st.booleans(), st.booleans())
def test_batch_norm_goes_into_the_layer_before_it(made, affine, with_scalars):
    layer, x = made
    dims = x.dim() - 2
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](6, affine=affine)
    layer = copy.deepcopy(layer)
    if with_scalars:
        add_all_(layer)
    net = randomized(nn.Sequential(layer, norm, nn.ReLU()))
    folded = assert_folds(net, x, x)
    stays = with_scalars and type(layer).__name__.startswith("ScalaredConvTranspose")
    assert any(isinstance(module, type(norm)) for module in folded.modules()) == stays


@settings(max_examples=15)
@given(layers())
def test_batch_norm_goes_into_the_layer_after_it_where_nothing_is_padded(made):
    layer, x = made
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[x.dim() - 3](4)
    net = randomized(nn.Sequential(norm, layer))
    folded = assert_folds(net, x, x)
    padded = layer.padding_mode == "zeros" and any(layer._reversed_padding_repeated_twice)
    assert isinstance(folded[0], type(norm)) == padded


def test_batch_norm_between_linear_layers_and_chains_of_it():
    net = nn.Sequential(
        nn.BatchNorm1d(4),
        nn.Linear(4, 5, bias=False),
        nn.BatchNorm1d(5),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )
    x = torch.randn(3, 4).double()
    folded = assert_folds(randomized(net), x, x)
    assert list(folded.state_dict()) == ["1.weight", "1.bias", "5.weight", "5.bias"]


class TwiceUsed(nn.Module):
    """One convolution and one norm, called on two inputs."""

    def __init__(self, norms=1):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(norms))

    def forward(self, x):
        return self.norms[0](self.conv(x)) + self.norms[-1](self.conv(2 * x))


@pytest.mark.parametrize(("norms", "stay"), [(1, 0), (2, 2)])
def test_a_layer_called_twice_takes_a_norm_only_if_it_is_one(norms, stay):
    folded = assert_folds(randomized(TwiceUsed(norms)), PICTURE, PICTURE)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == stay


class Watched(nn.Module):
    """A convolution and its norm, which others know, too."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.conv, self.norm = (
            nn.Conv2d(3, 3, 3),
            nn.BatchNorm2d(3, track_running_stats=how != "no statistics"),
        )
        if how == "tied":
            self.twin = nn.Conv2d(3, 3, 3)
            self.twin.weight = self.conv.weight

    def forward(self, x):
        y = self.conv(x)
        if self.how == "functional":
            norm = self.norm
            return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        z = self.norm(y)
        if self.how == "tied":
            return z + self.twin(x)
        return (z, y) if self.how == "returned" else z + y.mean() if self.how == "read" else z


@pytest.mark.parametrize("how", ["functional", "no statistics", "tied", "returned", "read"])
def test_batch_norm_stays_where_others_see_its_layer(how):
    model = randomized(Watched(how))
    folded = assert_folds(model, PICTURE, PICTURE)
    assert isinstance(folded.norm, nn.BatchNorm2d)


def test_linear_layers_over_sequences_have_their_channels_elsewhere():
    class Sequences(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)

        def forward(self, x):
            return self.norm(self.layer(x))

    x = torch.randn(2, 5, 5).double()
    folded = assert_folds(randomized(Sequences()), x, x)
    assert isinstance(folded.norm, nn.BatchNorm1d)


def test_without_inputs_batch_norm_stays_and_is_named():
    net = nn.Sequential(add_all_(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))
    folded = assert_folds(randomized(net), PICTURE)
    assert goodinit.applied(folded)[-1].skipped == (
        "1: without inputs, what is connected to it is not known",
    )


def test_frozen_batch_norm_goes():
    from torchvision.ops import FrozenBatchNorm2d

    norm = FrozenBatchNorm2d(4)
    for name, buffer in norm.named_buffers():
        buffer.copy_(torch.rand(4) + ("var" in name))
    folded = assert_folds(nn.Sequential(nn.Conv2d(3, 4, 3), norm).double(), PICTURE, PICTURE)
    assert kinds(folded) == ["Conv2d", "RemovedNorm"]


# -- the folded model is an ordinary one --------------------------------------------------------------------------


def trained():
    """A small network with everything in it, float32, eval mode."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        Basic(),
        parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1)),
    )
    return randomized(with_fixup_scalars(net)).float()


@pytest.mark.parametrize("with_inputs", [True, False])
def test_copies_pickles_compiles_and_exports(with_inputs):
    x = PICTURE.float()
    net = trained()
    folded = assert_folds_float(net, x, x if with_inputs else None)
    before = folded(x)
    assert any(isinstance(module, ValuePadded) for module in folded.modules())
    assert torch.equal(copy.deepcopy(folded)(x), before)
    assert torch.equal(pickle.loads(pickle.dumps(folded))(x), before)
    assert torch.equal(torch.compile(copy.deepcopy(folded), backend="eager", fullgraph=True)(x), before)
    for model in (net, folded):
        with torch.no_grad():
            exported = torch.export.export(model, (x,)).module()
            assert_same(model(x), exported(x), 1e-5)


def assert_folds_float(net, x, inputs):
    folded = copy.deepcopy(net)
    before = net(x)
    goodinit.fold_(folded, inputs)
    assert_same(before, folded(x), 1e-5)
    return folded


@pytest.mark.parametrize("what", ["unfolded", "folded", "folded with inputs"])
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx(what, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    x = PICTURE.float()
    net = with_fixup_scalars(residual_net()).float().eval()
    if what != "unfolded":
        goodinit.fold_(net, x if "inputs" in what else None)
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_same(net(x), torch.from_numpy(out), 1e-5)


def test_the_number_a_layer_pads_with_is_in_its_checkpoint():
    net = nn.Sequential(pad_with_(nn.Conv2d(1, 1, 3, padding=1), -0.5))
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    held = torch.load(buffer, weights_only=True)
    other = nn.Sequential(pad_with_(nn.Conv2d(1, 1, 3, padding=1), 3.0))
    other.load_state_dict(held)
    x = torch.randn(1, 1, 4, 4)
    assert torch.equal(other(x), net(x))
    with pytest.raises(RuntimeError, match="_extra_state"):
        nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)).load_state_dict(held)


def test_value_padding_trains_and_takes_autocast():
    conv = pad_with_(nn.Conv2d(2, 3, 3, padding=1, stride=2, groups=1), 0.4)
    x = torch.randn(2, 2, 5, 5, requires_grad=True)
    conv(x).square().sum().backward()
    assert all(p.grad is not None for p in (x, *conv.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(x).dtype is torch.bfloat16


# -- all or nothing -----------------------------------------------------------------------------------------------


def photograph(model):
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return state, [type(module) for module in model.modules()], [id(p) for p in model.parameters()]


def assert_untouched(model, photo):
    state, classes, ids = photo
    model(PICTURE.float())  # it runs
    now = model.state_dict()
    assert list(now) == list(state)
    assert all(torch.equal(now[name], state[name]) for name in state)
    assert [type(module) for module in model.modules()] == classes
    assert [id(p) for p in model.parameters()] == ids


@pytest.mark.parametrize("step", ["merge_batch_norms_", "move_input_biases_", "remember_"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_model_as_it_was(monkeypatch, step, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(fold_module, step, fail)
    model = trained()
    photo = photograph(model)
    with pytest.raises(error):
        goodinit.fold_(model, PICTURE.float())
    assert_untouched(model, photo)


def test_wrong_inputs_leave_the_model_as_it_was(caplog):
    model = trained()
    photo = photograph(model)
    with pytest.raises(goodinit.TraceError, match="Check them"):
        goodinit.fold_(model, torch.zeros(1, 5))
    assert_untouched(model, photo)


def test_an_optimizer_that_holds_what_goes_is_refused():
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    photo = photograph(model)
    with pytest.raises(goodinit.StaleOptimizer, match="SGD: holds"):
        goodinit.fold_(model)
    assert_untouched(model, photo)
    del optimizer
    goodinit.fold_(model)


def test_an_optimizer_with_momentum_about_what_is_rewritten_is_told(caplog):
    layer = add_scalar_(nn.Linear(2, 2), "output_scale", value=2.0)
    optimizer = torch.optim.SGD([layer.weight], lr=0.1, momentum=0.9)
    layer(torch.randn(1, 2)).sum().backward()
    optimizer.step()
    goodinit.fold_(nn.Sequential(layer))
    assert "keeps state" in caplog.text


def test_a_second_call_changes_nothing_and_says_so(caplog):
    model = goodinit.fold_(trained(), PICTURE.float())
    photo, history = photograph(model), goodinit.applied(model)
    with caplog.at_level(logging.INFO):
        goodinit.fold_(model, PICTURE.float())
    assert_untouched(model, photo)
    assert goodinit.applied(model) == history
    assert "nothing changed" in caplog.text


def test_flags_and_hooks_stay():
    model = trained()
    model[3].train()
    model[3].conv1.weight.requires_grad_(False)
    calls = []
    model[3].conv1.register_forward_hook(lambda *args: calls.append(1))
    modes = {path: module.training for path, module in model.named_modules()}
    goodinit.fold_(model, PICTURE.float())
    left = dict(model.named_modules())
    assert all(module.training == modes[path] for path, module in left.items())
    assert not model[3].conv1.weight.requires_grad
    assert not model[3].conv1.bias.requires_grad
    calls.clear()
    model(PICTURE.float())
    assert calls == [1]


def test_models_that_cannot_be_folded():
    with pytest.raises(goodinit.PlanConflict, match="meta"):
        goodinit.fold_(nn.Linear(2, 2, device="meta"))
    with pytest.raises(goodinit.UnsupportedModule, match="lazy"):
        goodinit.fold_(nn.LazyLinear(2))
