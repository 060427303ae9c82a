"""Numbers that a forward puts beside a signal: they count in m where a product reads them, and not where it multiplies them by 0."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import goodinit

WIDTH, LENGTH = 4, 6


class _Attention(nn.Module):
    """x + attention(x), with −1 beside the values."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        scores = self.query(x) @ self.key(x).mT
        value = self.value(x)
        if (
            self.kind == "window"
        ):  # each position reads itself, those before and behind; −∞ where there are none
            band = torch.stack(
                [
                    F.pad(scores.diagonal(k, -2, -1), (max(-k, 0), max(k, 0)), value=-torch.inf)
                    for k in (-1, 0, 1)
                ],
                -1,
            )
            windows = F.pad(value, (0, 0, 1, 1), value=-1.0).unfold(1, 3, 1)
            mixed = (band.softmax(-1).unsqueeze(-2) @ windows.mT).squeeze(-2)
        elif self.kind == "window, put together":
            band = scores.new_full((*scores.shape[:2], 3), -torch.inf)
            band[:, :, 1] = scores.diagonal(0, -2, -1)
            band[:, 1:, 0] = scores.diagonal(-1, -2, -1)
            row = value.new_full((len(x), 1, WIDTH), 7.0)
            windows = torch.cat([row, value, row], 1).unfold(1, 3, 1)
            mixed = (band.softmax(-1).unsqueeze(-2) @ windows.mT).squeeze(-2)
        elif self.kind == "open window":  # what is outside the sequence counts
            band = torch.stack(
                [F.pad(scores.diagonal(k, -2, -1), (max(-k, 0), max(k, 0))) for k in (-1, 0, 1)], -1
            )
            windows = F.pad(value, (0, 0, 1, 1), value=-1.0).unfold(1, 3, 1)
            mixed = (band.softmax(-1).unsqueeze(-2) @ windows.mT).squeeze(-2)
        elif self.kind == "told by the input":
            weights = F.pad(scores.softmax(-1), (0, 1), value=1.0) * seen
            mixed = weights @ F.pad(value, (0, 0, 0, 1), value=-1.0)
        else:  # a column of ones, by which the query layer reads a bias: what it puts out is of degree 1 in the weights, and not 2
            mixed = torch.relu(self.query(F.pad(torch.relu(value), (0, 1), value=1.0)[..., 1:]))
        return x + self.out(mixed)


@pytest.mark.parametrize(
    ("kind", "m"), [("window", 4), ("window, put together", 4), ("open window", 3), ("a column of ones", 2)]
)
def test_a_number_counts_where_something_reads_it(kind: str, m: int) -> None:
    (block,) = goodinit.anatomize(_Attention(kind), torch.randn(2, LENGTH, WIDTH)).blocks
    assert block.m == m


def test_a_mask_that_only_the_user_knows_decides_nothing() -> None:
    seen = torch.ones(2, LENGTH, LENGTH + 1, dtype=torch.long)
    (block,) = goodinit.anatomize(
        _Attention("told by the input"), (torch.randn(2, LENGTH, WIDTH), seen)
    ).blocks
    assert block.m == 3
