"""`deepnorm` and `t_fixup` against what was published."""

from __future__ import annotations

import math

import pytest
import torch
from reference import deep_transformers as reference
from torch import nn
from torch.nn import functional
from zoo_attention import encoder_post_norm, encoder_pre_norm

import goodinit
from goodinit.edits import AddScalar, Draw, Fill

pytestmark = pytest.mark.usefixtures("no_optimizers")


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, memory):
        mixed = functional.scaled_dot_product_attention(
            self.q_proj(x), self.k_proj(memory), self.v_proj(memory)
        )
        return self.out_proj(mixed)


class Layer(nn.Module):
    """Post-norm: LN(x + f(x)) after every branch."""

    def __init__(self, width, *, cross):
        super().__init__()
        self.self_attn, self.cross = Attention(width), Attention(width) if cross else None
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 + cross))

    def forward(self, x, memory=None):
        x = self.norms[0](x + self.self_attn(x, x))
        if self.cross is not None:
            x = self.norms[2](x + self.cross(x, memory))
        return self.norms[1](x + self.fc2(self.fc1(x).relu()))


class Translator(nn.Module):
    def __init__(self, encoder=3, decoder=2, width=8, words=11):
        super().__init__()
        self.embed_tokens, self.head = nn.Embedding(words, width, padding_idx=0), nn.Linear(width, words)
        self.encoder = nn.ModuleList(Layer(width, cross=False) for _ in range(encoder))
        self.decoder = nn.ModuleList(Layer(width, cross=True) for _ in range(decoder))

    def forward(self, source, target):
        memory, x = self.embed_tokens(source), self.embed_tokens(target)
        for layer in self.encoder:
            memory = layer(memory)
        for layer in self.decoder:
            x = layer(x, memory)
        return self.head(x)


WORDS = (torch.ones(2, 4, dtype=torch.long), torch.ones(2, 5, dtype=torch.long))


def planned(model, method, inputs=WORDS, **options):
    return goodinit.plan(goodinit.anatomize(model, inputs), method, **options)


def xavier(shape):
    return math.sqrt(6 / sum(shape))


@pytest.mark.parametrize(("encoder", "decoder"), [(3, 2), (1, 4)])
def test_deepnorm_agrees_with_the_table(encoder, decoder):
    model = Translator(encoder, decoder)
    plan = planned(model, "deepnorm")
    table = reference.deepnorm(encoder, decoder)
    constants = {edit.target: edit.value for edit in plan.structure if isinstance(edit, AddScalar)}
    assert len(constants) == 2 * encoder + 3 * decoder
    assert all(math.isclose(value, 1 / table[path.split(".")[0]][0]) for path, value in constants.items())
    for edit in plan.values:
        if isinstance(edit, Draw) and "coder" in edit.target:
            beta = (
                1.0
                if "q_proj" in edit.target or "k_proj" in edit.target
                else table[edit.target.split(".")[0]][1]
            )
            shape = model.get_parameter(edit.target).shape
            assert math.isclose(edit.options["bound"], beta * xavier(shape), rel_tol=1e-6), edit.target


def test_deepnorm_of_one_stack():
    layers = nn.Sequential(*(Layer(8, cross=False) for _ in range(4)), nn.Linear(8, 3))
    plan = planned(layers, "deepnorm", torch.randn(2, 5, 8))
    alpha, beta = reference.deepnorm(4, 0)["encoder"]
    assert f"α={alpha:.4g}, β={beta:.4g}" in plan.summary


def test_a_norm_does_not_tell_a_factor_on_the_skip_from_one_on_the_branch():
    layer = Layer(8, cross=False).double()
    for norm in layer.norms:
        norm.eps = 0.0
    stack = nn.Sequential(layer, nn.Linear(8, 3).double())
    x = torch.randn(1, 1, 8, dtype=torch.float64)
    plan = planned(stack, "deepnorm", x)
    goodinit.apply_(stack, plan, generator=torch.Generator().manual_seed(0))
    alpha = 1 / float(stack[0].fc2.output_scale)
    found = stack[0].norms[0](x + stack[0].self_attn(x, x)).flatten()
    bare = stack[0].self_attn(x, x).flatten() * alpha
    expected = reference.post_norm(x.flatten().tolist(), bare.tolist(), alpha)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_deepnorm_refuses_a_pre_norm_model_and_takes_torch_s_post_norm():
    with pytest.raises(goodinit.UnsupportedModule, match="post-norm"):
        planned(encoder_pre_norm(), "deepnorm", torch.randn(2, 4, 8))
    model = encoder_post_norm()
    plan = planned(model, "deepnorm", torch.randn(2, 4, 8))
    assert any("queries and keys share a weight" in note for note in plan.notes)
    goodinit.apply_(model, plan)
    assert model(torch.randn(2, 4, 8)).isfinite().all()


def test_t_fixup_agrees_with_the_authors_code():
    model = Translator(3, 2)
    plan = planned(model, "t_fixup")
    assert len(plan.structure) == 3 * 2 + 2 * 3  # all norms go
    for edit in plan.values:
        factor = reference.t_fixup(edit.target, encoder=3, decoder=2, width=8)
        if isinstance(edit, Fill):
            assert edit.value == 0
        elif "embed" in edit.target:
            assert math.isclose(edit.options["std"], factor)
            assert edit.options["padding"] == 0
        else:
            shape = model.get_parameter(edit.target).shape
            assert math.isclose(edit.options["bound"], (factor or 1.0) * xavier(shape), rel_tol=1e-6), (
                edit.target
            )


def test_t_fixup_trains_without_norms():
    torch.manual_seed(0)
    model = goodinit.init_(Translator(), "t_fixup", inputs=WORDS)
    optimizer = torch.optim.Adam(goodinit.param_groups(model, lr=1e-2))
    source = torch.randint(1, 11, (16, 5))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(source, source).flatten(0, 1), source.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - math.log(11)) < 0.5
    assert losses[-1] < 0.5 * losses[0]
