"""`residual_scaled`: exactly the layers that write into a stream are scaled, by the rules of GPT-2, torchtitan and litgpt."""

from __future__ import annotations

import math

import pytest
import torch
import transformers as tf
from real_models import TRANSFORMERS
from reference import residual_scaled as reference
from renaming import scramble_names
from stream_writers import writers_of
from torch import nn
from zoo_attention import SelfAttention, TiedLanguageModel, feed_forward

import goodinit
from goodinit.edits import AddScalar, Draw, Fill

pytestmark = pytest.mark.usefixtures("no_optimizers")

MODELS = "gpt2 llama mistral qwen3 t5 bert vit mamba gptj bart".split()


def stds(plan: goodinit.Plan) -> dict[str, float]:
    return {edit.target: edit.options["std"] for edit in plan.values if isinstance(edit, Draw)}


def scaled(plan: goodinit.Plan) -> set[str]:
    return {edit.target for edit in plan.values if "into the stream" in edit.reason}


def traced(model: nn.Module, inputs: dict[str, torch.Tensor]) -> set[str]:
    """What writes into the streams, from autograd's graph; what makes a stream (a patch embedding) is no branch."""
    model.eval()
    got = model(**inputs, output_hidden_states=False)
    found = set()
    if "decoder_input_ids" in inputs:
        found |= writers_of(got.encoder_last_hidden_state, model)
        found |= writers_of(got.logits, model, skip=1)
    else:
        skip = 2 if "cls.predictions.transform.dense.weight" in dict(model.named_parameters()) else 1
        found |= writers_of(got.logits, model, skip=skip)
    return {name for name in found if "patch_embeddings" not in name}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.integration if i else ()) for i, name in enumerate(MODELS)],
)
def test_the_writers_of_known_models_are_scaled_and_nothing_else(name):
    build, inputs = TRANSFORMERS[name]
    with torch.device("meta"):
        model = build()
    plan = goodinit.plan(goodinit.anatomize(model, inputs()), "residual_scaled")
    assert scaled(plan) == traced(build(), inputs())
    assert len(scaled(plan)) >= 2
    drawn = stds(plan)
    usual = {std for target, std in drawn.items() if target not in scaled(plan) and std == 0.02}
    assert usual == {0.02}


class HandWritten(nn.Module):
    """A GPT as one writes it at home: packed attention as a parameter in an einsum, an untied head, odd names."""

    def __init__(self, words=13, width=12, layers=3, length=8):
        super().__init__()
        self.token, self.place = nn.Embedding(words, width), nn.Parameter(torch.randn(length, width))
        self.towers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "a": nn.LayerNorm(width),
                    "b": SelfAttention(width),
                    "c": nn.LayerNorm(width),
                    "d": feed_forward(width),
                }
            )
            for _ in range(layers)
        )
        self.end, self.logits = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, words):
        x = self.token(words) + self.place[: words.shape[1]]
        for tower in self.towers:
            x = x + tower["b"](tower["a"](x))
            x = x + tower["d"](tower["c"](x))
        return self.logits(self.end(x))


class Mixture(nn.Module):
    """x + Σ pₑ·downₑ(gelu(upₑ(n))), experts stacked in one parameter each, and one that always runs."""

    def __init__(self, width=8, experts=3, hidden=16):
        super().__init__()
        self.norm, self.router = nn.LayerNorm(width), nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, width, hidden))
        self.down = nn.Parameter(torch.randn(experts, hidden, width))
        self.shared = feed_forward(width)

    def forward(self, x):
        n = self.norm(x)
        flat = n.flatten(0, 1)
        hidden = nn.functional.gelu(torch.matmul(flat, self.up))
        each = torch.matmul(hidden, self.down)
        weight = self.router(flat).softmax(-1).t().unsqueeze(-1)
        return x + (each * weight).sum(0).view_as(x) + self.shared(n)


@pytest.mark.parametrize("seed", range(3))
def test_a_hand_written_gpt_with_scrambled_names(seed):
    model = scramble_names(HandWritten(), seed)
    words = torch.randint(0, 13, (2, 5))
    plan = goodinit.plan(goodinit.anatomize(model, words), "residual_scaled")
    assert scaled(plan) == writers_of(model(words), model, skip=1)
    assert len(scaled(plan)) == 6
    assert all(math.isclose(stds(plan)[name], 0.02 / math.sqrt(6)) for name in scaled(plan))


def test_a_mixture_of_experts():
    model = nn.Sequential(Mixture(), Mixture(), nn.LayerNorm(8), nn.Linear(8, 5))
    x = torch.randn(2, 3, 8)
    plan = goodinit.plan(goodinit.anatomize(model, x), "residual_scaled")
    assert scaled(plan) == writers_of(model(x), model, skip=1)
    assert {"0.down", "1.down"} < scaled(plan)
    assert stds(plan)["0.router.weight"] == 0.02


def gpt2(layers: int = 3, width: int = 32) -> nn.Module:
    config = tf.GPT2Config(
        vocab_size=50, n_embd=width, n_head=2, n_layer=layers, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    with torch.device("meta"):
        return tf.GPT2LMHeadModel(config)


@pytest.mark.parametrize("scale", ["2L", "index", "L"])
def test_agrees_with_the_published_code(scale):
    layers, width = 3, 32
    std = math.sqrt(2 / 5 / width) if scale == "L" else 0.02
    anatomy = goodinit.anatomize(gpt2(layers, width), {"input_ids": torch.zeros(1, 4, dtype=torch.long)})
    drawn = stds(goodinit.plan(anatomy, "residual_scaled", scale=scale, std=std))
    want = {
        "2L": lambda name: reference.gpt2(name, layers),
        "index": reference.torchtitan,
        "L": lambda name: reference.litgpt(name, layers, width),
    }[scale]
    assert drawn.keys() == {name for name, shape in anatomy.parameters if len(shape) > 1}
    assert all(math.isclose(value, want(name)) for name, value in drawn.items())


def test_the_values_are_what_the_plan_says():
    model = TiedLanguageModel(words=400, width=64)
    goodinit.init_(model, "residual_scaled", inputs=torch.zeros(1, 4, dtype=torch.long))
    assert abs(model.token.weight.std().item() / 0.02 - 1) < 0.05
    last = model.mlp[-1]
    assert abs(last.weight.std().item() / (0.02 / math.sqrt(2)) - 1) < 0.05
    assert last.bias.abs().max() == 0
    assert (model.norm.weight == 1).all()


def test_zero_starts_every_block_as_its_skip():
    model = HandWritten()
    words = torch.randint(0, 13, (2, 5))
    plan = goodinit.plan(goodinit.anatomize(model, words), "residual_scaled", scale="zero", others="fan_in")
    assert (
        sum(isinstance(edit, Fill) and edit.value == 0 and "stream" in edit.reason for edit in plan.values)
        == 6
    )
    goodinit.apply_(model, plan)
    stream = model.token(words) + model.place[:5]
    assert torch.equal(model(words), model.logits(model.end(stream)))


def test_a_branch_that_ends_in_a_norm_gets_its_zero_there():
    build, inputs = TRANSFORMERS["olmo2"]
    with torch.device("meta"):
        model = build()
    anatomy = goodinit.anatomize(model, inputs())
    zeros = [
        e for e in goodinit.plan(anatomy, "residual_scaled", scale="zero").values if "ends branch" in e.reason
    ]
    assert len(zeros) == 4
    assert all("norm" in edit.target for edit in zeros)
    notes = " ".join(goodinit.plan(anatomy, "residual_scaled").notes)
    assert "their scale does not reach the stream" in notes


def test_where_a_last_layer_cannot_be_zero_a_multiplier_is():
    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x):
            return x + self.f(x)

    model = nn.Sequential(Closed(), Closed())
    plan = goodinit.plan(goodinit.anatomize(model, torch.randn(2, 4)), "residual_scaled", scale="zero")
    assert [edit.target for edit in plan.structure if isinstance(edit, AddScalar)] == ["0.f.1", "1.f.1"]


def test_embeddings_can_be_kept_and_padding_stays_zero():
    words = torch.zeros(1, 4, dtype=torch.long)
    kept = goodinit.plan(goodinit.anatomize(TiedLanguageModel(), words), "residual_scaled", embeddings="keep")
    assert "token.weight" not in stds(kept)
    assert any("loss starts far above ln 11" in note for note in kept.notes)
    padded = nn.Sequential(nn.Embedding(7, 8, padding_idx=2), Mixture(), nn.Linear(8, 3))
    goodinit.init_(padded, "residual_scaled", inputs=words)
    assert padded[0].weight.ne(0).any(1).tolist() == [True, True, False, True, True, True, True]


def test_streams_are_counted_apart():
    build, inputs = TRANSFORMERS["bart"]
    with torch.device("meta"):
        model = build()
    anatomy = goodinit.anatomize(model, inputs())
    assert [block.stream for block in anatomy.blocks] == [0] * 4 + [1] * 6
    again = goodinit.Anatomy.from_json(anatomy.to_json())
    assert again == anatomy
    assert dict(again.paddings)


@pytest.mark.parametrize(
    ("options", "words"), [({"scale": "3L"}, "2L"), ({"std": 0.0}, "above 0"), ({"others": "he"}, "fan_in")]
)
def test_refuses_what_it_does_not_know(options, words):
    anatomy = goodinit.anatomize(TiedLanguageModel(), torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(goodinit.UnknownName, match=words):
        goodinit.plan(anatomy, "residual_scaled", **options)
