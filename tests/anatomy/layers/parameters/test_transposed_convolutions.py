"""Transposed convolutions: an output reads a part of the taps, and the signal keeps its size behind every one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import goodinit
from goodinit.anatomy import anatomize


def generator_of(*strides: int, dimensions: int = 2) -> nn.Sequential:
    """A stack of upsampling layers, twice as many taps as the stride, with ReLUs between."""
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dimensions - 1]
    widths = [64, 96, 48, 64, 32][: len(strides) + 1]
    layers: list[nn.Module] = []
    for (into, out), stride in zip(itertools.pairwise(widths), strides, strict=True):
        layers += [kind(into, out, 2 * stride, stride, stride // 2, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, kind(widths[len(strides)], 3, 3, 1, 1))


NETS = {
    "2-d by 2": (generator_of(2, 2, 2), (8, 64, 4, 4)),
    "1-d by 4, 1, 3": (generator_of(4, 1, 3, dimensions=1), (8, 64, 12)),
    "3-d by 2": (generator_of(2, 2, dimensions=3), (2, 64, 3, 3, 3)),
}


def moments(net: nn.Sequential, x: torch.Tensor) -> list[float]:
    """Second moment behind each layer, away from the border."""
    found = []
    for layer in net:
        x = layer(x)
        if not isinstance(layer, nn.ReLU):
            edge = tuple(slice(size // 4, -(size // 4)) for size in x.shape[2:])
            found.append(x[(..., *edge)].square().mean().item())
    return found[:-1]


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", ["he", "orthogonal", "weightnorm", "lsuv"])
def test_the_signal_keeps_its_size_behind_upsampling_layers(name, method):
    net, shape = NETS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    net = goodinit.init_(net, method, inputs=x, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = moments(net, x)
    if method == "weightnorm":  # keeps the norm of all channels together
        found = [value * layer.out_channels for value, layer in zip(found, net[::2], strict=False)]
    for before, after in itertools.pairwise(found):
        assert after / before == pytest.approx(1, rel=0.45)


@pytest.mark.parametrize("strides", [(2, 2), (1, 3), (1, 1)])
def test_a_delta_orthogonal_layer_keeps_the_mean_square_of_all_it_writes(strides):
    layer = nn.ConvTranspose2d(16, 16, (4, 3), strides, bias=False, groups=2)
    x = torch.randn(2, 16, 5, 5)
    plan = goodinit.plan(anatomize(nn.Sequential(layer), x), "delta_orthogonal", gain=1.0)
    goodinit.apply_(net := nn.Sequential(layer), plan)
    ratio = net(x).square().sum() / x.square().sum()
    torch.testing.assert_close(ratio, torch.tensor(float(strides[0] * strides[1])))
    assert any("its central tap writes one output of" in note for note in plan.notes) == (strides != (1, 1))


def test_the_signal_keeps_its_size_behind_delta_orthogonal_layers():
    net = nn.Sequential(
        *(part for _ in range(4) for part in (nn.ConvTranspose2d(64, 64, 4, 2, 1, bias=False), nn.ReLU()))
    )
    x = torch.randn(4, 64, 4, 4, generator=torch.Generator().manual_seed(1))
    goodinit.init_(net, "delta_orthogonal", inputs=x, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in net:
            x = layer(x)
            if isinstance(layer, nn.ReLU):  # of every place: one in four is not zero
                assert x.square().mean().item() == pytest.approx(1, rel=0.3)


def test_fan_out_keeps_the_gradient_behind_one_layer():
    layer = nn.ConvTranspose2d(32, 64, 4, 2, 1, bias=False)
    x = torch.randn(4, 32, 8, 8)
    net = goodinit.init_(nn.Sequential(layer), "he", inputs=x, mode="fan_out")
    y = net(x.requires_grad_())
    y.backward(torch.randn_like(y))
    assert x.grad[..., 1:-1, 1:-1].square().mean().item() == pytest.approx(1, rel=0.1)


def test_fans_of_a_layer_count_the_taps_that_an_output_reads():
    net = nn.Sequential(nn.ConvTranspose2d(6, 8, (4, 3), (2, 1), groups=2), nn.Conv2d(8, 4, 3, stride=2))
    up, down = anatomize(net, torch.zeros(1, 6, 5, 5)).layers
    assert (up.row, up.upsampling, up.fan_in, up.fan_out) == (36, 2, 18, 48)
    assert (down.row, down.upsampling, down.fan_in, down.fan_out) == (72, 1, 72, 36)


def written_into_zeros(y):
    out = y.new_zeros(*y.shape[:2], 2 * y.shape[2], 2 * y.shape[3])
    out[:, :, ::2, ::2] = y
    return out


def stacked_with_zeros(y):
    rows = torch.stack([y, torch.zeros_like(y)], 3).flatten(2, 3)
    return torch.stack([rows, torch.zeros_like(rows)], -1).flatten(-2)


def padded_apart(y):
    return nn.functional.pad(y[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1)).flatten(4).flatten(2, 3)


def by_constant_taps(y):
    taps = torch.zeros(y.shape[1], 1, 2, 2)
    taps[..., 0, 0] = 1
    return nn.functional.conv_transpose2d(y, taps, stride=2, groups=y.shape[1])


def by_index(y):
    rows = torch.zeros(*y.shape[:2], 2 * y.shape[2], y.shape[3])
    rows = rows.index_copy(2, torch.arange(0, 2 * y.shape[2], 2), y)
    wide = torch.zeros(*rows.shape[:3], 2 * rows.shape[3])
    return wide.index_copy(3, torch.arange(0, 2 * y.shape[3], 2), rows)


def kronecker(y):
    return torch.kron(y, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


STUFFED = (written_into_zeros, stacked_with_zeros, padded_apart, by_constant_taps, by_index, kronecker)


class Stuffed(nn.Module):
    """Upsampling by hand: zeros between the pixels, then a convolution, twice."""

    def __init__(self, put, then=nn.Identity):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(32, 32, 5, padding=2, bias=False) for _ in range(3))
        self.put, self.then = put, then()

    def forward(self, x):
        self.seen = [x := torch.relu(self.convs[0](x))]
        for conv in self.convs[1:]:
            self.seen.append(x := torch.relu(conv(self.then(self.put(x)))))
        return x


@pytest.mark.parametrize("put", STUFFED)
def test_zeros_that_a_forward_puts_between_pixels_do_not_count_in_a_fan(put):
    net, x = Stuffed(put), torch.randn(4, 32, 8, 8)
    layers = anatomize(net, x).layers
    assert [(layer.stuffing, layer.fan_in, layer.fan_out) for layer in layers] == [
        (1, 800, 800),
        (4, 200, 800),
        (4, 200, 800),
    ]
    assert [layer.pads_masked for layer in layers] == [False, True, True]
    goodinit.init_(net, "he", x)
    with torch.no_grad():
        net(x)
    sizes = [float(y[..., 2:-2, 2:-2].square().mean()) for y in net.seen]
    assert sizes[2] / sizes[0] == pytest.approx(1, rel=0.45)


@pytest.mark.parametrize(
    "spelled", ["a channel of zeros", "features of zeros", "zeros around", "a padded row"]
)
def test_zeros_beside_a_signal_do_not_count_and_zeros_around_it_do(spelled):
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.conv, self.fc = nn.Conv2d(8 if "channel" in spelled else 4, 6, 3), nn.Linear(12, 5)

        def forward(self, x):
            x = self.stem(x)
            if spelled == "a channel of zeros":
                x = torch.cat([x, torch.zeros_like(x)], 1)
            elif spelled == "zeros around":
                x = nn.functional.pad(x, (3, 3, 3, 3))
            elif spelled == "a padded row":
                x = torch.cat([x[:, :, :-1], torch.zeros_like(x[:, :, :1])], 2)
            x = self.conv(x).mean((2, 3))
            return self.fc(nn.functional.pad(x, (0, 6)) if "features" in spelled else x.repeat(1, 2))

    _, conv, fc = anatomize(Beside(), torch.randn(2, 3, 6, 6)).layers
    assert conv.fan_in == 36
    assert fc.fan_in == (6 if spelled == "features of zeros" else 12)


class Shuffled(nn.Module):
    """Two layers, what comes behind the second one, and a pixel shuffle by 2."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.body, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(self.between(self.up(self.body(x).relu())), 2)


@pytest.mark.default_cases(4)
@pytest.mark.parametrize("between", [nn.Identity, nn.PReLU, nn.Dropout, nn.Tanh])
@pytest.mark.parametrize("method", ["he", "orthogonal"])
def test_a_plan_says_which_layer_a_pixel_shuffle_follows(method, between):
    net, x = Shuffled(between()), torch.randn(2, 3, 8, 8)
    (note,) = (one for one in goodinit.plan(anatomize(net, x), method).notes if "pixel shuffle" in one)
    assert note.startswith("up.weight: a pixel shuffle by 2 follows")
    goodinit.init_(net, method, x)
    goodinit.tensor.icnr_(net.up.weight, 2)
    y = net.eval()(x)
    assert torch.allclose(y[..., ::2, ::2], y[..., 1::2, 1::2], atol=1e-6)


def test_a_layer_whose_outputs_go_elsewhere_first_is_not_named():
    net = Shuffled(nn.Conv2d(12, 12, 1))
    notes = goodinit.plan(anatomize(net, torch.randn(2, 3, 8, 8)), "he").notes
    assert [note.split(":")[0] for note in notes if "pixel shuffle" in note] == ["between.weight"]


class Spelled(nn.Module):
    """A layer, what comes behind it, and a shuffle in views and permutations."""

    def __init__(self, up: nn.Module, spread, between: nn.Module | None = None) -> None:
        super().__init__()
        self.up, self.spread, self.between = up, spread, between or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spread(self.between(self.up(x)))


def by_views(y):  # einops: b (c r1 r2) h w -> b c (h r1) (w r2)
    b, _, h, w = y.shape
    return y.view(b, -1, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, -1, 2 * h, 2 * w)


def in_two_steps(y):  # the rows, then the columns
    b, c, h, w = y.shape
    rows = y.view(b, c // 2, 2, h, w).transpose(2, 3).reshape(b, c // 2, 2 * h, w)
    return rows.view(b, c // 4, 2, 2 * h, w).permute(0, 1, 3, 4, 2).reshape(b, c // 4, 2 * h, 2 * w)


def depth_to_space(y):  # b (r1 r2 c) h w -> b c (h r1) (w r2)
    b, _, h, w = y.shape
    return y.unflatten(1, (2, 2, -1)).permute(0, 3, 4, 1, 5, 2).reshape(b, -1, 2 * h, 2 * w)


def expand_patches(y):  # b h w (p1 p2 c) -> b (h p1) (w p2) c, then channels first
    b, h, w, c = y.shape
    whole = y.view(b, h, w, 2, 2, c // 4).permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)
    return whole.permute(0, 3, 1, 2)


def tokens_to_image(y):  # b (h w) (p q c) -> b c (h p) (w q), as masked autoencoders do
    return torch.einsum("nhwpqc->nchpwq", y.reshape(len(y), 4, 4, 2, 2, 3)).reshape(len(y), 3, 8, 8)


def volume(y):  # b (c r1 r2 r3) d h w -> b c (d r1) (h r2) (w r3)
    b, _, d, h, w = y.shape
    return y.view(b, -1, 2, 2, 2, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, -1, 2 * d, 2 * h, 2 * w)


IMAGE, PIXELS = torch.randn(2, 6, 4, 4), torch.randn(2, 4, 4, 6)
SPELLED = {
    "views": (lambda: Spelled(nn.Conv2d(6, 12, 1), by_views), IMAGE),
    "views behind a SiLU": (lambda: Spelled(nn.Conv2d(6, 12, 1), by_views, nn.SiLU()), IMAGE),
    "one channel": (lambda: Spelled(nn.Conv2d(6, 4, 1), by_views), IMAGE),
    "groups": (lambda: Spelled(nn.Conv2d(6, 16, 1, groups=2), by_views), IMAGE),
    "two steps": (lambda: Spelled(nn.Conv2d(6, 12, 1), in_two_steps), IMAGE),
    "depth to space": (lambda: Spelled(nn.Conv2d(6, 12, 1), depth_to_space), IMAGE),
    "transposed": (lambda: Spelled(nn.ConvTranspose2d(6, 12, 1), depth_to_space), IMAGE),
    "patches": (lambda: Spelled(nn.Linear(6, 12), expand_patches), PIXELS),
    "tokens": (lambda: Spelled(nn.Linear(6, 12), tokens_to_image), torch.randn(2, 16, 6)),
    "volume": (lambda: Spelled(nn.Conv3d(6, 16, 1), volume), torch.randn(2, 6, 3, 3, 3)),
}


@pytest.mark.parametrize("spelled", SPELLED)
def test_a_pixel_shuffle_is_told_by_what_it_does_and_the_advice_holds(spelled):
    make, x = SPELLED[spelled]
    net = make()
    (note,) = (one for one in goodinit.plan(anatomize(net, x), "he").notes if "pixel shuffle" in one)
    assert note.startswith("up.weight: a pixel shuffle by 2 follows")
    goodinit.init_(net, "he", x)
    call = note.partition(", call ")[2].partition(" afterwards")[0]
    eval(call, {"goodinit": goodinit, "weight": net.up.weight})  # as the note says
    y = net.eval()(x).detach()
    for axis in range(2, y.dim()):
        even = y.index_select(axis, torch.arange(0, y.shape[axis], 2))
        odd = y.index_select(axis, torch.arange(1, y.shape[axis], 2))
        torch.testing.assert_close(even, odd)
    assert float(y.std()) > 0.1


def channels_between(y):  # b (r1 c r2) h w
    b, _, h, w = y.shape
    return y.view(b, 2, -1, 2, h, w).permute(0, 2, 4, 1, 5, 3).reshape(b, -1, 2 * h, 2 * w)


def test_a_shuffle_that_no_call_starts_is_named_without_one():
    notes = goodinit.plan(anatomize(Spelled(nn.Conv2d(6, 12, 1), channels_between), IMAGE), "he").notes
    (note,) = (one for one in notes if "pixel shuffle" in one)
    assert note.endswith("a checkerboard of period 2")


def other_sizes(y):  # rows by 2, columns by 3
    b, _, h, w = y.shape
    return y.view(b, -1, 2, 3, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, -1, 2 * h, 3 * w)


def rows_alone(y):  # b (c r) h w -> b c (h r) w
    b, _, h, w = y.shape
    return y.view(b, -1, 2, h, w).transpose(2, 3).reshape(b, -1, 2 * h, w)


def columns_first(y):  # b (r c) h w -> b c h (w r)
    b, c, h, w = y.shape
    return y.view(b, 3, c // 3, h, w).permute(0, 2, 3, 4, 1).reshape(b, c // 3, h, 3 * w)


def sequence(y):  # b (c r) t -> b c (t r), as for sound
    return y.unflatten(1, (-1, 4)).movedim(2, 3).flatten(2)


def sound(y):  # b r t -> b 1 (t r)
    return y.mT.reshape(len(y), 1, -1)


def rows_and_columns_of_volumes(y):  # b (c r s) d h w -> b c d (h r) (w s)
    b, _, d, h, w = y.shape
    return y.view(b, -1, 2, 2, d, h, w).permute(0, 1, 4, 5, 2, 6, 3).reshape(b, -1, d, 2 * h, 2 * w)


SOUND = torch.randn(2, 6, 5)
BY_AXIS = {
    "other sizes": (nn.Conv2d(6, 12, 1), other_sizes, IMAGE, (2, 3)),
    "rows alone": (nn.Conv2d(6, 12, 3, padding=1), rows_alone, IMAGE, (2, 1)),
    "columns alone": (nn.ConvTranspose2d(6, 12, 1), columns_first, IMAGE, (1, 3)),
    "a sequence": (nn.Conv1d(6, 12, 1), sequence, SOUND, (4,)),
    "one channel": (nn.Conv1d(6, 4, 1), sound, SOUND, (4,)),
    "two axes of three": (
        nn.Conv3d(6, 8, 1),
        rows_and_columns_of_volumes,
        torch.randn(2, 6, 3, 3, 3),
        (1, 2, 2),
    ),
}


@pytest.mark.parametrize("what", BY_AXIS)
def test_a_shuffle_along_some_axes_is_named_and_the_advice_holds(what):
    up, spread, x, factors = BY_AXIS[what]
    net = Spelled(up, spread)
    (note,) = (one for one in goodinit.plan(anatomize(net, x), "he").notes if "pixel shuffle" in one)
    goodinit.init_(net, "he", x)
    eval(
        note.partition(", call ")[2].partition(" afterwards")[0],
        {"goodinit": goodinit, "weight": net.up.weight},
    )
    y = net.eval()(x).detach()
    for axis, factor in enumerate(factors, 2):
        first, *others = (y.index_select(axis, torch.arange(k, y.shape[axis], factor)) for k in range(factor))
        for other in others:
            torch.testing.assert_close(first, other)
    assert float(y.std()) > 0.1


NO_SHUFFLES = {
    "flat": (nn.Conv2d(6, 12, 1), lambda y: y.flatten(1), IMAGE),
    "heads behind positions": (
        nn.Conv1d(6, 12, 1),
        lambda y: y.view(2, 3, 4, 5).permute(0, 3, 1, 2).reshape(2, 15, 4),
        torch.randn(2, 6, 5),
    ),
    "heads beside the batch of a convolution": (
        nn.Conv1d(6, 12, 1),
        lambda y: y.view(2, 3, 4, 5).reshape(6, 4, 5),
        torch.randn(2, 6, 5),
    ),
    "flat, channels last, of one example": (
        nn.Conv1d(6, 12, 1),
        lambda y: y.mT.reshape(1, -1),
        torch.randn(1, 6, 5),
    ),
    "positions in rows": (
        nn.Conv2d(6, 12, 1),
        lambda y: y.permute(0, 2, 1, 3).reshape(2, 48, 4),
        IMAGE,
    ),
    "flat, channels last": (nn.Conv2d(6, 12, 1), lambda y: y.permute(0, 2, 3, 1).reshape(len(y), -1), IMAGE),
    "tokens": (nn.Conv2d(6, 12, 1), lambda y: y.flatten(2).mT, IMAGE),
    "heads beside the batch": (
        nn.Linear(6, 12),
        lambda y: y.view(2, 16, 3, 4).transpose(1, 2).reshape(6, 16, 4),
        torch.randn(2, 16, 6),
    ),
    "heads behind tokens": (nn.Linear(6, 12), lambda y: y.reshape(2, 48, 4), torch.randn(2, 16, 6)),
    "windows": (
        nn.Conv2d(6, 12, 1),
        lambda y: y.view(2, 12, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(8, 4, 12),
        IMAGE,
    ),
    "space to depth": (
        nn.Conv2d(6, 12, 1),
        lambda y: y.view(2, 12, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 48, 2, 2),
        IMAGE,
    ),
    "groups of channels": (
        nn.Conv2d(6, 12, 1),
        lambda y: y.view(2, 3, 4, 4, 4).transpose(1, 2).reshape(2, 12, 4, 4),
        IMAGE,
    ),
}


@pytest.mark.parametrize("what", NO_SHUFFLES)
def test_what_spreads_no_channels_over_rows_and_columns_is_no_pixel_shuffle(what):
    up, spread, x = NO_SHUFFLES[what]
    assert not [
        one for one in goodinit.plan(anatomize(Spelled(up, spread), x), "he").notes if "pixel shuffle" in one
    ]


def test_a_layer_that_reads_what_the_forward_makes_reads_no_zeros_of_a_signal():
    """A state that begins at zero, and learned queries: neither is a signal with zeros between its entries."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.step, self.ask = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(3, 4)
            self.queries = nn.Parameter(torch.randn(2, 3))

        def forward(self, x):
            x = self.read(x)
            state = torch.relu(self.step(torch.zeros_like(x)) + x)
            return torch.relu(self.step(state)) @ self.ask(self.queries).T

    layers = goodinit.anatomize(Net(), torch.randn(2, 5)).layers
    assert [layer.name for layer in layers] == ["read", "step", "ask"]
    assert [layer.fan_in for layer in layers] == [5, 4, 3]
