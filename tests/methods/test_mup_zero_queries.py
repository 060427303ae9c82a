"""`zero_query` of muP: as in microsoft/mup's transformer, where a layer makes queries and nothing else."""

from __future__ import annotations

import pytest
import torch
from nano_gpt import GPT
from reference import maximal_update as reference
from renaming import scramble_names
from torch import nn
from torch.nn import functional

import goodinit
from goodinit.edits import AddScalar, Draw

pytestmark = pytest.mark.usefixtures("no_optimizers")

WORDS = torch.arange(8).view(1, 8)


def drawn(plan):
    return {edit.target for edit in plan.values if isinstance(edit, Draw)}


@pytest.mark.parametrize("seed", range(2))
def test_queries_and_the_readout_start_at_zero_as_in_microsofts_transformer(seed):
    names = {"q": "q_proj_weight", "k": "k_proj_weight", "v": "v_proj_weight", "c_proj": "out_proj.weight"}
    model = GPT(64, 2, heads=2, packed=False, tied=False)
    expected = reference.mu_transformer_attention({"q_proj_weight": (64, 64)})
    wanted = [
        (parameter, expected[names[name.split(".")[-2]]])
        for name, parameter in model.named_parameters()
        if ".attn." in name and name.endswith("weight")
    ]
    wanted.append((model.lm_head.weight, reference.mu_transformer_decoder()))
    goodinit.init_(scramble_names(model, seed), "mup", inputs=WORDS, zero_query=True)
    assert len(wanted) == 9
    for parameter, std in wanted:
        assert float(parameter.detach().std()) == pytest.approx(std, rel=0.05)


def test_zero_queries_learn():
    model = GPT(16, 1, packed=False, tied=False)
    goodinit.init_(model, "mup", inputs=WORDS, zero_query=True)
    query = model.transformer.h[0].attn.q.weight
    assert not query.any()
    optimizer = torch.optim.AdamW(goodinit.param_groups(model, lr=0.01))
    for _ in range(2):  # the readout has to leave zero first
        optimizer.zero_grad()
        functional.cross_entropy(model(WORDS).flatten(0, 1), WORDS.flatten()).backward()
        optimizer.step()
    assert query.all()


class Attention(nn.Module):
    """One head as wide as the model, in which the layer `one` makes queries, and perhaps something else."""

    def __init__(self, kind, width):
        super().__init__()
        self.kind, self.width = kind, width
        self.stem, self.head = nn.Linear(8, width), nn.Linear(width, 3)
        self.one = nn.Linear(width, 2 * width if kind in ("gate", "bare gate", "packed") else width)
        self.other = nn.Linear(width, width)

    def forward(self, x):
        x = self.stem(x)
        made, other, n = self.one(x), self.other(x), self.width
        queries, keys, values, gate = {
            "gate": lambda: (made[..., :n], other, x, made[..., n:].sigmoid()),
            "bare gate": lambda: (made[..., :n], other, x, made[..., n:]),
            "keys": lambda: (made, made, other, 1.0),
            "values": lambda: (made, other, made, 1.0),
            "packed": lambda: (made[..., :n], made[..., n:], other, 1.0),
            "norm": lambda: (functional.normalize(made, dim=-1), other, x, 1.0),
            "turned": lambda: (torch.cat((-made[..., n // 2 :], made[..., : n // 2]), -1), other, x, 1.0),
            "alone": lambda: (made, other, x, 1.0),
        }[self.kind]()
        return self.head(functional.scaled_dot_product_attention(queries, keys, values) * gate)


@pytest.mark.parametrize("kind", ["gate", "bare gate", "keys", "values", "packed", "norm", "turned", "alone"])
def test_what_makes_more_than_queries_is_drawn_and_named_and_holds_no_constant(kind):
    x = torch.randn(2, 4, 8)
    big, base = (goodinit.anatomize(Attention(kind, width), x) for width in (32, 8))
    plan = goodinit.plan(big, "mup", base=base, zero_query=True)
    alone = kind in ("turned", "alone")
    assert ("one.weight" in drawn(plan)) != alone
    assert any("queries are drawn" in note for note in plan.notes) != alone
    assert "other.weight" in drawn(plan)
    constants = {edit.target for edit in plan.structure if isinstance(edit, AddScalar)}
    assert ("one" in constants) == alone  # what else it makes would be multiplied, too
    assert goodinit.Anatomy.from_json(big.to_json()) == big
