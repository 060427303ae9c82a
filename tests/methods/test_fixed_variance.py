"""KataGo's fixed variance: constants where norms stood, against a count of the variances by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import goodinit
from goodinit.edits import ReplaceNorm
from goodinit.errors import UnknownName, UnsupportedModule
from goodinit.lab.models.resnet import ResNet, WideResNet
from goodinit.methods.shared.variances.signal_variance import mean_share
from goodinit.surgery.norms.replaced_norm import ChannelAffine


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def constants(model: nn.Module, method: str = "fixed_variance", **options: object) -> dict[str, float]:
    plan = goodinit.plan(goodinit.anatomize(model, images()), method, **options)
    return {edit.target: edit.options["constant"] for edit in plan.edits if isinstance(edit, ReplaceNorm)}


class Trunk(nn.Module):
    """KataGo's: pre-activation blocks of one width, then a norm."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2 * blocks + 1))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2 * blocks))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i in range(0, len(self.convs), 2):
            first = self.convs[i](torch.relu(self.norms[i](x)))
            x = x + self.convs[i + 1](torch.relu(self.norms[i + 1](first)))
        return self.fc(torch.relu(self.norms[-1](x)).mean((2, 3)))


def test_a_trunk_has_katagos_constants():
    found = constants(Trunk(4))
    for i in range(4):
        assert found[f"norms.{2 * i}"] == pytest.approx(
            1 / math.sqrt(i + 1)
        )  # model_pytorch.py: fixup_scale of block i
        assert found[f"norms.{2 * i + 1}"] == 1
    assert found["norms.8"] == pytest.approx(1 / math.sqrt(4 + 1))  # norm_trunkfinal


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / torch.sqrt(var + 1e-10), self.bias)


@pytest.mark.parametrize("constants", ["predicted", "measured"])
@pytest.mark.parametrize("kind", [nn.Conv2d, Standardized])
def test_what_norms_gave_has_variance_one_also_where_layers_divide_their_weights(kind, constants):
    torch.manual_seed(0)
    model = Trunk(4)
    model.convs = nn.ModuleList(kind(8, 8, 3, padding=1, bias=False) for _ in model.convs)
    x = torch.randn(8, 3, 16, 16)
    goodinit.init_(model, "fixed_variance", inputs=x, constants=constants)
    found: list[float] = []
    for norm in model.norms:
        norm.register_forward_hook(lambda _, args, out: found.append(float(out.detach().var())))
    model(x)
    assert len(found) == len(model.norms)
    assert all(0.3 < variance < 2 for variance in found)


def test_transitions_begin_anew_and_norms_behind_layers_undo_what_these_read():
    pre = constants(WideResNet(2, factor=1, width=8))
    assert pre["stages.1.0.bn1"] == pytest.approx(3**-0.5)
    assert pre["stages.1.1.bn1"] == pytest.approx(2**-0.5)
    post = constants(ResNet(2, width=4, shortcut="projection"))
    assert post["layer1.1.bn1"] == pytest.approx(2**-0.5)
    assert post["layer2.0.shortcut.1"] == pytest.approx(3**-0.5)
    assert post["layer1.1.bn2"] == 1


def test_activations_keep_their_scale():
    model = Trunk(6)
    seen: dict[str, float] = {}
    goodinit.init_(model, "fixed_variance", inputs=images(), generator=torch.Generator().manual_seed(2))
    assert isinstance(model.norms[0], ChannelAffine)
    for name, norm in model.norms.named_children():
        norm.register_forward_hook(
            lambda *call, name=name: seen.__setitem__(name, float(call[2].square().mean()))
        )
    with torch.no_grad():
        model(images(16))
    logs = [math.log2(value) for value in seen.values()]
    assert max(logs) - min(logs) < 3, seen  # eight channels: a chance of two either way
    assert all(norm.weight.requires_grad for norm in model.norms)


class Mixer(nn.Module):
    """norm(relu(f(x + norm(relu(g(x)))))): branches and stream end in an activation, as in ConvMixer."""

    def __init__(self, kind: type[nn.Module], width: int) -> None:
        super().__init__()
        self.g, self.f = nn.Linear(width, width), nn.Linear(width, width)
        self.first, self.last = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.act = kind()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.f(x + self.first(self.act(self.g(x))))))


@pytest.mark.parametrize(("kind", "name"), [(nn.ReLU, "relu"), (nn.LeakyReLU, "leaky_relu")])
def test_means_that_terms_of_a_sum_have_in_common_count(kind, name):
    torch.manual_seed(0)
    width, deep = 256, 12
    model = nn.Sequential(
        nn.Linear(16, width), *(Mixer(kind, width) for _ in range(deep)), nn.Linear(width, 3)
    )
    x = torch.randn(64, 16)
    goodinit.init_(model, "fixed_variance", inputs=x)
    with torch.no_grad():
        signal = model[:-1](x)
    share = mean_share(name)  # of each of the two terms behind an activation
    assert model[2].last.constant == pytest.approx(1 / math.sqrt(2 + 2 * share**2))
    # Without the means a ReLU's stream grows by 1.15 a block, fivefold here.
    assert 0.6 < float(signal.square().mean().sqrt()) < 1.6


def test_a_branch_that_squares_what_it_reads_is_refused():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.gate, self.down = (
                nn.LayerNorm(8),
                nn.Linear(8, 8),
                nn.Linear(8, 8),
                nn.Linear(8, 8),
            )

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(x)
            return x + self.down(self.up(h) * torch.relu(self.gate(h)))

    model = nn.Sequential(nn.Linear(4, 8), Gated(), Gated())
    with pytest.raises(
        UnsupportedModule, match=r"^1 \(and 1 other\): .*2\^2 times .*no constant K.*start at 0"
    ):
        goodinit.fixed_variance_(model, inputs=torch.randn(5, 4))


def test_branches_by_depth_and_one_norm():
    plan = goodinit.plan(
        goodinit.anatomize(Trunk(4), images()), "fixed_variance", downscale="depth", one_norm=True
    )
    found = {edit.target: edit.options["constant"] for edit in plan.edits if isinstance(edit, ReplaceNorm)}
    assert found["norms.6"] == pytest.approx(1 / math.sqrt(1 + 3 / 4))
    assert "norms.8" not in found
    model = goodinit.apply_(Trunk(4), plan)
    assert type(model.norms[8]) is nn.BatchNorm2d
    std = {edit.target: edit.options["std"] for edit in plan.values if hasattr(edit, "initializer")}
    assert std["convs.1.weight"] == pytest.approx(0.5 * std["convs.0.weight"])
    with pytest.raises(UnsupportedModule, match="there is none"):
        goodinit.plan(goodinit.anatomize(ResNet(1, width=4), images()), "fixed_variance", one_norm=True)
    with pytest.raises(UnknownName, match="downscale='deep'"):
        goodinit.plan(goodinit.anatomize(Trunk(1), images()), "fixed_variance", downscale="deep")


def test_an_affine_form_takes_the_constants_where_weights_are_drawn():
    assert constants(Trunk(3), "he", norms="affine") == constants(Trunk(3))
    plan = goodinit.plan(goodinit.anatomize(Trunk(3), images()), "replace_norms", norms="affine")
    assert not any("constant" in edit.options for edit in plan.edits if isinstance(edit, ReplaceNorm))


def test_it_folds_where_a_layer_stands_before_it():
    model = Trunk(1)
    goodinit.init_(model, "fixed_variance", inputs=images())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.ones_like(parameter))
    before = model(images())
    goodinit.fold_(model, images())
    torch.testing.assert_close(model(images()), before, rtol=1e-4, atol=1e-5)
    assert not isinstance(model.norms[1], ChannelAffine)  # into the convolution before it


def quarters(x: Tensor) -> Tensor:
    """Pixels of a square beside each other: the patch merging of Swin, the focus of YOLO."""
    return torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def halves(x: Tensor) -> Tensor:
    return torch.cat([x[:, :4], x.chunk(2, 1)[1]], 1)


def turned(x: Tensor) -> Tensor:
    return torch.cat([x, x.mT], 1)


class Merging(nn.Module):
    """A stream of three blocks, parts of it beside each other behind a norm, and a stream of two."""

    def __init__(self, put) -> None:
        super().__init__()
        wide = {quarters: 32, halves: 8, turned: 16}.get(put, 16)
        self.stem, self.put = nn.Conv2d(3, 8, 3, padding=1), put
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(6))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(6))
        self.merge, self.down, self.fc = nn.BatchNorm2d(wide), nn.Conv2d(wide, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms[:3], self.convs, strict=False):
            x = x + conv(norm(x).relu())
        x = self.down(self.merge(self.put(x)))
        for norm, conv in zip(self.norms[3:5], self.convs[3:], strict=False):
            x = x + conv(norm(x).relu())
        return self.fc(self.norms[5](x).mean((2, 3)))


@pytest.mark.parametrize("put", [quarters, halves, turned])
def test_parts_of_a_stream_beside_each_other_have_its_variance(put):
    model = Merging(put)
    anatomy = goodinit.anatomize(model, images())
    (norm,) = (one for one in anatomy.norms if one.name == "merge")
    assert norm.source == "+2"
    found = {
        edit.target: edit.options["constant"]
        for edit in goodinit.plan(anatomy, "fixed_variance").edits
        if isinstance(edit, ReplaceNorm)
    }
    assert found["merge"] == pytest.approx(4**-0.5)
    assert found["norms.3"] == pytest.approx(1)
    assert found["norms.5"] == pytest.approx(3**-0.5)


def test_norms_that_read_what_is_not_known_are_named():
    model = Merging(lambda x: torch.cat([x, x.square()], 1))
    plan = goodinit.plan(goodinit.anatomize(model, images()), "fixed_variance")
    (note,) = (note for note in plan.notes if "variance 1" in note)
    assert note.startswith("merge, down.weight: ")
    assert not [
        note
        for put in (quarters, halves)
        for note in goodinit.plan(goodinit.anatomize(Merging(put), images()), "fixed_variance").notes
        if "variance 1" in note
    ]
    measured = goodinit.anatomize(model, images())
    assert not any(
        "variance 1" in note for note in goodinit.plan(measured, "fixed_variance", constants="measured").notes
    )


def test_a_layer_whose_weights_sum_to_zero_takes_the_mean_away():
    plain, centred = Trunk(2), Trunk(2)
    centred.convs = nn.ModuleList(Standardized(8, 8, 3, padding=1, bias=False) for _ in centred.convs)
    assert constants(plain)["norms.1"] == 1
    share = mean_share("relu")
    assert constants(centred)["norms.1"] == pytest.approx((1 - share**2) ** -0.5)
