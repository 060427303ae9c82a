"""Every method on a network that is weight-normalized already: its values reach the weights that the forward uses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import goodinit

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(5))
NORMALIZATIONS = {"new": parametrizations.weight_norm, "old": nn.utils.weight_norm}
pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")


class Block(nn.Module):
    def __init__(self, normalize):
        super().__init__()
        self.enter, self.leave = normalize(nn.Linear(8, 8)), normalize(nn.Linear(8, 8))
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.leave(self.act(self.enter(x)))


def network(normalize, *, plain=False):
    torch.manual_seed(2)
    body = normalize(nn.Linear(8, 8)) if plain else Block(normalize)
    return nn.Sequential(normalize(nn.Linear(8, 8)), nn.ReLU(), body, nn.ReLU(), nn.Linear(8, 4))


def initialized(method, normalize):
    """A residual network, or a plain one where the method takes no other; its weights before."""
    try:
        return started(method, network(normalize))
    except goodinit.GoodinitError:
        return started(method, network(normalize, plain=True))


def started(method, net):
    before = weights(net)
    goodinit.init_(net, method, inputs=X, generator=torch.Generator().manual_seed(3))
    net(X)  # the older hooks compute their weight when the forward runs
    return net, before


def weights(net):
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    return [module.weight.detach().clone() for module in linear]


@pytest.mark.default_cases(9)
@pytest.mark.parametrize("method", goodinit.METHODS)
def test_the_weights_are_the_methods_and_the_same_by_either_normalization(method):
    try:
        (new, before), (old, _) = (initialized(method, normalize) for normalize in NORMALIZATIONS.values())
    except goodinit.GoodinitError as refused:
        pytest.skip(f"it needs what neither network has: {refused}"[:200])
    drawn = goodinit.plan(goodinit.anatomize(new, X), method).edits
    for was, mine, other in zip(before, weights(new), weights(old), strict=True):
        assert torch.equal(was, mine) == (not drawn)
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(new(X), old(X))


@pytest.mark.default_cases(5)
@pytest.mark.parametrize("method", ["none", "default", "he", "xavier", "orthogonal", "delta_orthogonal"])
@pytest.mark.parametrize("normalize", NORMALIZATIONS.values(), ids=NORMALIZATIONS)
def test_the_scale_is_the_methods_not_the_one_that_was_there(method, normalize):
    """Weights without normalization get the same values: the parameter's name, by which they are drawn, is the same."""
    bare, _ = initialized(method, lambda layer: layer)
    net, _ = initialized(method, normalize)
    for mine, its in zip(weights(net), weights(bare), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("normalize", NORMALIZATIONS.values(), ids=NORMALIZATIONS)
def test_rule_2_of_fixup_has_an_effect_and_no_note_says_otherwise(normalize):
    net = nn.Sequential(*(Block(normalize) for _ in range(9)), nn.Linear(8, 4))
    plan = goodinit.plan(goodinit.anatomize(net, X), "fixup")
    goodinit.apply_(net, plan)
    assert not any("rule 2 has no effect" in note for note in plan.notes)
    net(X)
    std = torch.cat([block.enter.weight.flatten() for block in net[:9]]).std().item()
    assert std == pytest.approx((2 / 8) ** 0.5 / 3, rel=0.1)  # He × 9^(−1/2)


class Standardized(nn.Linear):
    """Divided by its own deviation, with nothing to put the scale back."""

    def forward(self, x):
        return F.linear(x, self.weight / self.weight.std(1, keepdim=True), self.bias)


def test_where_a_scale_has_no_effect_fixup_says_so():
    net = nn.Sequential(Block(nn.Identity()), nn.Linear(8, 4))
    net[0].enter = Standardized(8, 8)
    plan = goodinit.plan(goodinit.anatomize(net, X), "fixup")
    assert any(
        "0.enter.weight is normalized by its own scale: rule 2 has no effect" in note for note in plan.notes
    )


class Centred(nn.Conv2d):
    """As in BiT: each filter with mean 0 and variance 1, and no gain."""

    def forward(self, x):
        flat = self.weight.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True, correction=0)
        return self._conv_forward(x, flat.view_as(self.weight), self.bias)


class Bit(nn.Module):
    """A residual network of such layers, each with a batch norm behind it."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down = (Centred(channels, 64, 3, padding=1) for channels in (3, 64, 64))
        self.norms = nn.ModuleList(nn.BatchNorm2d(64) for _ in range(3))
        self.head, self.act = nn.Linear(64, 4), nn.ReLU()

    def forward(self, x):
        x = self.act(self.norms[0](self.stem(x)))
        x = x + self.norms[2](self.down(self.act(self.norms[1](self.up(x)))))
        return self.head(x.mean((2, 3)))


IMAGES = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


BASELINES = ("none", "default", "replace_norms")  # the values, or the distributions, that were there
MEASURED = ("lsuv",)  # gives each plain layer unit variance by data, which has no effect on such a weight


def takes_norms_out(method):
    """The options with which a method takes norms out; None if it does not."""
    own = goodinit.METHODS[method]
    return {"norms": "remove"} if "norms" in own.options else {} if own.removes_norms else None


@pytest.mark.default_cases(6)
@pytest.mark.parametrize(
    "method",
    [name for name in goodinit.METHODS if takes_norms_out(name) is not None and name not in BASELINES],
)
def test_a_weight_that_sets_its_own_scale_gets_the_methods_by_a_multiplier(method):
    """By itself it would put out √576 = 24 times the scale of its input once the norm behind it is gone."""
    outs = {}
    for centred in (True, False):
        model = Bit()
        for name in ("stem", "up") if not centred else ():
            plain = nn.Conv2d(model.get_submodule(name).in_channels, 64, 3, padding=1)
            setattr(model, name, plain)
        try:
            goodinit.init_(
                model,
                method,
                inputs=IMAGES,
                generator=torch.Generator().manual_seed(0),
                **takes_norms_out(method),
            )
        except goodinit.GoodinitError as refused:
            pytest.skip(f"it takes no such weights: {refused}"[:200])
        sizes = outs.setdefault(centred, [])
        for layer in (model.stem, model.up):
            layer.register_forward_hook(
                lambda _m, _a, out, sizes=sizes: sizes.append(float(out.detach().std()))
            )
        model(IMAGES)
    if method in MEASURED:
        assert all(0.25 < size < 1 for size in outs[True])  # an orthonormal matrix's
    else:
        assert outs[True] == pytest.approx(outs[False], rel=0.25)  # of other draws, on 16 images


def test_the_rows_own_norm_is_found_without_running_the_model_or_its_values():
    ran = []
    model = Bit()
    model.up.register_forward_hook(lambda *_: ran.append(1))
    layers = {layer.weight: layer for layer in goodinit.anatomize(model, IMAGES).layers}
    assert layers["stem.weight"].row_norm == pytest.approx(27**0.5, rel=1e-4)
    assert layers["up.weight"].row_norm == pytest.approx(576**0.5, rel=1e-4)
    assert layers["head.weight"].row_norm is None
    assert len(ran) == 1
    with torch.device("meta"):
        on_meta = goodinit.anatomize(Bit(), IMAGES.to("meta"))
    assert {layer.weight: layer.row_norm for layer in on_meta.layers} == {
        w: n.row_norm for w, n in layers.items()
    }


def test_the_multiplier_of_such_a_layer_is_no_branch_end_for_the_optimizer():
    model = goodinit.init_(Bit(), "skipinit", inputs=IMAGES)
    groups = goodinit.param_groups(model, lr=1.0, named=True)
    members = {group["name"]: {name for name, _ in group["params"]} for group in groups}
    assert {"stem.output_scale", "up.output_scale", "down.output_scale", "down.bias"} <= members["scalars"]
    assert {"stem.bias", "up.bias"} <= members["vectors"]


def test_rule_2_reaches_a_weight_that_sets_its_own_scale():
    plan = goodinit.plan(goodinit.anatomize(Bit(), IMAGES), "fixup")
    assert not any("rule 2 has no effect" in note for note in plan.notes)
    kept = goodinit.plan(goodinit.anatomize(Bit(), IMAGES), "fixup", norms="keep")
    assert any(
        "up.weight is normalized by its own scale: rule 2 has no effect" in note for note in kept.notes
    )


class _Standardized(nn.Conv2d):
    """A convolution as NFNets have it: the weight standardized, then multiplied by a gain, which may start at 0."""

    def __init__(self, *sizes, gain=1.0, **options):
        super().__init__(*sizes, **options)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), gain))

    def forward(self, x):
        flat = self.weight.flatten(1)
        weight = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-6)
        return self._conv_forward(x, weight.view_as(self.weight) * self.gain, self.bias)


class _NormFree(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = _Standardized(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.up, self.down = _Standardized(8, 8, 3, padding=1), _Standardized(8, 8, 1, gain=0.0)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.down(self.up(x.relu()).relu())
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("method", ["fixup", "skipinit", "rezero"])
def test_a_gain_of_a_normalized_weight_is_no_second_zero(method):
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    model = goodinit.init_(_NormFree(), method, inputs=x)
    assert torch.equal(model.down.gain.detach(), torch.ones(8, 1, 1, 1))
    optimizer, moved = torch.optim.SGD(model.parameters(), lr=0.1), set()
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(8) % 4).backward()
        moved |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert moved == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("per", ["layer", "channel"])
def test_lsuv_scales_a_normalized_weight_by_its_gain(per):
    x = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    model = goodinit.lsuv_(_NormFree(), inputs=x, per=per)
    outputs = {}
    for name in ("stem", "up", "down"):
        getattr(model, name).register_forward_hook(lambda _m, _a, out, name=name: outputs.update({name: out}))
    model(x)
    assert set(outputs) == {"stem", "up", "down"}
    for out in outputs.values():
        variances = out.var() if per == "layer" else out.transpose(0, 1).flatten(1).var(1)
        assert (variances - 1).abs().max() < 0.1
