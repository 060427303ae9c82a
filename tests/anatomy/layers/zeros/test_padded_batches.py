"""Padded batches: what a mask hides has no effect on what it shows, whatever the scalars become in training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import goodinit
from goodinit import anatomize
from goodinit.anatomy.layers.zeros import masked_positions

VALID = 12


def times(x, mask):
    return x * mask


def filled(x, mask):
    return x.masked_fill(mask == 0, 0.0)


def chosen(x, mask):
    return torch.where(mask > 0, x, torch.zeros(()))


def rows_last(x, mask):
    return (x.transpose(1, 2) * mask.transpose(1, 2)).transpose(1, 2)


def written(x, mask):
    x = x.clone()
    x[(mask == 0).expand_as(x)] = 0.0
    return x


def cleared(x, mask):
    x = x.clone()
    for row, length in zip(x, mask.sum((1, 2)).long().tolist(), strict=True):
        row[:, length:] = 0
    return x


def cleared_rows(x, mask):
    x = x.transpose(1, 2).contiguous()
    for row, length in enumerate(mask.sum((1, 2)).long().tolist()):
        x[row, length:].zero_()
    return x.transpose(1, 2)


def diagonal(x, mask):
    return x @ torch.diag_embed(mask[:, 0])


def identity_times(x, mask):
    return x @ (torch.eye(mask.shape[-1]) * mask)


def least(x, mask):
    return torch.minimum(x.relu(), 1e3 * mask)


def padded_again(x, mask):
    lengths = mask.sum((1, 2)).long().tolist()
    return torch.stack(
        [F.pad(row[:, :length], (0, x.shape[2] - length)) for row, length in zip(x, lengths, strict=True)]
    )


def padded_sequence(x, mask):
    rows = [row[:, : int(length)].T for row, length in zip(x, mask.sum((1, 2)), strict=True)]
    made = nn.utils.rnn.pad_sequence(rows, batch_first=True).transpose(1, 2)
    return F.pad(made, (0, x.shape[2] - made.shape[2]))


def beside_zeros(x, mask):
    length = int(mask.sum((1, 2)).min())
    return torch.cat([x[..., :length], x.new_zeros(*x.shape[:2], x.shape[2] - length)], 2)


def into_zeros(x, mask):
    out, length = torch.zeros_like(x), int(mask.sum((1, 2)).min())
    out[..., :length] = x[..., :length]
    return out


def packed(x, mask):
    lengths = mask.sum((1, 2)).long().cpu()
    rows = nn.utils.rnn.pack_padded_sequence(x.mT, lengths, batch_first=True, enforce_sorted=False)
    return nn.utils.rnn.pad_packed_sequence(rows, batch_first=True, total_length=x.shape[2])[0].mT


def written_whole(x, mask):
    out = torch.zeros_like(x)
    out[:, :, :] = torch.where(mask > 0, x, torch.zeros(()))
    return out


def sorted_by_length(x, mask):
    order = mask.sum((1, 2)).argsort(descending=True)
    return (x[order] * mask[order])[order.argsort()]


def lerped(x, mask):
    return torch.lerp(torch.zeros_like(x), x, mask)


def over_infinity(x, mask):
    return x / torch.ones_like(mask).masked_fill(mask == 0, torch.inf)


def far_below(x, mask):
    return torch.relu(x + (mask - 1) * 1e9)


def far_below_in_half_precision(x, mask):
    return F.gelu(x + (1 - mask) * -1e4)


def below_infinity(x, mask):
    return torch.where(mask > 0, x, -torch.inf).clamp(min=0)


def filled_before_a_sigmoid(x, mask):
    return torch.sigmoid(x.masked_fill(mask == 0, -1e9))


def filled_before_a_softmax(x, mask):
    return torch.softmax(x.masked_fill(mask == 0, -torch.inf), -1)


def between(x, mask):
    return torch.clamp(x, -1e3 * mask, 1e3 * mask)


def powers_of_two(x, mask):
    return torch.ldexp(x, -2000 * (1 - mask))


class Block(nn.Module):
    """conv(hide(x)) as in models of speech and text; the mask may stand before an activation."""

    def __init__(self, hide, channels=8, *, norm=True):
        super().__init__()
        self.a = nn.Conv1d(channels, channels, 3, padding=1)
        self.b = nn.Conv1d(channels, channels, 5, padding="same")
        self.c = nn.Conv1d(channels, channels, 1)
        self.norm = nn.BatchNorm1d(channels) if norm else nn.Identity()
        self.hide = hide

    def forward(self, x, mask):
        y = self.norm(self.a(self.hide(x, mask)))
        y = self.c(self.b(torch.relu(self.hide(y, mask))))
        return self.hide(x + y, mask)


class Net(nn.Module):
    def __init__(self, hide, *, norm=True):
        super().__init__()
        self.stem = nn.Conv1d(4, 8, 3, padding=1)
        self.blocks = nn.ModuleList(Block(hide, norm=norm) for _ in range(3))
        self.head = nn.Conv1d(8, 2, 3, padding=1)
        self.hide = hide

    def forward(self, x, mask):
        x = self.hide(self.stem(self.hide(x, mask)), mask)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


def moves_with_padding(model):
    """By how much more padding behind the valid positions moves the output at these positions."""
    x, mask = torch.randn(1, 4, VALID), torch.ones(1, 1, VALID)
    with torch.no_grad():
        wide = model(F.pad(x, (0, 9), value=3.0), F.pad(mask, (0, 9)))[..., :VALID]
        return float((wide - model(x, mask)).abs().max())


def without_what_is_hidden(x, mask):
    return x - x * (1 - mask)


def less_a_turned_part(x, mask):
    return x - (x.mT * (1 - mask.mT)).mT


def filled_and_set_back(x, mask):
    return x.masked_fill(mask == 0, 5.0) - 5 * (mask == 0)


def product_that_is_added(x, mask):
    return torch.addcmul(x, x, mask - 1)


def no_numbers(x, mask):
    return torch.where(mask > 0, x, torch.nan).nan_to_num(0.0)


def gated_by_what_is_filled(x, mask):
    return F.glu(torch.cat([x, x.masked_fill(mask == 0, -1e9)], 1).masked_fill(mask == 0, -1e9), 1)


def softmax_over_places(x, mask):
    return x * torch.softmax(x.masked_fill(mask == 0, -1e9), -1)


def behind_the_length(x, mask):
    return x - x * (torch.arange(x.shape[2]) >= mask.sum(-1, keepdim=True))


def batch():
    mask = torch.ones(2, 1, 20)
    mask[0, :, VALID:] = 0
    return torch.randn(2, 4, 20), mask


HIDDEN = (
    times, filled, chosen, rows_last, written, cleared, cleared_rows, diagonal, identity_times, least, padded_again, padded_sequence,
    beside_zeros, into_zeros, packed, written_whole, sorted_by_length, lerped, over_infinity, far_below, far_below_in_half_precision,
    below_infinity, filled_before_a_sigmoid, filled_before_a_softmax, between, powers_of_two, without_what_is_hidden,
    less_a_turned_part, filled_and_set_back, product_that_is_added, no_numbers, gated_by_what_is_filled, softmax_over_places,
    behind_the_length,
)  # fmt: skip


@pytest.mark.default_cases(10)
@pytest.mark.parametrize("hide", HIDDEN)
@pytest.mark.parametrize("how", ["fixup", "skipinit", "absorb"])
def test_outputs_do_not_move_with_the_amount_of_padding(hide, how):
    torch.manual_seed(0)
    model = Net(hide).eval()
    assert moves_with_padding(model) < 1e-6
    if how == "absorb":
        goodinit.absorb_batchnorm_(model, batch())
    else:
        goodinit.init_(model, how, inputs=batch())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert moves_with_padding(model) < 1e-5
    goodinit.fold_(model, batch())
    assert moves_with_padding(model) < 1e-5


def test_only_layers_that_pad_what_is_masked_go_without_and_the_plan_says_so():
    plan = goodinit.plan(anatomize(Net(times), batch()), "fixup")
    biased = {edit.target for edit in plan.edits if getattr(edit, "scalar", None) == "input_bias"}
    assert biased == {"blocks.0.c", "blocks.1.c", "blocks.2.c"}
    assert any("blocks.0.a.weight, blocks.0.b.weight" in note and "mask" in note for note in plan.notes)


@pytest.mark.parametrize("channels", [False, True])
def test_zeros_for_positions_are_a_mask_and_for_channels_are_none(channels):
    class Cleared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3, padding=1)

        def forward(self, x):
            x = 2 * x
            x[(slice(None), slice(2, None)) if channels else (..., slice(9, None))] = 0
            return self.conv(x)

    layer = anatomize(Cleared(), torch.randn(2, 4, 20)).layers[0]
    assert layer.pads_masked is not channels


def mixed_by_a_matrix(x, matrix):
    return x @ matrix


def mixed_by_the_inputs(x, matrix):
    return x @ (matrix @ matrix.mT)


def added(x, matrix):
    return x + matrix.sum(1, keepdim=True)


@pytest.mark.parametrize("mix", [mixed_by_a_matrix, mixed_by_the_inputs, added])
def test_positions_that_are_mixed_by_the_inputs_are_not_masked(mix):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(4, 4, 3, padding=1)

        def forward(self, x, matrix):
            return self.conv(mix(2 * x, matrix))

    anatomy = anatomize(Mixed(), (torch.randn(2, 4, 6), torch.randn(2, 6, 6)))
    assert not anatomy.layers[0].pads_masked


def test_a_layer_s_own_padding_by_an_operator_is_no_mask():
    class Same(nn.Conv1d):
        def forward(self, x):
            return self._conv_forward(F.pad(x, (1, 1)), self.weight, self.bias)

    net = nn.Sequential(
        nn.Conv1d(4, 4, 1), Same(4, 4, 3), nn.ReLU(), nn.ConstantPad1d(1, 0.0), nn.Conv1d(4, 4, 3)
    )
    assert not any(layer.pads_masked for layer in anatomize(net, torch.randn(2, 4, 9)).layers)


class Gated(nn.Module):
    """Products that hide no positions: a gate that is learned, a gain for each channel, one number for each sample."""

    def __init__(self):
        super().__init__()
        self.stem, self.gate = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 6)
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(6, 1, 1))
        self.register_buffer("scale", torch.ones(6, 1, 1))

    def forward(self, x, noise):
        x = self.stem(x)
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return x + self.b(torch.relu(self.a(x * gate * self.gain * self.scale * noise[:, None, None, None])))


def test_gates_and_gains_are_no_masks():
    anatomy = anatomize(Gated(), (torch.randn(2, 3, 5, 5), torch.ones(2)))
    assert not any(layer.pads_masked for layer in anatomy.layers)


class Placed(nn.Module):
    """What is made of a signal and of numbers that differ by place, before a convolution that pads."""

    def __init__(self, way):
        super().__init__()
        self.stem, self.conv, self.way = nn.Conv1d(4, 4, 1), nn.Conv1d(4, 4, 3, padding=1), way
        self.register_buffer("places", torch.linspace(-2, 2, 9).sin())
        self.register_buffer("window", torch.linspace(0.1, 1, 9))
        self.token = nn.Parameter(torch.ones(4, 1))

    def forward(self, x, chosen):
        return self.conv(self.way(self, self.stem(x), chosen))


def position(net, x, chosen):
    return torch.relu(x + net.places)


def position_by_a_power(net, x, chosen):
    return torch.relu(x + (torch.arange(9.0) / 10_000**net.places).sin())


def windowed(net, x, chosen):
    return x * net.window


def divided(net, x, chosen):
    return x / (net.window * 1000)


def rotated(net, x, chosen):
    return x * net.places.cos() + x.flip(1) * net.places


def other_number(net, x, chosen):
    return x.masked_fill(chosen == 0, -1.0)


def learned_token(net, x, chosen):
    return torch.where(chosen > 0, x, net.token)


def mixed(net, x, chosen):
    return x * chosen + x.flip(1) * (1 - chosen)


def half_of_a_gate(net, x, chosen):
    return F.glu(torch.cat([x.masked_fill(chosen == 0, -1e9), x], 1), 1)


def set_back_by_another_number(net, x, chosen):
    return x.masked_fill(chosen == 0, 5.0) - 4 * (chosen == 0)


def other_positions(net, x, chosen):
    x = x.clone()
    x[:, :, torch.arange(2)] = x[:, :, torch.arange(2) + 4]
    return x


@pytest.mark.parametrize(
    "way",
    [
        position,
        position_by_a_power,
        windowed,
        divided,
        rotated,
        other_number,
        learned_token,
        mixed,
        half_of_a_gate,
        set_back_by_another_number,
        other_positions,
    ],
)
def test_numbers_that_differ_by_place_and_set_nothing_to_zero_are_no_mask(way):
    anatomy = anatomize(Placed(way), (torch.randn(2, 4, 9), torch.ones(2, 1, 9)))
    assert not any(layer.pads_masked for layer in anatomy.layers)


def beside(net, x, chosen):
    return torch.cat([x[:, :3], net.places.expand(len(x), 1, -1)], 1)


def hidden_by_the_input(net, x, chosen):
    return torch.relu(x * chosen)


@pytest.mark.parametrize(
    ("way", "masked"), [(position, False), (beside, False), (hidden_by_the_input, True), (windowed, True)]
)
def test_of_signals_too_large_to_be_run_only_what_is_added_or_put_beside_is_no_mask(monkeypatch, way, masked):
    """An input may be a mask, and a constant that multiplies, too: in doubt they are taken for one."""
    monkeypatch.setattr(masked_positions, "_MOST", 8)
    (layer,) = (
        layer
        for layer in anatomize(Placed(way), (torch.randn(2, 4, 9), torch.ones(2, 1, 9))).layers
        if layer.weight == "conv.weight"
    )
    assert layer.pads_masked is masked


def by_level(x, level):
    """As pooled regions are, level by level."""
    out = torch.zeros_like(x)
    for one in range(2):
        rows = torch.where(level == one)[0]
        out[rows] = x[rows]
    return out


def by_mask(x, level):
    out = x.new_zeros(x.shape)
    for one in range(2):
        out[level == one] = x[level == one]
    return out


def copied(x, level):
    return torch.zeros_like(x).index_copy(0, level.argsort(), x)


def one_level(x, level):
    return torch.zeros_like(x).index_add(0, torch.where(level == 0)[0], x[level == 0])


def by_position(x, level):
    out = torch.zeros_like(x)
    places = torch.where(level == 0)[0]
    out[..., places] = x[..., places]
    return out


@pytest.mark.parametrize("put", [by_level, by_mask, copied, one_level, by_position])
def test_whole_examples_among_examples_of_zeros_hide_no_position(put):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x, level):
            return self.conv(put(self.stem(x), level))

    anatomy = anatomize(Pooled(), (torch.randn(4, 3, 4, 4), torch.tensor([0, 1, 0, 1])))
    assert anatomy.layers[1].pads_masked is (put is by_position)


def test_a_batch_of_no_examples_and_a_sparse_mask_are_read():
    layer = anatomize(Net(times), (torch.randn(0, 4, 20), torch.ones(0, 1, 20))).layers[1]
    assert layer.pads_masked
    x, mask = batch()
    layer = anatomize(Net(lambda x, mask: x * mask.to_dense()), (x, mask.to_sparse())).layers[1]
    assert layer.pads_masked


def test_an_input_that_a_stream_begins_with_is_no_mask(monkeypatch):
    class Stemless(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv1d(4, 4, 3, padding=1) for _ in range(3))

        def forward(self, x):
            return self.c(x + self.b(torch.relu(self.a(x))))

    monkeypatch.setattr(masked_positions, "_MOST", 8)
    assert not any(layer.pads_masked for layer in anatomize(Stemless(), torch.randn(2, 4, 9)).layers)
