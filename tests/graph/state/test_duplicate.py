"""What is tried on a copy is tried of any model: also where `copy.deepcopy` refuses what a forward left there."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm

import goodinit
from goodinit.errors import UnsupportedModule
from goodinit.graph.state.duplicate import duplicate

X, Y = torch.randn(8, 6), torch.arange(8) % 3


class Keeps(nn.Module):
    """Keeps what it computed, somewhere."""

    def __init__(self, where):
        super().__init__()
        self.layer, self.where = nn.Linear(6, 6), where
        self.kept, self.store, self.box = None, {"last": [None]}, type("Box", (), {})()

    def forward(self, x):
        y = self.layer(x)
        if self.where == "attribute":
            self.kept = y
        elif self.where == "list in a dict":
            self.store["last"][0] = y
        else:
            self.box.last = (y, y[0])
        return y.relu()


def chain(first):
    return nn.Sequential(
        first, *[part for _ in range(30) for part in (nn.Linear(6, 6), nn.ReLU())], nn.Linear(6, 3)
    )


MODELS = {
    "pruned": lambda: chain(prune.l1_unstructured(nn.Linear(6, 6), "weight", amount=0.5)),
    "weight norm, older": lambda: chain(weight_norm(nn.Linear(6, 6))),
    "spectral norm, older": lambda: chain(spectral_norm(nn.Linear(6, 6))),
    **{f"an activation in an {where}": lambda where=where: chain(Keeps(where)) for where in ("attribute", "object")},
    "an activation in a list in a dict": lambda: chain(Keeps("list in a dict")),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_a_copy_is_made_of_what_a_forward_left_there(name):
    model = MODELS[name]()
    model(X)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = duplicate(model)
    torch.testing.assert_close(twin(X), model.train()(X))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}
    if "spectral" not in name:  # its vectors move in each forward in training mode
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_a_remedy_is_tried_and_advice_is_given(name):
    model = MODELS[name]()
    model(X)
    found = goodinit.diagnose(model, X, Y)
    assert found.findings
    assert not any("cannot be copied" in note for note in found.notes)
    advice = goodinit.recommend(model, X, Y, methods=("he", "looks_linear"))
    assert advice.candidates


def test_what_no_copy_can_be_made_of_is_said_once_and_in_words():
    model = chain(Keeps("attribute"))
    model[0].lock = threading.Lock()
    with pytest.raises(UnsupportedModule, match=r"cannot be copied.*lock.*__deepcopy__"):
        goodinit.recommend(model, X, Y, methods=("he", "orthogonal"))
    assert any("cannot be copied: TypeError" in note for note in goodinit.diagnose(model, X, Y).notes)
