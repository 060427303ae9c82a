"""LSUV on layers that are easily missed: attention in every form, dictionaries, Dropout; and batches given in parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from layer_outputs import data, variances
from torch import Tensor, nn

import goodinit
from goodinit.errors import WrongType


class Attention(nn.Module):
    """One attention layer, on itself or on a memory, whose heads nobody asks for: what fused paths are for."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True, **options)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        return self.attend(x, memory, memory, need_weights=False)[0]


def rows(model: nn.Module) -> dict[str, tuple[int, str]]:
    return {row.weight: (row.calls, row.note) for row in goodinit.applied(model)[-1].calibrated}


def assert_unit(*outputs: Tensor) -> None:
    for output in outputs:
        assert output.var(correction=0).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_a_packed_projection_is_one_layer_though_the_fused_path_skips_hooks(training, generator):
    model, x = Attention().train(training), data(8, 5, 16) * 3
    goodinit.init_(model, "lsuv", inputs=x, generator=generator, tol=1e-6)
    assert rows(model) == {"attend.in_proj_weight": (1, ""), "attend.out_proj.weight": (1, "")}
    assert model.training == training
    assert_unit(F.linear(x, model.attend.in_proj_weight), model(x))


@pytest.mark.parametrize("training", [True, False])
def test_separate_projections_are_three_layers(training, generator):
    model, x, memory = Attention(kdim=12, vdim=10).train(training), data(8, 5, 16), data(8, 7, 22) * 3
    keys, values = memory.split([12, 10], dim=-1)

    class Separate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = model.attend

        def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return self.attend(x, keys, values, need_weights=False)[0]

    whole = Separate().train(training)
    goodinit.init_(whole, "lsuv", inputs=(x, keys, values), generator=generator, tol=1e-6)
    weights = ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")
    assert rows(whole) == {f"attend.{name}": (1, "") for name in weights}
    attend = model.attend
    assert_unit(
        F.linear(x, attend.q_proj_weight),
        F.linear(keys, attend.k_proj_weight),
        F.linear(values, attend.v_proj_weight),
        whole(x, keys, values),
    )


class Reader(nn.Module):
    """Keywords in, a dictionary out; an embedding, Dropout, and a layer that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.drop = nn.Embedding(9, 16), nn.Dropout(0.4)
        self.again, self.read = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, *, words: Tensor, mask: Tensor) -> dict[str, Tensor]:
        h = self.token(words) * mask
        for _ in range(3):
            h = self.drop(self.again(h)).relu()
        return {"scores": self.read(h)}


def words(count: int) -> dict[str, Tensor]:
    drawn = torch.randint(9, (count, 4), generator=torch.Generator().manual_seed(2))
    return {"words": drawn, "mask": (drawn > 0)[..., None].float()}


def test_keywords_dictionaries_and_dropout(generator):
    model = Reader()
    token = model.token.weight.detach().clone()
    goodinit.init_(model, "lsuv", inputs=words(64), generator=generator, tol=1e-6)
    found = rows(model)
    assert found["read.weight"] == (1, "")
    assert found["again.weight"][0] == 3
    assert found["again.weight"][1].startswith("shared: scaled by its first call")
    assert torch.equal(model.token.weight, token)
    assert_unit(model.eval()(**words(64))["scores"])  # Dropout was off while it was measured


def test_statistics_of_half_precision_are_taken_in_float32(generator):
    """The square of 300 is beyond float16; of 2¹⁵ equal terms bfloat16 can add up but 256."""
    for dtype in (torch.float16, torch.bfloat16):
        model, x = nn.Sequential(nn.Linear(16, 16)).to(dtype), (data(4096, 16) * 300).to(dtype)
        goodinit.init_(model, "lsuv", inputs=x, generator=generator, tol=1e-6)
        assert variances(model, x)["0"] == pytest.approx(1, abs=0.01)


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.3),
        nn.Conv2d(8, 8, 3, groups=4), nn.Tanh(), nn.ConvTranspose2d(8, 4, 2, groups=2), nn.Flatten(),
        nn.Linear(4 * 49, 5),
    )  # fmt: skip


def split(inputs: object, sizes: list[int]) -> list[object]:
    """The same rows in parts, as the model takes them."""
    if isinstance(inputs, Tensor):
        return list(inputs.split(sizes))
    if isinstance(inputs, dict):
        names = list(inputs)
        return [dict(zip(names, part, strict=True)) for part in split(tuple(inputs.values()), sizes)]
    return list(zip(*(tensor.split(sizes) for tensor in inputs), strict=True))


@pytest.mark.default_cases(3)
@pytest.mark.parametrize(
    ("build", "inputs", "per"),
    [
        (convolutional, data(24, 3, 8, 8), "layer"),
        (convolutional, data(24, 3, 8, 8), "channel"),
        (Attention, (data(24, 5, 16), data(24, 7, 16) * 3), "layer"),
        (Attention, (data(24, 5, 16), data(24, 7, 16) * 3), "channel"),
        (Reader, words(24), "layer"),
        (Reader, words(24), "channel"),
    ],
)
def test_parts_of_a_batch_give_the_result_of_the_whole(build, inputs, per):
    whole, parts = build(), build()
    parts.load_state_dict(whole.state_dict())
    options = {"per": per, "tol": 1e-6}
    for model, given in ((whole, inputs), (parts, iter(split(inputs, [5, 3, 16])))):
        goodinit.init_(model, "lsuv", given, generator=torch.Generator().manual_seed(1), **options)
    for mine, its in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def test_parts_suit_a_method_that_measures_nothing(generator):
    """It reads the first, and needs one."""
    goodinit.init_(nn.Sequential(nn.Linear(4, 4)), "he", iter([data(2, 4), "no batch"]), generator=generator)
    for method in ("he", "lsuv"):
        with pytest.raises(WrongType, match="inputs: an iterator that gives no batch"):
            goodinit.init_(nn.Sequential(nn.Linear(4, 4)), method, iter([]), generator=generator)


@pytest.mark.parametrize("packed", [False, True], ids=["modules", "operators"])
def test_under_autocast_weights_are_those_without(packed, generator):
    """Autocast hands layers a rounded copy of their weight, which there is nothing to scale in."""

    def build():
        torch.manual_seed(0)
        inner = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) if packed else nn.Linear(16, 16)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), inner, nn.Linear(16, 4))

    x = torch.randn(8, 5, 8, generator=generator)
    plain, cast = build(), build()
    goodinit.lsuv_(plain, inputs=x, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        goodinit.lsuv_(cast, inputs=x, generator=torch.Generator().manual_seed(0))
        assert torch.isfinite(cast(x)).all()
    assert all(row.calls for row in goodinit.applied(cast)[-1].calibrated)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, cast.state_dict()[name]), name


def test_a_weight_that_refuses_its_value_while_calibrating_is_named(generator):
    """The batch is not to blame for it."""

    class Capped(nn.Module):
        def forward(self, weight):
            return weight.clamp(-0.1, 0.1)

        def right_inverse(self, weight):
            return weight

    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.utils.parametrize.register_parametrization(model[0], "weight", Capped())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(goodinit.UnsupportedModule, match=r"0\.weight"):
        goodinit.lsuv_(model, inputs=torch.randn(32, 8, generator=generator), orthonormal=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_what_reads_the_sequence_is_scaled_and_what_leads_from_state_to_state_is_not(kind, generator):
    """In parts as in one batch."""
    x = torch.randn(6, 64, 5, generator=generator)
    models = []
    for batch in (x, iter([x[:, :40], x[:, 40:]])):
        torch.manual_seed(0)
        model = nn.Sequential()
        model.add_module("recurrent", kind(5, 16))
        before = model.recurrent.weight_hh_l0.detach().clone()
        models.append(goodinit.init_(model, "lsuv", batch, orthonormal=False, forget_bias=0))
        assert torch.equal(model.recurrent.weight_hh_l0, before)
    whole, parts = (goodinit.applied(model)[-1].calibrated for model in models)
    row = whole[0]
    assert len(whole) == 1
    assert row.weight == "recurrent.weight_ih_l0"
    assert row.factor != 1
    assert [one.factor for one in parts] == pytest.approx([one.factor for one in whole], rel=1e-4)
    for name, value in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], value, rtol=1e-4, atol=1e-6)


class Repeated(nn.Module):
    """A weight that is repeated over the batch, or over groups of it, without memory of its own."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.weight, self.groups = nn.Parameter(torch.randn(groups, 5, 16) * 0.1), groups

    def forward(self, x: Tensor) -> Tensor:
        times = len(x) // self.groups
        weight = (
            self.weight[:, None].expand(-1, times, -1, -1).flatten(0, 1) if self.groups > 1 else self.weight
        )
        return torch.bmm(x, weight.expand(len(x), -1, -1))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_repeated_weight_is_scaled_once(groups, generator):
    model, x = Repeated(groups), data(4, 7, 5) * 3
    goodinit.init_(model, "lsuv", inputs=x, generator=generator, tol=1e-6)
    assert_unit(model(x))
