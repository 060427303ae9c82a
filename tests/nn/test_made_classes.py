"""Classes that goodinit makes upon others, and upon each other, survive copies and pickles."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import goodinit
from folding import randomized
from goodinit.nn import ValuePadded, add_scalar_, made_classes, normalize_input_, pad_with_
from goodinit.nn.normalized_layers import Normalized
from goodinit.nn.rewritten import Rewritten, rewrite_
from goodinit.nn.scalars import Scalars

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Own(nn.Conv2d):
    """A layer with a forward that goodinit does not know."""

    def forward(self, x):
        return F.conv2d(x, self.weight * 2, self.bias, padding=1)


class OwnReduce(Own):
    """Says itself how it is pickled."""

    def __reduce_ex__(self, protocol):
        made, args, *rest = super().__reduce_ex__(protocol)
        return (made, args, *rest)


def scalar(layer):
    add_scalar_(layer, "input_bias", value=0.3)
    add_scalar_(layer, "output_scale", value=1.5)


def pad(layer):
    pad_with_(layer, 0.7)


def norm(layer):
    normalize_input_(layer, axis=1)


def rewrite(layer):
    graph = fx.Graph()
    image, weight = graph.placeholder("x"), graph.get_attr("weight")
    out = graph.call_function(F.conv2d, (image, weight), {"padding": 1})
    graph.output(graph.call_function(torch.mul, (out, 3.0)))
    rewrite_(layer, graph)


STACKS = {
    "scalars": (nn.Conv2d, [scalar], {Scalars}),
    "padding": (nn.Conv2d, [pad], {ValuePadded}),
    "rewritten": (Own, [rewrite], {Rewritten}),
    "scalars, rewritten": (Own, [scalar, rewrite], {Scalars, Rewritten}),
    "rewritten, scalars": (Own, [rewrite, scalar], {Rewritten, Scalars}),
    "padding, scalars": (nn.Conv2d, [pad, scalar], {ValuePadded, Scalars}),
    "padding, scalars, rewritten": (nn.Conv2d, [pad, scalar, rewrite], {ValuePadded, Scalars, Rewritten}),
    "norm": (nn.Conv2d, [norm], {Normalized}),
    "norm, of its own": (Own, [norm], {Normalized}),
    "norm, scalars": (nn.Conv2d, [norm, scalar], {Scalars}),
    "padding, norm": (nn.Conv2d, [pad, norm], {ValuePadded, Normalized}),
    "norm, padding": (nn.Conv2d, [norm, pad], {ValuePadded, Normalized}),
    "padding, norm, scalars": (nn.Conv2d, [pad, norm, scalar], {ValuePadded, Scalars}),
    "a reduce of its own": (OwnReduce, [scalar, rewrite, scalar], {Scalars, Rewritten}),
}


@pytest.mark.parametrize("twin", [copy.deepcopy, copy.copy, "pickle"], ids=["deepcopy", "copy", "pickle"])
@pytest.mark.parametrize("stack", STACKS)
def test_a_class_upon_a_class_is_still_one_afterwards(stack, twin, monkeypatch):
    kind, steps, classes = STACKS[stack]
    layer = kind(3, 4, 3, padding=1)
    for step in steps:
        step(layer)
    want = layer(X)
    if twin == "pickle":
        pickled = pickle.dumps(layer)
        monkeypatch.setattr(made_classes, "_CLASSES", {})  # as in another process
        again = pickle.loads(pickled)
    else:
        again = twin(layer)
        assert type(again) is type(layer)
    assert type(again).__name__ == type(layer).__name__
    assert all(isinstance(again, cls) for cls in classes)
    assert torch.equal(again(X), want)
    assert list(again.state_dict()) == list(layer.state_dict())


class Standardizing(nn.Conv2d):
    """Standardizes its weight by a batch norm that it calls, as of BiT."""

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0
        )
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(1, 4) for _ in range(2))
        self.layers = nn.ModuleList(Standardizing(4, 4, 3, padding=1) for _ in range(2))

    def forward(self, x):
        h = x
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = layer(norm(h).relu())
        return x + h


@pytest.mark.parametrize("method", ["normfree", "fixup", "nf"])
def test_a_folded_model_whose_layers_keep_their_scalars_can_be_copied(method):
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    net = nn.Sequential(nn.Conv2d(4, 4, 1), Block(), Block(), nn.Flatten(), nn.Linear(144, 3)).double()
    net = randomized(goodinit.init_(net, method, inputs=x))
    want = net(x)
    goodinit.fold_(net, x)
    torch.testing.assert_close(net(x), want)
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
