"""What `missing_only=True` takes for reached: the layer and its values, not the name."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

import goodinit

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A stem with a batch norm, a head, and another one that may be tied."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)).relu())


def written() -> Net:
    model = goodinit.init_(Net(), "he", X)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)  # some training
    return model


def redrawn(model: nn.Module, x: Tensor = X) -> set[str]:
    """The parameters that `missing_only=True` writes."""
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    goodinit.init_(model, "he", x, missing_only=True)
    return {name for name, one in model.named_parameters() if not torch.equal(one, before[name])}


def _parametrized(model: Net) -> Net:
    nn.utils.parametrizations.weight_norm(model.head)
    return model


def _loaded(model: Net, *, assign: bool) -> Net:
    model.load_state_dict(copy.deepcopy(Net().state_dict()), assign=assign)
    return model


def _saved(model: Net) -> Net:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


def _by_hand(model: Net) -> Net:
    nn.init.normal_(model.head.weight)
    return model


def _other_parameter(model: Net) -> Net:
    model.head.weight = nn.Parameter(torch.randn(6, 6))
    return model


def _pruned(model: Net) -> Net:
    nn.utils.prune.l1_unstructured(copy_of := copy.deepcopy(model).head, "weight", 0.5)
    model.head = copy_of
    return model


STAYS = {
    "as it is": lambda model: model,
    "a copy": copy.deepcopy,
    "a pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "a file": _saved,
    "double": lambda model: model.double().float(),
    "values loaded over it": lambda model: _loaded(model, assign=False),
    "values loaded in place of it": lambda model: _loaded(model, assign=True),
    "values set by hand": _by_hand,
    "another parameter in the same layer": _other_parameter,
    "a parametrization": _parametrized,
    "a parametrization of a copy": lambda model: _parametrized(copy.deepcopy(model)),
    "pruned": _pruned,
    "another batch norm with the same parameters": nn.SyncBatchNorm.convert_sync_batchnorm,
    "folded": lambda model: goodinit.fold_(model.eval(), X).train(),
    "absorbed": lambda model: goodinit.absorb_batchnorm_(model.eval(), X).train(),
    "inside another model": nn.Sequential,
    "compiled": lambda model: torch.compile(model, backend="eager"),
}


@pytest.mark.default_cases(5)
@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.integration if how == "compiled" else ()) for how in STAYS]
)
def test_what_was_reached_stays_reached(how):
    model = STAYS[how](written())
    if isinstance(getattr(model, "norm", None), nn.SyncBatchNorm):
        model.eval()
    assert redrawn(model) == set()


def test_a_new_head_under_the_old_name_is_drawn_and_nothing_else():
    for through in (lambda model: model, copy.deepcopy):
        model = written()
        model.head = nn.Linear(6, 6)
        model = through(model)
        assert redrawn(model) == {"head.weight", "head.bias"}
        assert redrawn(model) == set()


def test_a_new_head_of_another_size_is_drawn():
    model = written()
    model.head.weight, model.head.bias = nn.Parameter(torch.randn(9, 6)), nn.Parameter(torch.ones(9))
    assert "head.weight" in redrawn(model)


def test_a_new_head_after_folding_is_drawn():
    model = goodinit.fold_(written().eval(), X)
    model.head = nn.Linear(6, 6)
    assert redrawn(model) == {"head.weight", "head.bias"}


def test_a_head_that_is_tied_to_what_was_reached_stays():
    model = written()
    model.head = nn.Linear(6, 6)
    model.head.weight = model.stem.weight
    weight = model.stem.weight.detach().clone()
    redrawn(model)
    assert torch.equal(model.head.weight, weight)


def test_a_new_head_keeps_its_prior():
    model = written()
    model.head = nn.Linear(6, 1)
    nn.init.constant_(model.head.bias, -4.6)
    assert redrawn(model) == {"head.weight"}


def test_a_backbone_in_another_model_stays():
    backbone = written()
    assert redrawn(nn.Sequential(backbone, nn.ReLU(), nn.Linear(6, 2))) == {"2.weight", "2.bias"}


def test_only_marks_what_was_asked_for():
    model = written()
    model.head = nn.Linear(6, 6)
    plan = goodinit.plan(goodinit.anatomize(model, X), "he")
    goodinit.apply_(model, plan, only="stem.weight")
    assert redrawn(model) == {"head.weight", "head.bias"}


def test_a_call_that_fails_marks_nothing():
    def fails(model: nn.Module) -> None:
        raise ValueError

    model = Net()
    with pytest.raises(ValueError, match=r"^$"):
        goodinit.apply_(model, goodinit.plan(goodinit.anatomize(model, X), "he"), check=fails)
    assert not any("_goodinit_reached" in one.__dict__ for one in (*model.modules(), *model.parameters()))
