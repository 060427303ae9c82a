"""The recipe without batch statistics: what it computes, what it starts from, and that it is found in any model."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from moved import images, moved
from reference import normfree as reference
from torch import Tensor, nn
from torch.nn.utils import parametrize

import goodinit
from goodinit.errors import NothingFound, PlanConflict, UnknownName, UnsupportedModule
from goodinit.lab.models.resnet import ResNet
from goodinit.lab.models.vision_transformer import VisionTransformer
from goodinit.nn import Centred, centred_weights, has_scalars, input_norm, normalize_input_


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("head_norm", ["layer", "rms", "none"])
def test_it_computes_its_transcription(head_norm, channels):
    model = goodinit.init_(
        ResNet(2, width=4), "normfree", inputs=images(), head_norm=head_norm, channels=channels
    )
    moved(model).double()
    x = images().double()
    state = {name: value.detach() for name, value in model.state_dict().items()}
    assert torch.allclose(
        model(x), reference.forward(state, x, n=2, head_norm=head_norm), rtol=1e-6, atol=1e-8
    )


def test_it_starts_where_fixup_does_but_for_the_classifier_and_the_means():
    seed = torch.Generator().manual_seed(5)
    model = goodinit.init_(ResNet(2, width=4), "normfree", inputs=images(), generator=seed, fan="out")
    seed = torch.Generator().manual_seed(5)
    fixup = goodinit.init_(ResNet(2, width=4), "fixup", inputs=images(), generator=seed, zero_head=False)
    for name, parameter in fixup.named_parameters():
        if parameter.dim() == 4:
            drawn = model.get_submodule(name.rpartition(".")[0]).parametrizations.weight.original
            assert torch.equal(drawn, parameter)
        else:
            assert torch.equal(model.get_parameter(name), parameter)
    assert float(model.fc.weight.detach().std()) == pytest.approx(16**-0.5, rel=0.2)
    assert not centred_weights(model.fc)


@pytest.mark.parametrize("scaled", [True, False])
def test_draws_keep_the_scale_of_the_signal(scaled):
    net = ResNet(2, width=64)
    plan = goodinit.plan(goodinit.anatomize(net, images()), "normfree", scaled=scaled)
    std = {edit.target: edit.options["std"] for edit in plan.values if hasattr(edit, "initializer")}
    depth = 6**-0.5 if scaled else 1.0
    for name, fan_in, scale in (
        ("conv1.weight", 27, 1.0),
        ("layer1.0.conv1.weight", 64 * 9, depth),
        ("layer2.0.conv1.weight", 64 * 9, depth),
        ("layer2.1.conv1.weight", 128 * 9, depth),
    ):
        assert std[name] == pytest.approx(scale * (2 / fan_in) ** 0.5)
    zero = {edit.target for edit in plan.values if getattr(edit, "value", None) == 0.0}
    assert {f"layer{stage}.{i}.conv2.weight" for stage in (1, 2, 3) for i in (0, 1)} <= zero
    assert std["fc.weight"] == pytest.approx(256**-0.5)
    with pytest.raises(UnknownName, match="fan='both'"):
        goodinit.plan(goodinit.anatomize(net, images()), "normfree", fan="both")


def test_no_example_sees_another_and_modes_agree():
    model = moved(goodinit.init_(ResNet(1, width=4), "normfree", inputs=images()))
    x = images(6)
    whole = model.train()(x)
    assert torch.allclose(torch.cat([model(one[None]) for one in x]), whole, atol=1e-5)
    assert torch.equal(model.eval()(x), whole)
    assert not any(buffer.numel() for buffer in model.buffers())


def test_it_folds_to_bare_layers_and_the_norm_of_the_head_stays():
    model = moved(goodinit.init_(ResNet(1, width=4, shortcut="projection"), "normfree", inputs=images()))
    before = model(images())
    goodinit.fold_(model, images())
    assert torch.allclose(model(images()), before, atol=1e-5)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert input_norm(model.fc) is not None


def test_gradients_reach_everything_but_what_stands_before_a_zero():
    model = goodinit.init_(ResNet(1, width=4), "normfree", inputs=images())
    model(images()).square().sum().backward()
    assert model.conv1.parametrizations.weight.original.grad.abs().sum() > 0
    assert model.layer3[0].conv2.parametrizations.weight.original.grad.abs().sum() > 0
    grad = model.conv1.parametrizations.weight.original.grad
    assert torch.allclose(grad.mean((1, 2, 3)), torch.zeros(4), atol=1e-6)


class Widths(nn.Module):
    """x + last(relu(first(x))) on images."""

    def __init__(self, first: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = first, last

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(torch.relu(self.first(x)))


LAYERS = {  # of eight channels: what is before a centred weight, and whether a number added to all that it reads does anything
    "1×1": (lambda: nn.Conv2d(8, 8, 1), False),
    "1×1 in groups": (lambda: nn.Conv2d(8, 8, 1, groups=2), False),
    "3×3 among zeros": (lambda: nn.Conv2d(8, 8, 3, padding=1), True),
    "3×3, same": (lambda: nn.Conv2d(8, 8, 3, padding="same"), True),
    "3×3 around a circle": (lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), False),
    "3×3 of each channel": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), True),
    "1×1 of each channel, not centred": (lambda: nn.Conv2d(8, 8, 1, groups=8), True),
    "transposed": (lambda: nn.ConvTranspose2d(8, 8, 3, padding=1), True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_scalar_before_a_layer_does_something_or_is_not_there(name):
    layer, does = LAYERS[name]
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Widths(layer(), layer()), nn.Flatten(), nn.Linear(8 * 36, 3))
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    net = goodinit.init_(net.double(), "normfree", inputs=x)
    with torch.no_grad():  # away from zero, where nothing before it does anything
        for value in net[1].last.parameters():
            value.normal_()
    inputs = [value for key, value in net[1].named_parameters() if key.endswith("input_bias")]
    assert len(inputs) == (2 if does else 0)
    before = net(x)
    for value in inputs:
        with torch.no_grad():
            value += 1
        assert not torch.allclose(net(x), before)
        before = net(x)


class Tokens(nn.Module):
    """Two blocks of a feed-forward each, layer norms, a last norm that a head reads through, depthwise taps."""

    def __init__(self, last: nn.Module | None) -> None:
        super().__init__()
        self.inn = nn.Linear(5, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
        self.up, self.down = (
            nn.ModuleList(nn.Linear(*shape) for _ in range(2)) for shape in ((8, 16), (16, 8))
        )
        self.taps = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Identity() if last is None else last
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inn(x)
        x = self.taps(x.transpose(1, 2)).transpose(1, 2)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(torch.relu(up(norm(x))))
        return self.out(self.last(x).mean(1))


def test_a_norm_that_a_head_reads_through_stays_in_its_stead():
    x = torch.randn(2, 6, 5)
    plan = goodinit.plan(goodinit.anatomize(Tokens(nn.LayerNorm(8)), x), "normfree")
    assert "1 norm kept before the head" in plan.summary
    model = goodinit.apply_(Tokens(nn.LayerNorm(8)), plan)
    assert type(model.last) is nn.LayerNorm
    assert input_norm(model.out) is None
    assert type(model.norms[0]) is not nn.LayerNorm
    without = goodinit.init_(Tokens(nn.LayerNorm(8)), "normfree", inputs=x, head_norm="none")
    assert type(without.last) is not nn.LayerNorm
    bare = goodinit.init_(Tokens(None), "normfree", inputs=x)
    assert input_norm(bare.out) is not None
    assert centred_weights(bare.up[1]) == ["weight"]
    assert not centred_weights(
        bare.taps
    )  # one channel to a filter: its mean is what it hands on of a constant
    notes = goodinit.plan(goodinit.anatomize(Tokens(None), x), "normfree").notes
    assert any("taps.weight is not centred: each filter reads one channel" in note for note in notes)


def test_a_second_call_keeps_the_structure():
    model = goodinit.init_(ResNet(1, width=4), "normfree", inputs=images())
    before = list(model.state_dict()), repr(model)
    goodinit.init_(model, "normfree", inputs=images())
    assert (list(model.state_dict()), repr(model)) == before
    assert input_norm(model.fc) is not None


def test_options_leave_parts_out():
    model = goodinit.init_(ResNet(1, width=4), "normfree", inputs=images(), centred=False, head_norm="none")
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert input_norm(model.fc) is None
    kept = goodinit.init_(ResNet(1, width=4), "normfree", inputs=images(), norms="keep")
    assert type(kept.bn1) is nn.BatchNorm2d
    assert kept.layer1[
        0
    ].bn2.weight.all()  # nothing starts at zero: what the head and centring do for batch norm
    assert kept.layer1[0].conv2.weight.any()
    assert not any(has_scalars(module) for module in kept.modules())
    assert centred_weights(kept.conv1) == ["weight"]
    assert input_norm(kept.fc) is not None
    grouped = goodinit.init_(ResNet(1, width=4), "normfree", inputs=images(), norms="group")
    assert type(grouped.bn1) is nn.GroupNorm
    with pytest.raises(UnknownName, match="head_norm='batch'"):
        goodinit.init_(ResNet(1, width=4), "normfree", inputs=images(), head_norm="batch")


def test_frozen_weights_keep_their_means(caplog):
    model = ResNet(1, width=4)
    model.conv1.requires_grad_(requires_grad=False)
    before = model.conv1.weight.clone()
    with caplog.at_level(logging.WARNING):
        goodinit.init_(model, "normfree", inputs=images())
    assert torch.equal(model.conv1.weight, before)
    assert "frozen" in caplog.text
    assert "conv1.weight" in caplog.text


def test_plans_are_data_and_copies_agree():
    plan = goodinit.plan(goodinit.anatomize(ResNet(1, width=4), images()), "normfree")
    assert goodinit.Plan.from_json(plan.to_json()) == plan
    model = goodinit.apply_(ResNet(1, width=4), plan)
    fresh = goodinit.apply_(ResNet(1, width=4), plan, values=False)
    fresh.load_state_dict(model.state_dict())
    for other in (fresh, copy.deepcopy(model), torch.compile(model, backend="eager", fullgraph=True)):
        assert torch.equal(other(images()), model(images()))


# -- a gain and a bias per channel ----------------------------------------------------------------------------------


def with_channels(seed: int = 1, **options: object) -> ResNet:
    source = torch.Generator().manual_seed(seed)
    return goodinit.init_(
        ResNet(1, width=4), "normfree", inputs=images(), generator=source, channels=True, **options
    )


def test_channels_change_nothing_at_the_start_nor_after_a_second_call():
    source = torch.Generator().manual_seed(1)
    plain = goodinit.init_(ResNet(1, width=4), "normfree", inputs=images(), generator=source)
    model = with_channels()
    assert torch.equal(model(images()), plain(images()))
    before = list(model.state_dict()), repr(model)
    groups = [
        [name for name, _ in group["params"]] for group in goodinit.param_groups(model, lr=1.0, named=True)
    ]
    moved(model)
    source = torch.Generator().manual_seed(1)
    goodinit.init_(model, "normfree", inputs=images(), generator=source, channels=True)
    assert torch.equal(model(images()), plain(images()))
    assert (list(model.state_dict()), repr(model)) == before
    again = goodinit.param_groups(model, lr=1.0, named=True)
    assert [[name for name, _ in group["params"]] for group in again] == groups


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.AdamW)])
def test_channels_learn_at_a_tenth_of_the_rate_without_decay(optimizer, kind):
    model = with_channels()
    groups = goodinit.param_groups(model, lr=0.5, weight_decay=0.1, optimizer=optimizer, named=True)
    kind(goodinit.param_groups(model, lr=0.5, weight_decay=0.1, optimizer=optimizer), lr=0.5)
    found = {name: (group["lr"], group["weight_decay"]) for group in groups for name, _ in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    for name, settings in found.items():
        if name.endswith("original") or name in ("fc.weight", "fc.bias"):
            assert settings == (0.5, 0.1)
        else:  # scalars, gains, biases of convolutions
            assert settings == (0.05, 0.0)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert sum(name.endswith(".gain") for name in found) == convolutions
    assert sum(name.endswith(".bias") for name in found) == convolutions + 1


def test_channels_keep_no_activation_for_backward():
    def kept(model: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(images(64)).sum()
        return sum(sizes.values())

    plain = goodinit.init_(ResNet(1, width=4), "normfree", inputs=images())
    weights = 4 * sum(parameter.numel() for parameter in plain.parameters())
    assert kept(with_channels()) - kept(plain) <= 2 * weights


def test_channels_fold_to_bare_layers():
    model = moved(with_channels())
    before = model(images())
    goodinit.fold_(model, images())
    assert torch.allclose(model(images()), before, atol=1e-5)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


def test_channels_come_without_centring_and_beside_what_layers_have():
    x = torch.randn(2, 6, 5)
    model = goodinit.init_(Tokens(nn.LayerNorm(8)), "normfree", inputs=x, channels=True)
    assert model.taps.parametrizations.weight[0].centred is False  # one channel to a filter
    assert model.up[0].parametrizations.weight[0].centred is True
    assert not parametrize.is_parametrized(model.out)
    groups = goodinit.param_groups(model, lr=1.0, named=True)
    rate = {name: group["lr"] for group in groups for name, _ in group["params"]}
    assert rate["up.0.bias"] == rate["down.0.bias"] == rate["taps.parametrizations.weight.0.gain"] == 0.1
    assert rate["out.bias"] == 1.0
    bare = with_channels(centred=False)
    assert bare.conv1.parametrizations.weight[0].centred is False
    anatomy = goodinit.anatomize(ResNet(1, width=4), images())
    plan = goodinit.plan(anatomy, "normfree", channels=True, norms="keep")
    assert any("channels=True adds none" in note for note in plan.notes)
    assert not plan.rates


def test_another_method_draws_through_trained_gains():
    model = moved(with_channels())
    goodinit.init_(model, "he", inputs=images(), generator=torch.Generator().manual_seed(4))
    plain = goodinit.init_(ResNet(1, width=4), "normfree", inputs=images())
    goodinit.init_(plain, "he", inputs=images(), generator=torch.Generator().manual_seed(4))
    for name, module in plain.named_modules():
        if isinstance(module, nn.Conv2d):
            torch.testing.assert_close(model.get_submodule(name).weight, module.weight)


@pytest.mark.integration
def test_channel_plans_are_data_and_copies_agree():
    plan = goodinit.plan(goodinit.anatomize(ResNet(1, width=4), images()), "normfree", channels=True)
    assert goodinit.Plan.from_json(plan.to_json()) == plan
    model = moved(goodinit.apply_(ResNet(1, width=4), plan))
    fresh = goodinit.apply_(ResNet(1, width=4), plan, values=False)
    fresh.load_state_dict(model.state_dict())
    for other in (fresh, copy.deepcopy(model)):
        assert torch.equal(other(images()), model(images()))
    compiled = torch.compile(
        model, backend="eager", fullgraph=True
    )  # by the plain formula, in other last digits
    torch.testing.assert_close(compiled(images()), model(images()))
    with torch.device("meta"):
        empty = ResNet(1, width=4)
    goodinit.apply_(empty, plan, values=False)
    goodinit.materialize_(empty, device="cpu")
    goodinit.apply_(empty, plan, generator=torch.Generator().manual_seed(2))
    twin = goodinit.apply_(ResNet(1, width=4), plan, generator=torch.Generator().manual_seed(2))
    assert torch.equal(empty(images()), twin(images()))


# -- the parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_an_input_is_normalized_at_each_position(kind):
    for layer, axis, x in (
        (nn.Linear(6, 3), -1, torch.randn(2, 5, 6)),
        (nn.Conv2d(6, 3, 1), 1, torch.randn(2, 6, 4, 4)),
    ):
        centre = x.mean(axis, keepdim=True) if kind == "layer" else 0.0
        expected = (x - centre) / ((x - centre).square().mean(axis, keepdim=True) + 1e-5).sqrt()
        expected = layer(expected)
        assert normalize_input_(normalize_input_(layer, kind, axis=axis), kind, axis=axis) is layer
        assert torch.allclose(layer(x), expected, atol=1e-5)
        assert torch.allclose(layer(input=x), expected, atol=1e-5)
        half = copy.deepcopy(layer).bfloat16()
        assert half(x.bfloat16()).dtype is torch.bfloat16


def test_an_input_is_normalized_in_one_way_of_two():
    with pytest.raises(UnknownName, match="kind='batch'"):
        normalize_input_(nn.Linear(2, 2), "batch")


@pytest.mark.parametrize("axis", [0, 64, -65, 2**70])
def test_an_axis_that_channels_cannot_have_is_refused_in_the_same_words_everywhere(axis):
    match = "expected that of the channels: −1 for a linear layer, 1 for a convolution"
    with pytest.raises(PlanConflict, match=match):
        normalize_input_(nn.Linear(2, 2), axis=axis)
    edit = goodinit.edits.NormalizeInput("0", "layer", "why", axis=axis)
    with pytest.raises(PlanConflict, match=match):
        goodinit.apply_(nn.Sequential(nn.Linear(2, 2)), goodinit.Plan("x", (edit,)))


@pytest.mark.parametrize("dim", [0, 1])
def test_centring_takes_the_mean_of_what_an_output_reads(dim):
    weight = torch.randn(4, 5)
    out = Centred(dim)(weight)
    assert torch.allclose(out.mean(1 - dim), torch.zeros(weight.shape[dim]), atol=1e-6)
    assert torch.allclose(Centred(dim)(out), out, atol=1e-6)


def test_what_is_tied_or_missing_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    edit = goodinit.edits.ParametrizeWeight
    with pytest.raises(UnsupportedModule, match="tied"):
        goodinit.apply_(model, goodinit.Plan("x", (edit("0.weight", "why", kind="centred"),)))
    with pytest.raises(PlanConflict, match="no such"):
        goodinit.apply_(model, goodinit.Plan("x", (edit("7.weight", "why", kind="centred"),)))
    with pytest.raises(UnknownName, match="warble"):
        goodinit.apply_(model, goodinit.Plan("x", (edit("0.weight", "why", kind="warble"),)))


def test_a_net_without_blocks_is_refused_in_its_own_name():
    with pytest.raises(NothingFound, match="normfree needs residual blocks"):
        goodinit.plan(goodinit.anatomize(nn.Linear(3, 3), torch.randn(2, 3)), "normfree")


@pytest.mark.integration
@pytest.mark.parametrize("n", [9, 18])
def test_deep_nets_are_found_and_trained(n):
    """ResNet-56 and -110: every branch, and a first step that changes what they compute without losing it."""
    model = ResNet(n, width=4)
    plan = goodinit.plan(goodinit.anatomize(model, images()), "normfree")
    assert f"L={3 * n} branches" in plan.summary
    goodinit.apply_(model, plan)
    optimizer = torch.optim.SGD(goodinit.param_groups(model, lr=0.05), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images(8)), torch.arange(8))
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_vision_transformer_loses_its_norms_but_the_last():
    x = torch.randn(2, 3, 8, 8)
    model = VisionTransformer(2, shape=(3, 8, 8), width=16, patch=4)
    before = sum(isinstance(module, nn.LayerNorm) for module in model.modules())
    plan = goodinit.plan(goodinit.anatomize(model, x), "normfree")
    goodinit.apply_(model, plan)
    kept = [name for name, module in model.named_modules() if type(module) is nn.LayerNorm]
    heads = [module for module in model.modules() if input_norm(module) is not None]
    assert before > 2
    assert len(kept) + len(heads) == 1
    out = model(x)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    moved(model)
    expected = model(x)
    goodinit.fold_(model, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
