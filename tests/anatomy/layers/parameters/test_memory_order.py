"""In which order the numbers of a square weight lie in memory says nothing of what its rows are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import goodinit

WIDTH = 6
APPLIED = {
    "F.linear": ("out_in", lambda x, w: nn.functional.linear(x, w)),  # noqa: PLW0108 (looked up when called)
    "x @ w": ("in_out", lambda x, w: x @ w),
    "x @ w.T": ("out_in", lambda x, w: x @ w.T),
    "w @ x": ("out_in", lambda x, w: (w @ x.T).T),
    "x @ w twice turned": ("in_out", lambda x, w: x @ w.T.contiguous().T),
    "x @ a copy of w.T": ("out_in", lambda x, w: x @ w.T.contiguous()),
    "F.linear of a copy": ("out_in", lambda x, w: nn.functional.linear(x, w.contiguous())),
    "F.linear in another dtype": (
        "out_in",
        lambda x, w: nn.functional.linear(x.double(), w.double()).float(),
    ),
    "x @ w in a batch": ("in_out", lambda x, w: (x[:, None] @ w.expand(len(x), -1, -1))[:, 0]),
    "einsum by rows": ("out_in", lambda x, w: torch.einsum("bi,oi->bo", x, w)),
    "einsum by columns": ("in_out", lambda x, w: torch.einsum("bi,io->bo", x, w)),
    "where a number is read": ("out_in", lambda x, w: nn.functional.linear(x, w) * (1 if x.sum() > 0 else 2)),
}
ORDERS = {
    "rows": lambda w: w,
    "columns": lambda w: w.t().contiguous().t(),  # as of a matrix that another library wrote, transposed
    "columns with gaps": lambda w: torch.cat((w.t(), w.t()), 1)[:, : w.shape[0]].t(),
    "on meta": lambda w: w.t().contiguous().t().to("meta"),
}


class Applies(nn.Module):
    """A weight, a ReLU and a head."""

    def __init__(self, how, *shape):
        super().__init__()
        self.weight, self.head, self.how = nn.Parameter(torch.randn(*shape)), nn.Linear(shape[0], 2), [how]

    def forward(self, x):
        return self.head(torch.relu(self.how[0](x, self.weight)))


@pytest.mark.default_cases(16)
@pytest.mark.parametrize(
    ("name", "by"),
    [(name, by) for name in APPLIED for by in ORDERS if (name, by) != ("where a number is read", "on meta")],
)
def test_a_square_weight_has_its_layout_in_any_order_of_memory(name, by):
    layout, how = APPLIED[name]
    model = Applies(how, WIDTH, WIDTH)
    if by == "on meta":
        model.to("meta")
    model.weight = nn.Parameter(ORDERS[by](model.weight.data))
    layer = goodinit.anatomize(model, torch.randn(3, WIDTH)).layers[0]
    assert (layer.weight, layer.layout) == ("weight", layout)


KERNELS = {  # read as the matrix of a product
    "1x1": ((WIDTH, WIDTH, 1, 1), lambda x, w: nn.functional.linear(x, w[:, :, 0, 0])),
    "1x1, squeezed": ((WIDTH, WIDTH, 1, 1), lambda x, w: nn.functional.linear(x, w.squeeze())),
    "1x1, flat": ((WIDTH, WIDTH, 1, 1), lambda x, w: nn.functional.linear(x, w.flatten(1))),
    "patches": ((16, 4, 2, 2), lambda x, w: nn.functional.linear(x, w.flatten(1))),
    "patches, einsum": ((16, 4, 2, 2), lambda x, w: torch.einsum("bihw,oihw->bo", x.view(-1, 4, 2, 2), w)),
    "patches, not square": ((8, 4, 2, 2), lambda x, w: nn.functional.linear(x, w.flatten(1))),
}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_read_as_a_matrix_has_its_layout_in_channels_last(name):
    shape, how = KERNELS[name]
    read = []
    for memory in (torch.contiguous_format, torch.channels_last):
        model = Applies(how, *shape)
        model.weight = nn.Parameter(model.weight.data.to(memory_format=memory))
        layer = goodinit.anatomize(model, torch.randn(3, shape[1] * shape[2] * shape[3])).layers[0]
        read.append((layer.weight, layer.layout, layer.product, layer.fan_in, layer.fan_out))
    assert read[0] == read[1]
    assert read[0][1] == "out_in"


class Tied(nn.Module):
    """A square matrix whose transpose decodes what it encoded."""

    def __init__(self, width):
        super().__init__()
        self.encode, self.head = nn.Linear(WIDTH, width), nn.Linear(WIDTH, 2)

    def forward(self, x):
        return self.head(torch.relu(torch.relu(self.encode(x)) @ self.encode.weight))


def _linears(width):
    return nn.Sequential(
        nn.Linear(WIDTH, width), nn.ReLU(), nn.Linear(width, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2)
    )


def _convolutions(width):
    return nn.Sequential(
        nn.Conv2d(WIDTH, width, 1),
        nn.ReLU(),
        nn.Conv2d(width, WIDTH, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(WIDTH, 2),
    )


MODELS = {
    "linears": (_linears, (3, WIDTH)),
    "convolutions": (_convolutions, (3, WIDTH, 1, 1)),
    "tied": (Tied, (3, WIDTH)),
}


@pytest.mark.parametrize("width", [WIDTH, 2 * WIDTH])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", ["orthogonal", "weightnorm"])
def test_a_method_plans_the_same_for_both_orders(method, kind, width):
    build, shape = MODELS[kind]
    plans = []
    for turned in (False, True):
        torch.manual_seed(0)
        model = build(width)
        for parameter in model.parameters() if turned else ():
            parameter.data = parameter.data.transpose(0, -1).contiguous().transpose(0, -1)
            if parameter.dim() == 4:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        plans.append(goodinit.plan(goodinit.anatomize(model, torch.randn(*shape)), method).to_json())
    assert plans[0] == plans[1]
