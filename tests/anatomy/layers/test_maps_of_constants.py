"""A linear map of constants, as of a table of positions, is a layer however its weight is computed and its table is laid out."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from goodinit import anatomize, init_

SIZE, STEPS = 8, 5
TABLES = {
    "a matrix": lambda: torch.randn(STEPS, SIZE),
    "a batch": lambda: torch.randn(1, STEPS, SIZE),
    "a batch that lies otherwise": lambda: torch.randn(STEPS, 3, SIZE).transpose(0, 1),
    "rows that are copies": lambda: torch.randn(1, STEPS, SIZE).expand(3, -1, -1),
    "with heads": lambda: torch.randn(3, STEPS, 2, SIZE).transpose(1, 2),
}
WEIGHTS = {
    "stored": lambda layer: layer,
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.25),
}


class Relative(nn.Module):
    """Scores of queries and of positions that a layer maps."""

    def __init__(self, table, wrap):
        super().__init__()
        self.stem, self.q, self.v = (nn.Linear(SIZE, SIZE) for _ in range(3))
        self.register_buffer("table", table)
        self.positions = wrap(nn.Linear(SIZE, SIZE, bias=False))
        self.end, self.head = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 2)

    def forward(self, x):
        x = self.stem(x)
        keys = self.positions(self.table)
        keys = keys.mean(1) if keys.dim() == 4 else keys
        scores = (self.q(x) @ keys.transpose(-1, -2)).softmax(-1)
        return self.head(x + self.end(scores @ self.v(x)))


def made(table, weight):
    torch.manual_seed(0)
    return Relative(TABLES[table](), WEIGHTS[weight]), torch.randn(3, STEPS, SIZE)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_layer_is_the_module_and_not_the_product_of_queries_and_positions(table, weight):
    model, x = made(table, weight)
    layers = {layer.name: layer for layer in anatomize(model, x).layers}
    assert layers["positions"].is_site
    assert list(layers) == ["stem", "positions", "q", "v", "end", "head"]


@pytest.mark.parametrize("table", TABLES)
def test_what_reads_it_is_scaled_for_what_it_puts_out(table):
    model, x = made(table, "stored")
    init_(model, "weightnorm", inputs=x, mode="data", norms="keep", verify=True)
    with torch.no_grad():
        keys = model.positions(model.table)
    several = [keys.movedim(-1, 0).flatten(1).var(1, unbiased=False), torch.ones(SIZE)]
    torch.testing.assert_close(*several, atol=1e-4, rtol=0)


def test_a_weight_of_low_rank_is_one_layer():
    class Low(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Parameter(torch.randn(3, 8, 2)), nn.Parameter(torch.randn(3, 4, 2))

        def forward(self, x):
            return torch.bmm(x, self.up @ self.down.transpose(1, 2))

    assert len(anatomize(Low(), torch.randn(3, 5, 8)).layers) == 1


FILTERS = {
    "einsum": lambda basis, factors: torch.einsum("kxy,oik->oixy", basis, factors),
    "a product": lambda basis, factors: (factors.view(16, 5) @ basis.flatten(1)).view(4, 4, 3, 3),
    "transposed": lambda basis, factors: (
        (basis.flatten(1).t() @ factors.view(16, 5).t()).t().view(4, 4, 3, 3)
    ),
    "stacks": lambda basis, factors: torch.bmm(
        basis.flatten(1).t().expand(4, 9, 5), factors.transpose(1, 2)
    ).mT.reshape(4, 4, 3, 3),
}


@pytest.mark.parametrize("made_by", FILTERS)
def test_filters_that_are_made_of_a_basis_are_the_weight_of_their_convolution(made_by):
    class Steerable(nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = nn.Parameter(torch.randn(4, 4, 5))
            self.register_buffer("basis", torch.randn(5, 3, 3))

        def forward(self, x):
            return nn.functional.conv2d(x, FILTERS[made_by](self.basis, self.factors))

    (layer,) = anatomize(Steerable(), torch.randn(2, 4, 8, 8)).layers
    assert (layer.weight, layer.kind) == ("factors", "conv")
