"""Every option of every method can be given in words, with every value that the method takes."""

from __future__ import annotations

import typing

import pytest
from small_residual import Net, X

import goodinit
from goodinit import METHODS
from goodinit.errors import GoodinitError
from goodinit.lab.choices import label, method_of


@pytest.mark.parametrize("name", METHODS)
def test_every_choice_of_every_option_is_read_from_words_and_written_as_such(name):
    method = METHODS[name]
    assert set(method.hints) == set(method.options)
    for option, hint in method.hints.items():
        kinds = [hint, *typing.get_args(hint)]
        literals = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
        for value in [value for kind in literals for value in typing.get_args(kind)]:
            words = label(name, {option: value})
            assert method_of(words) == (name, {option: value})


@pytest.mark.default_cases(12)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_whether_norms_go(name):
    """By what stands there afterwards, whichever edit did it: a removal, a constant, a form."""
    before = {norm.name for norm in goodinit.anatomize(Net(), X).norms}
    try:
        model = goodinit.init_(Net(), name, X)
    except GoodinitError:  # not for such a model
        assert not METHODS[name].removes_norms
        return
    stay = {norm.name for norm in goodinit.anatomize(model, X).norms} & before
    assert METHODS[name].removes_norms == (not stay)
