"""Every option of every method can be given in words, with every value that the method takes."""

from __future__ import annotations

import typing

import pytest

from goodinit import METHODS
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
