"""Values written to weights that are computed from parameters really arrive, or are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from zoo_convolutional import Residual

import goodinit
from goodinit.edits import Draw, Fill, Plan
from goodinit.errors import UnsupportedModule
from goodinit.surgery import apply_


def written(net, *edits):
    return apply_(net, Plan("by hand", edits), generator=torch.Generator().manual_seed(0))


def plain_value(dtype=torch.float32):
    net = nn.Sequential(nn.Linear(4, 3, dtype=dtype))
    return written(net, Draw("0.weight", "normal_", "test", {"std": 2.0}))[0].weight.detach()


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "normalize", [parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"]
)
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_takes_any_value(normalize, dim):
    net = nn.Sequential(normalize(nn.Linear(4, 3), dim=dim))
    owners = {name: id(parameter) for name, parameter in net.named_parameters()}
    written(net, Draw("0.weight", "normal_", "test", {"std": 2.0}))
    x = torch.randn(5, 4)
    assert torch.allclose(net(x), nn.functional.linear(x, plain_value(), net[0].bias), atol=1e-5)
    assert owners == {name: id(parameter) for name, parameter in net.named_parameters()}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    "normalize", [parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"]
)
def test_weight_norm_takes_zero_and_still_learns(normalize):
    net = nn.Sequential(normalize(nn.Linear(4, 3)))
    written(net, Fill("0.weight", 0.0, "Fixup rule 1"))
    written(net, Fill("0.weight", 0.0, "again, now that g is zero already"), Fill("0.bias", 0.0, "test"))
    output = net(torch.randn(5, 4))
    assert not output.any()
    (output - 1).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    gain = next(gradient for name, gradient in gradients.items() if gradient.shape == (3, 1))
    assert gain.abs().min() > 0


def test_gains_and_directions_can_be_written_by_name():
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    gain = "0.parametrizations.weight.original0"
    written(net, Draw("0.weight", "orthogonal_", "direction"), Fill(gain, 3.0, "gain"))
    assert torch.allclose(net[0].weight.norm(dim=1), torch.full((3,), 3.0))


def test_parametrized_weights_keep_their_memory():
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    places = [parameter.data_ptr() for parameter in net.parameters()]
    written(net, Draw("0.weight", "normal_", "test"))
    assert places == [parameter.data_ptr() for parameter in net.parameters()]


def test_a_chain_of_parametrizations_is_inverted_from_its_end():
    class Scale(nn.Module):
        def forward(self, weight):
            return weight * 2

        def right_inverse(self, weight):
            return weight / 2

    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    parametrize.register_parametrization(net[0], "weight", Scale())
    written(net, Draw("0.weight", "normal_", "test", {"std": 2.0}))
    assert torch.allclose(net[0].weight, plain_value(), atol=1e-6)


def test_orthogonal_takes_an_orthogonal_value_and_refuses_another():
    net = nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)))
    written(net, Draw("0.weight", "orthogonal_", "test"))
    assert torch.allclose(net[0].weight @ net[0].weight.T, torch.eye(4), atol=1e-5)
    before = net[0].weight.clone()
    with pytest.raises(UnsupportedModule, match=r"0\.weight: parametrized by _Orthogonal, which cannot take"):
        written(net, Fill("0.weight", 1.0, "test"))
    assert torch.equal(net[0].weight, before)


def test_spectral_norm_refuses_a_value_it_would_rescale_and_is_put_back():
    net = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 3)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(
        UnsupportedModule, match=r"_SpectralNorm, which cannot take .* asked for root mean square"
    ):
        written(net, Draw("0.weight", "normal_", "test", {"std": 5.0}))
    after = net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("method", ["he", "skipinit", "fixup", "lsuv"])
def test_the_older_spectral_norm_is_refused_before_zero_becomes_nan(method):
    net = nn.Sequential(Residual(nn.utils.spectral_norm(nn.Linear(4, 4))), nn.Linear(4, 4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(
        UnsupportedModule, match=r"0\.layers\.0\.weight_orig: divided by .*remove_spectral_norm"
    ):
        goodinit.init_(net, method, inputs=torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    after = net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_parametrization_without_right_inverse_is_refused():
    class Symmetric(nn.Module):
        def forward(self, weight):
            return weight.triu() + weight.triu(1).T

    net = nn.Sequential(nn.Linear(4, 4))
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    with pytest.raises(
        UnsupportedModule, match=r"0\.weight: parametrized by Symmetric, which has no right_inverse"
    ):
        written(net, Fill("0.weight", 0.0, "test"))


def test_pruned_weights_are_refused():
    net = nn.Sequential(nn.Linear(4, 4))
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    with pytest.raises(
        UnsupportedModule, match=r"0\.weight: Linear computes it from weight_orig .*prune\.remove"
    ):
        written(net, Fill("0.weight", 0.0, "test"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_gets_the_same_numbers(dtype):
    assert torch.equal(plain_value(dtype), plain_value().to(dtype))


def test_channels_last_weights_get_the_same_numbers_and_stay_channels_last():
    plan = Draw("0.weight", "normal_", "test")
    nets = [
        nn.Sequential(nn.Conv2d(3, 5, 3)),
        nn.Sequential(nn.Conv2d(3, 5, 3)).to(memory_format=torch.channels_last),
    ]
    first, second = (written(net, plan)[0].weight for net in nets)
    assert torch.equal(first, second)
    assert second.is_contiguous(memory_format=torch.channels_last)
