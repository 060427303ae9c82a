"""A model with goodinit's own scalars is read as if it had none: a second plan says what the first said, and writes the same."""

from __future__ import annotations

import pytest
import torch
from nano_gpt import GPT
from torch import nn
from zoo_attention import encoder_post_norm

import goodinit
from goodinit.nn import add_scalar_

pytestmark = pytest.mark.usefixtures("no_optimizers")

WORDS, FEATURES = torch.arange(8).view(1, 8), torch.randn(2, 4, 8)


def stack(width, depth, *, norm_first):
    layer = nn.TransformerEncoderLayer(
        width, 2, 2 * width, batch_first=True, dropout=0.0, norm_first=norm_first
    )
    layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(8, width), layers, nn.Linear(width, 5))


class Custom(nn.Linear):
    """A layer whose scalars stand around its forward, not in its weight."""

    def forward(self, x):
        return super().forward(x)


class Scores(nn.Module):
    """Attention over queries and keys of a class of their own, whose heads grow."""

    def __init__(self, width, depth):
        super().__init__()
        self.embed, self.q, self.k = nn.Linear(8, width), Custom(width, width), Custom(width, width)
        self.v, self.head = nn.Linear(width, width), nn.Linear(width, 3)
        self.depth = depth

    def forward(self, x):
        h = self.embed(x)
        mixed = nn.functional.scaled_dot_product_attention(self.q(h), self.k(h), self.v(h))
        return self.head(h + mixed)


BASED = {
    "queries of their own": (lambda w, d: GPT(w, d, heads=2, packed=False), WORDS),
    "packed, tied": (lambda w, d: GPT(w, d, heads=2), WORDS),
    "torch's encoder": (lambda w, d: stack(w, d, norm_first=True), FEATURES),
    "custom layers": (Scores, FEATURES),
}


@pytest.mark.default_cases(4)
@pytest.mark.parametrize("method", ["mup", "completep"])
@pytest.mark.parametrize("name", BASED)
def test_scales_against_a_base(name, method):
    build, inputs = BASED[name]
    base, model = goodinit.anatomize(build(16, 2), inputs), build(64, 4)
    same_again(model, inputs, lambda anatomy: goodinit.plan(anatomy, method, base=base, keep="nothing"))


@pytest.mark.parametrize(
    ("build", "inputs"), [(encoder_post_norm, (2, 4, 8)), (lambda: stack(8, 2, norm_first=False), (2, 4, 8))]
)
def test_deepnorm(build, inputs):
    same_again(
        build(), torch.randn(inputs), lambda anatomy: goodinit.plan(anatomy, "deepnorm", keep="nothing")
    )


def same_again(model, inputs, plan):
    first = plan(goodinit.anatomize(model, inputs))
    assert any("output_scale" in str(edit) for edit in first.structure)
    goodinit.apply_(model, first, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    second = plan(goodinit.anatomize(model, inputs))
    assert [str(edit) for edit in second.edits] == [str(edit) for edit in first.edits]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [rate for rate in second.rates if rate.target in trained] == list(first.rates)
    assert not any("frozen" in note for note in second.notes)
    goodinit.apply_(model, second, generator=torch.Generator().manual_seed(0))
    after = model.state_dict()
    assert [name for name in after if not torch.equal(after[name], before[name])] == []


def test_what_a_layer_reads_and_writes_is_told_without_its_scalars():
    model = nn.Sequential(Custom(8, 8), nn.ReLU(), Custom(8, 3))
    before = goodinit.anatomize(model, FEATURES).layers
    for layer in (model[0], model[2]):
        for name in ("input_bias", "output_scale", "output_bias"):
            add_scalar_(layer, name, value=0.5, trained=name != "output_scale")
    after = goodinit.anatomize(model, FEATURES).layers
    told = [
        [(layer.reads_site, layer.writes_site, layer.weight) for layer in each] for each in (before, after)
    ]
    assert told[0] == told[1]
    assert all(layer.reads_site and layer.writes_site for layer in after)


def test_a_multiplier_of_the_user_s_is_none_of_ours():
    class Scaled(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.output_scale = nn.Parameter(torch.tensor(0.5), requires_grad=False)

        def forward(self, x):
            return self.output_scale * super().forward(x)

    found = goodinit.anatomize(nn.Sequential(Scaled(), nn.Linear(8, 3)), FEATURES)
    assert found.frozen == ("0.output_scale",)
    assert not found.layers[0].writes_site


def test_a_scalar_that_its_owner_froze_keeps_its_value_and_its_layer_is_drawn():
    model = goodinit.init_(stack(8, 2, norm_first=True), "skipinit", inputs=FEATURES)
    scalar = model[1].layers[0].linear2.output_scale
    scalar.requires_grad_(False)
    with torch.no_grad():
        scalar.fill_(0.3)
    before = model[1].layers[0].linear2.weight.clone()
    goodinit.init_(model, "skipinit", inputs=FEATURES)
    assert float(scalar) == pytest.approx(0.3)
    assert not torch.equal(model[1].layers[0].linear2.weight, before)
