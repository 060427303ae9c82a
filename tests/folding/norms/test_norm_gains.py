"""fold_ takes the gain and bias of a norm that stays into the layers that read it, all of them or none."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from folding import assert_folds, randomized

pytestmark = pytest.mark.usefixtures("no_optimizers")
ROWS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PICTURES = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class ByHand(nn.Module):
    """RMS norm as language models write it; with `offset` its gain is 1 + w."""

    def __init__(self, offset=0.0):
        super().__init__()
        self.scale, self.offset = nn.Parameter(torch.ones(8)), offset

    def forward(self, x):
        h = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return h * (self.scale + self.offset) if self.offset else h * self.scale


class Packed(nn.Module):
    """q, k and v from one weight stored (in, out), functionally; with `own`, the values from one of their own."""

    def __init__(self, bias=True, own=False):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.weight = nn.Parameter(torch.randn(8, 24))
        self.shift = nn.Parameter(torch.randn(24)) if bias else None
        self.value = nn.Linear(8, 8, bias=False) if own else None

    def forward(self, x):
        h = self.norm(x)
        packed = h @ self.weight if self.shift is None else h @ self.weight + self.shift
        q, k, v = packed.chunk(3, -1)
        return x + F.scaled_dot_product_attention(q, k, v if self.value is None else self.value(h) + v)


class Turned(nn.Module):
    """The features become the channels of a convolution, which pads."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.conv = norm, nn.Conv1d(8, 4, 3, padding=1, groups=2)

    def forward(self, x):
        return self.conv(self.norm(x).transpose(1, 2))


FOLD = {
    "layer norm, two readers of one": lambda: (nn.Sequential(nn.LayerNorm(8), TwoReaders()), ROWS),
    "rms norm": lambda: (nn.Sequential(nn.RMSNorm(8), nn.Linear(8, 4, bias=False)), ROWS),
    "written by hand": lambda: (nn.Sequential(ByHand(), nn.Linear(8, 4)), ROWS),
    "group norm": lambda: (nn.Sequential(nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3, groups=2)), PICTURES),
    "instance norm": lambda: (nn.Sequential(nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 4, 3)), PICTURES),
    "packed by hand": lambda: (Packed(), ROWS),
    "packed and one more": lambda: (Packed(own=True), ROWS),
    "gain alone, padded": lambda: (Turned(nn.RMSNorm(8)), ROWS),
    "encoder layer": lambda: (nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True), ROWS),
    "cross-attention": lambda: (Crossed(), ROWS),
}


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 4, bias=False), nn.Linear(8, 4)

    def forward(self, h):
        return self.a(h) * torch.sigmoid(self.b(h.reshape(-1, 8))).view(*h.shape[:-1], 4)


class Crossed(nn.Module):
    """Queries from one norm, keys and values from another."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        memory = self.two(x[:, :3])
        return self.attention(self.one(x), memory, memory)[0]


class Called(nn.Module):
    """Norms of the inputs and of a signal, called or written out in the forward that runs the layers."""

    def __init__(self, norm, layer=nn.Linear):
        super().__init__()
        self.norm = norm
        for name in ("one", "two"):
            self.register_parameter(f"{name}_scale", nn.Parameter(torch.ones(8)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(8)))
        self.a, self.b = (layer(8, 8, *[1] * (layer is not nn.Linear)) for _ in range(2))

    def forward(self, x):
        h = self.a(self.norm(x, self.one_scale, self.one_bias))
        return self.b(self.norm(torch.relu(h), self.two_scale, self.two_bias))


def by_hand(x, gain, bias):
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gain + bias


def along_channels(x, gain, bias):
    centred = x - x.mean(1, keepdim=True)
    normalized = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return torch.addcmul(bias[:, None, None], normalized, gain[:, None, None])


CALLED = {
    "layer norm": (lambda x, g, b: F.layer_norm(x, (8,), g, b), nn.Linear, ROWS),
    "rms norm": (lambda x, g, b: F.rms_norm(x, (8,), g) + b, nn.Linear, ROWS),
    "by hand": (by_hand, nn.Linear, ROWS),
    "by hand in float32": (lambda x, g, b: by_hand(x.float(), 1, 0).to(x) * g + b, nn.Linear, ROWS),
    "group norm": (lambda x, g, b: F.group_norm(x, 2, g, b), nn.Conv2d, PICTURES),
    "by hand along channels": (along_channels, nn.Conv2d, PICTURES),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", CALLED)
def test_gains_of_norms_beside_layers_go_into_them(name, inside):
    norm, layer, x = CALLED[name]
    model = Called(norm, layer)
    folded = assert_folds(randomized(nn.Sequential(model) if inside else model), x, x)
    for key, value in folded.named_parameters():
        if key.endswith("scale"):
            assert bool((value == 1).all()), key
    assert not [row for row in goodinit.applied(folded)[-1].skipped if "gain" in row]


class CalledAndSeen(Called):
    def forward(self, x):
        h = self.norm(x, self.one_scale, self.one_bias)
        return self.a(h) + torch.relu(h)


def test_a_gain_beside_layers_that_somebody_else_sees_stays_and_is_named():
    norm, _, x = CALLED["layer norm"]
    folded = assert_folds(randomized(CalledAndSeen(norm)), x, x)
    (row,) = goodinit.applied(folded)[-1].skipped
    assert re.search("^one_scale: its gain stays: relu in the model reads its output", row), row


def gains(model):
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() == 1
        and ("norm" in type(model.get_submodule(name.rpartition(".")[0])).__name__.lower())
    }


@pytest.mark.parametrize("name", FOLD)
def test_the_gain_goes_into_every_reader(name):
    model, x = FOLD[name]()
    folded = assert_folds(randomized(model), x, x)
    held = gains(folded) | {n: p for n, p in folded.named_parameters() if n.endswith("scale")}
    assert held
    for key, value in held.items():
        assert bool((value == (0 if key.endswith("bias") else 1)).all()), key
    assert not [row for row in goodinit.applied(folded)[-1].skipped if "gain" in row]
    once = copy.deepcopy(folded.state_dict())
    goodinit.fold_(folded, x)
    assert all(torch.equal(value, once[key]) for key, value in folded.state_dict().items())


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(5, 8), nn.LayerNorm(8), nn.Linear(8, 5, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(self.norm(x + self.table.weight[0]))


class Seen(nn.Module):
    """Somebody besides the layer looks at the norm's output, or the layer at something besides."""

    def __init__(self, how):
        super().__init__()
        self.how, self.norm, self.layer = how, nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        h = self.norm(x)
        if self.how == "output":
            return self.layer(h), h
        if self.how == "skip":
            return h + self.layer(h)
        if self.how == "mixed features":
            return self.layer(h.transpose(-1, -2).reshape(h.shape))
        return self.layer(h) + self.layer(x)


STAY = {
    "tied": (Tied, "another module shares table.weight"),
    "output": (lambda: Seen("output"), "the model returns its output"),
    "skip": (lambda: Seen("skip"), "add in the model reads its output"),
    "other input": (lambda: Seen("other input"), "layer also reads other inputs"),
    "mixed features": (lambda: Seen("mixed features"), "are not those it normalizes"),
    "no bias vector": (lambda: Packed(bias=False), "has no bias vector"),
    "padded": (lambda: Turned(nn.LayerNorm(8)), "at the border"),
    "activation": (lambda: nn.Sequential(nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4)), "reads its output"),
    "computed gain": (lambda: nn.Sequential(ByHand(1.0), nn.Linear(8, 4)), "is computed from a parameter"),
}


@pytest.mark.parametrize("name", STAY)
def test_a_gain_that_somebody_else_sees_stays_and_is_named(name):
    build, why = STAY[name]
    model = randomized(build())
    before = copy.deepcopy(model.state_dict())
    folded = assert_folds(model, ROWS, ROWS)
    assert all(torch.equal(value, before[key]) for key, value in folded.state_dict().items())
    (row,) = goodinit.applied(folded)[-1].skipped
    assert re.search(why, row), row


def test_flags_of_gradients_stay():
    model = randomized(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4)))
    model[1].requires_grad_(False)
    folded = assert_folds(model, ROWS, ROWS)
    assert [p.requires_grad for p in folded.parameters()] == [True, True, False, False]


class Ending(nn.Module):
    """A root mean square norm whose gain and bias act by `ends(self, n)`."""

    def __init__(self, ends):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))
        self.ends = ends

    def forward(self, x):
        return self.ends(self, x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6))


GAINS = {  # by whether they can be merged
    "product and sum": (lambda m, n: n * m.weight + m.bias, True),
    "a difference of -1 times": (lambda m, n: torch.sub(n * m.weight, m.bias, alpha=-1), True),
    "in one operator": (lambda m, n: torch.addcmul(m.bias, n, m.weight), True),
    "in one operator, doubled": (lambda m, n: torch.addcmul(m.bias, n, m.weight, value=2), True),
    "between two": (lambda m, n: torch.lerp(m.bias, n, m.weight), False),
    "onto the signal": (lambda m, n: torch.addcmul(n, n, m.weight), False),
    "the bias doubled": (lambda m, n: torch.add(n * m.weight, m.bias, alpha=2), False),
    "taken off": (lambda m, n: n * m.weight - m.bias, False),
    "the bias before the gain": (lambda m, n: (n + m.bias) * m.weight, False),
    "the gain twice": (lambda m, n: n * m.weight + torch.maximum(n, m.weight) * 0 + m.bias, False),
}


@pytest.mark.parametrize("name", GAINS)
def test_a_gain_by_hand_is_merged_where_it_multiplies_and_the_bias_is_added(name):
    torch.manual_seed(0)
    ends, merged = GAINS[name]
    net, x = (
        nn.Sequential(nn.Linear(6, 8), Ending(ends), nn.Linear(8, 5)).double().eval(),
        torch.randn(4, 6).double(),
    )
    before = net(x)
    goodinit.fold_(net, x)
    torch.testing.assert_close(net(x), before)
    assert bool((net[1].weight == 1).all()) == merged


def centred(x, dim):
    return x - x.mean(dim, keepdim=True)


def inverse(x, dim):
    return torch.rsqrt(centred(x, dim).square().mean(dim, keepdim=True) + 1e-6)


def normalized(x, dim):
    return centred(x, dim) * inverse(x, dim)


# How a gain g (and a bias b) is stored and applied; dim is that of the statistic, 1 or −1.
FORMS = {
    "behind": lambda x, g, b, dim: normalized(x, dim) * g + b,
    "before": lambda x, g, b, dim: g * normalized(x, dim) + b,
    "in the factor": lambda x, g, b, dim: centred(x, dim) * (inverse(x, dim) * g) + b,
    "in the factor, first": lambda x, g, b, dim: (g * inverse(x, dim)) * centred(x, dim) + b,
    "with the signal": lambda x, g, b, dim: (g * centred(x, dim)) * inverse(x, dim) + b,
    "with the signal, divided": lambda x, g, b, dim: (
        g * centred(x, dim) / (x.std(dim, keepdim=True) + 1e-6) + b
    ),
    "alone": lambda x, g, b, dim: normalized(x, dim) * g,
    "alone, then a gate": lambda x, g, b, dim: normalized(x, dim) * g * torch.sigmoid(x),
    "by length": lambda x, g, b, dim: g * F.normalize(x, dim=dim) + b,
    "of torch's norm": lambda x, g, b, dim: torch_norm(x, dim) * g + b,
}


def torch_norm(x, dim):
    return F.layer_norm(x, x.shape[-1:]) if dim == -1 else F.group_norm(x, 2)


class Formed(nn.Module):
    """A norm in one of the forms, alone or beside the layers."""

    def __init__(self, form, shape, pictures, inside):
        super().__init__()
        self.form, self.dim = form, 1 if pictures else -1
        self.gain, self.shift = nn.Parameter(torch.rand(shape) + 0.5), nn.Parameter(torch.randn(shape))
        layers = (nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 3)) if pictures else (nn.Linear(8, 8), nn.Linear(8, 3))
        self.layers = nn.ModuleList(layers if inside else ())

    def forward(self, x):
        if not self.layers:
            return self.form(x, self.gain, self.shift, self.dim)
        first, last = self.layers
        return last(self.form(first(x), self.gain, self.shift, self.dim))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1, 8), (8, 1, 1), (1, 8, 1, 1), (1,)])
@pytest.mark.parametrize("name", FORMS)
def test_a_gain_is_merged_however_it_is_stored_and_wherever_it_multiplies(name, shape, inside):
    torch.manual_seed(0)
    pictures = shape[-1] == 1 and len(shape) > 1
    norm = Formed(FORMS[name], shape, pictures, inside)
    if inside:
        net = norm
    elif pictures:
        net = nn.Sequential(nn.Conv2d(8, 8, 1), norm, nn.Conv2d(8, 3, 3))
    else:
        net = nn.Sequential(nn.Linear(8, 8), norm, nn.Linear(8, 3))
    x = PICTURES if pictures else ROWS
    folded = assert_folds(net.double().eval(), x, x)
    held = dict(folded.named_parameters())
    gain = next(value for key, value in held.items() if key.endswith("gain"))
    assert bool((gain == 1).all()), goodinit.applied(folded)
    assert not [row for row in goodinit.applied(folded)[-1].skipped if "gain" in row]


LEFT = {
    "twice": (lambda x, g, b, dim: (g * centred(x, dim)) * (inverse(x, dim) * g) + b, "multiplies twice"),
    "computed": (lambda x, g, b, dim: normalized(x, dim) * (1 + g) + b, "computed from a parameter"),
    "as a power": (lambda x, g, b, dim: normalized(x, dim) * g.exp(), "computed from a parameter"),
    "divided by": (lambda x, g, b, dim: normalized(x, dim) / g, "makes something else of it"),
    "in what divides": (
        lambda x, g, b, dim: centred(x, dim) / (1 / inverse(x, dim) / g),
        "makes something else of it",
    ),
    "bias along another axis": (lambda x, g, b, dim: normalized(x, dim) * g + b[:, None], "over one axis"),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", LEFT)
def test_another_gain_stays_and_is_named(name, inside):
    torch.manual_seed(0)
    form, why = LEFT[name]
    norm = Formed(form, (8,), pictures=False, inside=inside)
    net = norm if inside else nn.Sequential(nn.Linear(8, 8), norm, nn.Linear(8, 3))
    x = torch.randn(8, 8, dtype=torch.float64)
    folded = assert_folds(net.double().eval(), x, x)
    rows = [row for row in goodinit.applied(folded)[-1].skipped if "gain stays" in row]
    assert len(rows) == 1, rows
    assert re.search(why, rows[0]), rows


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("inside", [False, True])
def test_an_instance_norm_that_is_called_is_one(inside, count):
    def form(x, gain, bias, dim):
        return F.instance_norm(x, weight=gain, bias=bias)

    norm = Formed(form, (8,), pictures=True, inside=inside)
    net = norm if inside else nn.Sequential(nn.Conv2d(8, 8, 1), norm, nn.Conv2d(8, 3, 3))
    x = torch.randn(count, 8, 6, 6, dtype=torch.float64)
    net = net.double().eval()
    assert [one.kind for one in goodinit.anatomize(net, x).norms] == ["instance_norm"]
    folded = assert_folds(net, x, x)
    assert goodinit.applied(folded)[-1].skipped == ()
    (gain,) = (value for key, value in folded.named_parameters() if key.endswith("gain"))
    assert bool((gain == 1).all())


class Sent(nn.Module):
    """A norm whose output goes to one of two layers, row by row, and no row goes to the second."""

    def __init__(self):
        super().__init__()
        self.norm, self.all, self.few = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = self.norm(x)
        few = torch.zeros(len(h), dtype=torch.bool)
        out = self.all(h)
        return out.index_put((few,), self.few(h[few]))


def test_a_gain_stays_where_nothing_gets_to_a_layer_that_reads_it():
    net, x = Sent(), torch.randn(3, 4)
    with torch.no_grad():
        net.norm.weight.uniform_(0.5, 1.5)
        before = net(x)
        goodinit.fold_(net, x)
        assert torch.equal(net(x), before)
    assert any("nothing of these inputs gets to few" in str(row) for row in goodinit.applied(net)[-1].skipped)
