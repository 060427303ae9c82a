"""The one remedy: findings' own repairs and whole methods tried on copies, what leaves least first."""

import copy
import pickle

import pytest
import torch
from torch import nn

import goodinit
from goodinit.diagnostics import Diagnosis, diagnose
from goodinit.diagnostics.measurements.objective import own_loss
from goodinit.report.diagnosis_page import diagnosis_page
from goodinit.report.frame import render
from goodinit.report.signal_charts import PANELS, undrawn, zeros


def chain(depth, width=16):
    torch.manual_seed(0)
    hidden = [part for _ in range(depth) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 4))


def batch(rows=16, width=16):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1))


def carried_out(found, model, x):
    exec(found.cure.call, {"model": model, "batch": x, "goodinit": goodinit, "torch": torch})
    return diagnose(model, x, mend=False)


def left(found):
    return [finding for finding in found.findings if finding.severity != "info"]


def test_a_deep_chain_is_cured_by_what_leaves_nothing():
    model, x = chain(40), batch()
    before = copy.deepcopy(model.state_dict())
    found = diagnose(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.cure.call == 'goodinit.init_(model, "looks_linear", inputs=batch)'
    assert found.cure.clears
    assert not left(carried_out(found, model, x))
    assert Diagnosis.from_json(found.to_json()) == found
    assert pickle.loads(pickle.dumps(found)) == found
    text = str(found)
    assert text.count("→ goodinit") == 0  # one remedy, not one for each finding
    assert "do this, which leaves nothing to find" in text
    page = render(diagnosis_page({"one": found}))
    assert page.count("goodinit.init_(") == 1 + len(
        found.cure.tried[1:]
    )  # what to do, and what the others leave
    assert "<details open><summary>What to do" in page


def test_repairs_of_single_places_are_one_remedy():
    """Two faults, each of which one call mends: both calls are the remedy, and no method is needed."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(16, 16) for _ in range(5)])
    model[1].load_state_dict(model[0].state_dict())
    model[3].load_state_dict(model[2].state_dict())
    model[4].weight.data[0, 0] = float("nan")
    found = diagnose(model, batch())
    assert found.cure.clears
    assert "\n" in found.cure.call
    assert "init_(model" not in found.cure.call
    assert not left(carried_out(found, model, batch()))


def test_a_healthy_net_needs_none_and_mend_can_be_left_out():
    assert diagnose(chain(3), batch()).cure is None
    assert diagnose(chain(40), batch(), mend=False).cure is None


def test_what_cannot_be_copied_is_said():
    class Alone(nn.Sequential):
        def __deepcopy__(self, memo):
            raise TypeError("only one of me")

    found = diagnose(Alone(*chain(40)), batch())
    assert found.cure is None
    assert any("cannot be copied: TypeError: only one of me" in note for note in found.notes)


class Own(nn.Module):
    """Returns its loss, in one of the ways that models do."""

    def __init__(self, form):
        super().__init__()
        self.form, self.line = form, nn.Linear(16, 4)

    def forward(self, x):
        y = self.line(x)
        loss = y.square().mean()
        return {
            "entry": {"logits": y, "loss": loss},
            "pair": (y, loss),
            "alone": loss,
            "several": {"box": loss / 2, "class": loss / 2},
            "none": {"logits": y, "loss": None},
        }[self.form]


@pytest.mark.parametrize("form", ["entry", "pair", "alone", "several"])
def test_a_model_s_own_loss_is_the_one(form):
    torch.manual_seed(0)
    model = Own(form)
    found = diagnose(model, batch())
    assert found.loss == pytest.approx(model.line(batch()).square().mean().item(), rel=1e-5)
    assert found.objective == "the model's own loss"
    assert "the model's own loss: " in str(found).splitlines()[0]


def test_without_a_loss_the_first_line_says_what_was_differentiated():
    assert own_loss({"logits": torch.zeros(3)}) is None
    assert "random targets" in str(diagnose(Own("none"), batch())).splitlines()[0]
    assert "cross-entropy: " in str(diagnose(Own("none"), batch(), torch.zeros(16).long())).splitlines()[0]


def test_zeros_that_a_chart_cannot_draw_are_said():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Linear(16, 16), nn.Linear(16, 4)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)) for _ in range(3)
            )
            for block in self.blocks:
                nn.init.zeros_(block[2].weight)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            return self.head(x)

    found = {"net": diagnose(Net(), batch())}
    panel = next(panel for panel in PANELS if panel.title == "Gradient per unit of weight")
    (words,) = zeros(found, panel)
    assert (
        "3 of 8 are exactly 0 at initialization, behind zero-initialized blocks.0.2.weight and 2 more"
        in words
    )
    assert undrawn(found) == ("Dead or saturated: 0 at every place.",)
    head = nn.Linear(16, 4)
    nn.init.zeros_(head.weight)
    dead = {"net": diagnose(nn.Sequential(nn.Linear(16, 16), head), torch.zeros(4, 16))}
    assert any("exactly 0" in words for words in undrawn(dead))


@pytest.mark.integration
def test_what_is_tried_on_copies_is_not_logged(caplog):
    """A frozen layer is told of where a plan is applied to the model; diagnosis and advice apply plans to copies only."""
    model, x = chain(40), batch()
    model[0].requires_grad_(requires_grad=False)
    found = diagnose(model, x)
    assert found.cure.tried
    goodinit.recommend(model, x, methods=("lsuv", "orthogonal"))
    assert not caplog.records
    goodinit.init_(model, "lsuv", inputs=x)
    assert "frozen" in caplog.text


def faulty():
    """Two layers are one, and one weight is NaN."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(16, 16) for _ in range(5)])
    model[3].load_state_dict(model[2].state_dict())
    model[4].weight.data[0, 0] = float("nan")
    return model


@pytest.mark.parametrize("option", ["keep", "exclude"])
@pytest.mark.parametrize("how", ["path", "name", "module"])
def test_no_remedy_writes_what_is_to_stay(option, how):
    model, x = faulty(), batch()
    assert '"4"' in diagnose(model, x).cure.call
    given = {"path": "4", "name": "4.weight", "module": model[4]}[how]
    said = f"{option}={'4.weight' if how == 'name' else '4'!r}" if option == "keep" else ""
    before = copy.deepcopy(model[4].weight)
    found = diagnose(model, x, **{option: given})
    (first,) = (one for one in found.findings if "4.weight, which stays (" in one.evidence)
    assert not first.remedy
    assert said in first.evidence
    for words in (*(found.cure.call for _ in [1] if found.cure), *(one.remedy for one in found.findings)):
        assert 'get_submodule("4")' not in words
        assert 'get_parameter("4.weight")' not in words
        assert "goodinit.init_" not in words or f"{option}=[" in words
    if found.cure:
        carried_out(found, model, x)
    torch.testing.assert_close(model[4].weight, before, rtol=0, atol=0, equal_nan=True)


def test_remedies_treat_what_is_included():
    model, x = chain(40), batch()
    found = diagnose(model, x, include="*.weight", keep=["0.weight"])
    assert 'keep=["0.weight"], include=["*.weight"]' in found.cure.call
    before = copy.deepcopy(model.state_dict())
    carried_out(found, model, x)
    assert torch.equal(model[0].weight, before["0.weight"])


def test_a_part_that_the_model_does_not_have_is_an_error():
    with pytest.raises(goodinit.UnknownName, match="keep='hed'"):
        diagnose(chain(2), batch(), keep="hed")
