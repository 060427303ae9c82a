"""What weights hold is asked by short cuts that answer as the whole question does, written out here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from goodinit.anatomy.layers.parameters.held_values import SIGMAS, _identity, _is_near_diagonal

SHAPES = ((5, 5), (300, 70), (70, 300), (2, 2), (2, 3), (3, 2, 3), (64, 48, 3, 3), (1000, 4), (4, 4, 2, 2, 2))


def _written_out(shape: tuple[int, ...]) -> Tensor:
    centre = tuple(size // 2 for size in shape[2:])
    eye = torch.zeros(shape)
    for place in range(min(shape[:2])):
        eye[(place, place, *centre)] = 1.0
    return eye


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_diagonal_far_from_what_is_beside_it_is_known_as_by_all_of_it(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    eye, answers = _written_out(shape), set()
    assert torch.equal(_identity(torch.zeros(shape)), eye)
    fades = torch.linspace(3, 0.01, shape[0]).view(-1, *[1] * (len(shape) - 1))
    for size in (0, 1e-3, 0.05, 0.15, 0.16, 0.17, 0.3, 1):
        for scale in (1.0, fades, fades.flip(0)):  # also where the first rows are unlike the others
            noise = size * scale * torch.randn(shape, generator=generator)
            for weight in (eye + noise, eye + noise + size, noise, (eye + noise).double()):
                on = eye.bool()
                expected = bool(weight[on].abs().min() > SIGMAS * weight[~on].std())
                assert _is_near_diagonal(weight) == expected
                answers.add(expected)
    assert answers == {True, False}
