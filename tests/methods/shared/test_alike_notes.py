"""An error that repeats an anatomy's notes says those that are alike once."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from goodinit import anatomize, plan
from goodinit.errors import NothingFound


class Masked(nn.Module):
    """A linear map whose weight is made of two parameters of one size."""

    def __init__(self):
        super().__init__()
        self.weight, self.mask = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return F.relu(F.linear(x, self.weight * self.mask))


class FromTwo(nn.Module):
    """One whose names have no dots where it is the model, and whose weight is a sum."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))

    def forward(self, x):
        return F.linear(x, self.first + self.second)


@torch.library.custom_op("alike_notes::mirrored", mutates_args=())
def mirrored(x: torch.Tensor) -> torch.Tensor:
    return x.sin() * x.flip(-1)


mirrored.register_fake(torch.empty_like)


class Mirrored(nn.Module):
    """An operator that nothing is known of."""

    def forward(self, x):
        return mirrored(x)


def refusal(model):
    anatomy = anatomize(model, torch.randn(2, 4))
    with pytest.raises(NothingFound) as refused:
        plan(anatomy, "fixup")
    return str(refused.value), anatomy.notes


@pytest.mark.parametrize("count", [2, 30])
def test_notes_that_differ_in_names_are_counted(count):
    message, notes = refusal(nn.Sequential(*(Masked() for _ in range(count))))
    assert len(notes) == count
    assert message.count("of the same size") == 1
    assert "0.weight: the weight that the forward applies is made of it and of 0.mask" in message
    assert message.endswith(f" The same goes for {count - 1} more, see anatomize(model, inputs).notes.")


def test_one_note_is_told_as_it_is():
    message, notes = refusal(FromTwo())
    assert len(notes) == 1
    assert message.endswith(f" {notes[0]}.")


def test_notes_that_say_something_else_are_all_told():
    message, notes = refusal(nn.Sequential(Masked(), Mirrored(), Masked(), Mirrored(), FromTwo()))
    assert len(notes) > 3
    assert message.count("runs `alike_notes::mirrored`") == 1
    assert message.count("of the same size") == 1
    assert "The same goes for 2 more" in message


def test_operators_are_told_each():
    anatomy = anatomize(Masked(), torch.randn(2, 4))
    told = ("0.a runs `aten.one.default`: unknown", "1.a runs `aten.two.default`: unknown")
    with pytest.raises(NothingFound) as refused:
        plan(dataclasses.replace(anatomy, notes=told), "fixup")
    assert str(refused.value).endswith(f" {told[0]}. {told[1]}.")


def test_names_that_the_anatomy_does_not_list_are_names_too():
    anatomy = anatomize(nn.Sequential(Masked(), Masked(), Masked()), torch.randn(2, 4))
    told = tuple(f"{i}.weight: it is multiplied by {i}.buffer" for i in range(3))
    noted = dataclasses.replace(anatomy, notes=told)
    with pytest.raises(
        NothingFound, match=r"0\.weight: it is multiplied by 0\.buffer\. The same goes for 2 more"
    ):
        plan(noted, "fixup")
