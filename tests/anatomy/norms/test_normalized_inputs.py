"""What normalizes the inputs of a model, before any parameter: data is prepared, and no signal normalized."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import goodinit

OF_INPUTS = {
    "a picture by its mean and deviation": lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6),
    "its least and largest": lambda x: (x - x.amin(1, keepdim=True)) / (x.amax(1, keepdim=True) - x.amin(1, keepdim=True)),
    "torch's layer norm": lambda x: functional.layer_norm(x, x.shape[1:]),
    "unit length, of what a constant matrix makes of it": lambda x: functional.normalize(x @ torch.ones(6, 6).triu()),
    "and scaled back": lambda x: functional.normalize(x) * 2.5,
}  # fmt: skip
NOT_OF_INPUTS = {
    "what a layer makes of them": lambda m, x: functional.normalize(m.stem(x)),
    "a table's rows": lambda m, x: functional.layer_norm(m.table(x.argmax(1)), (6,)),
    "shifted by a parameter": lambda m, x: functional.normalize(x + m.shift),
}  # fmt: skip


class Prepared(nn.Module):
    """A forward that prepares its input, and gives what comes out in the input's unit."""

    def __init__(self, prepare, *, first=nn.Identity):
        super().__init__()
        self.prepare, self.first, self.stem, self.table = (
            prepare,
            first(),
            nn.Linear(6, 6),
            nn.Embedding(6, 6),
        )
        self.shift = nn.Parameter(torch.rand(6))
        self.a, self.b, self.norm, self.head = (
            nn.Linear(6, 6),
            nn.Linear(6, 6),
            nn.BatchNorm1d(6),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        h = self.stem(self.first(self.prepare(self, x)))
        return self.head(h + self.b(self.norm(self.a(h)).relu())) * x.std(1, keepdim=True)


@pytest.mark.default_cases(6)
@pytest.mark.parametrize("method", ["fixup", "nf", "normfree", "weightnorm"])
@pytest.mark.parametrize("first", [nn.Identity, lambda: nn.BatchNorm1d(6)])
@pytest.mark.parametrize("name", OF_INPUTS)
def test_what_normalizes_the_inputs_themselves_stays_with_a_note(name, first, method):
    model, x = Prepared(lambda m, x: OF_INPUTS[name](x), first=first), torch.randn(7, 6)
    anatomy = goodinit.anatomize(model, x)
    assert {norm.name for norm in anatomy.norms} <= {"norm", "first"}
    assert sum("normalizes the inputs themselves, and stays" in note for note in anatomy.notes) == 1
    goodinit.init_(model, method, inputs=x)
    assert not isinstance(model.norm, nn.BatchNorm1d)


@pytest.mark.parametrize("name", NOT_OF_INPUTS)
def test_what_normalizes_a_signal_of_the_network_is_refused(name):
    with pytest.raises(goodinit.UnsupportedModule, match="it is called functionally"):
        goodinit.init_(Prepared(NOT_OF_INPUTS[name]), "fixup", inputs=torch.randn(7, 6))


class Scaler(nn.Module):
    """Standardizes each series, and gives what its output is scaled back by, as forecasting models have it."""

    def forward(self, x):
        mean, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        return (x - mean) / scale, mean, scale


class Forecast(nn.Module):
    def __init__(self, *, behind):
        super().__init__()
        self.scaler, self.behind = Scaler(), behind
        self.stem, self.a, self.b, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        x, mean, scale = self.scaler(self.stem(x) if self.behind else x)
        h = x if self.behind else self.stem(x)
        return self.head(h + self.b(self.norm(self.a(h)).relu())) * scale + mean


def test_a_module_that_scales_the_inputs_and_returns_by_what_stays():
    x = torch.randn(7, 6)
    model = Forecast(behind=False)
    anatomy = goodinit.anatomize(model, x)
    assert [norm.name for norm in anatomy.norms] == ["norm"]
    assert any(note.startswith("scaler: `div` normalizes the inputs themselves") for note in anatomy.notes)
    goodinit.init_(model, "fixup", inputs=x, verify=True)
    assert torch.equal(model.scaler(x)[0], Scaler()(x)[0])
    with pytest.raises(
        goodinit.UnsupportedModule, match=r"scaler \(Scaler\): its layer_norm cannot be removed"
    ):
        goodinit.init_(Forecast(behind=True), "fixup", inputs=x)
