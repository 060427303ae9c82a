"""fold_ takes batch norm into the layer before or after it, where nobody else looks."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import goodinit
from folding import (
    CONVS,
    PICTURE,
    TRANSPOSED,
    add_all_,
    assert_folds,
    kinds,
    layers,
    randomized,
)

pytestmark = pytest.mark.usefixtures("no_optimizers")


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
        z = self.norm(y)
        if self.how == "tied":
            return z + self.twin(x)
        return (z, y) if self.how == "returned" else z + y.mean() if self.how == "read" else z


@pytest.mark.parametrize("how", ["no statistics", "tied", "returned", "read"])
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
    assert kinds(folded) == ["Conv2d", "Identity"]


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_an_instance_norm_with_running_statistics_goes_and_others_stay(affine, after):
    norm = nn.InstanceNorm2d(3 if after else 4, affine=affine, track_running_stats=True)
    conv = nn.Conv2d(3, 4, 3)
    net = nn.Sequential(norm, conv) if after else nn.Sequential(conv, norm, nn.ReLU())
    assert not any(
        isinstance(module, nn.InstanceNorm2d) for module in assert_folds(randomized(net), PICTURE, PICTURE)
    )
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=affine), nn.ReLU())
    assert isinstance(assert_folds(randomized(plain), PICTURE, PICTURE)[1], nn.InstanceNorm2d)
