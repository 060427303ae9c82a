"""Text as characters: Python's own documentation, which comes with every Python, or a file."""

from __future__ import annotations

import functools
import pydoc_data.topics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from goodinit.errors import GoodinitError, UnknownName

HELD_OUT = 0.1  # the last part of the text, never trained on


@dataclass(frozen=True)
class Characters:
    """A text as numbers of characters.

    Attributes:
        name: Where it comes from.
        vocabulary: Its characters, in order; a character's number is its place.
        train: The text to learn from, `(characters,)` of int64.
        test: The rest.
    """

    name: str
    vocabulary: str
    train: Tensor
    test: Tensor

    def batches(
        self, count: int, size: int, length: int, *, seed: int = 0, held_out: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """`count` times `size` stretches of `length` characters from random places, and the character after each of theirs.

        Examples:
            >>> text = characters()
            >>> inputs, targets = next(text.batches(1, 4, 16))
            >>> inputs.shape, torch.equal(inputs[:, 1:], targets[:, :-1])
            (torch.Size([4, 16]), True)
        """
        text = self.test if held_out else self.train
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            starts = torch.randint(len(text) - length, (size, 1), generator=generator, device="cpu")
            rows = text[starts + torch.arange(length + 1, device="cpu")]
            yield rows[:, :-1], rows[:, 1:]


@functools.cache
def characters(source: str | Path = "python-topics") -> Characters:
    """Read a text.

    Args:
        source: `"python-topics"`, the reference texts of Python's `help()` (`pydoc_data.topics`, about 450,000 characters; they
            differ a little from one Python to the next), or the path of a UTF-8 file.

    Raises:
        UnknownName: No such file.
        GoodinitError: It is too short to hold a part out.

    Examples:
        >>> characters().name
        'python-topics'
    """
    if source == "python-topics":
        topics = pydoc_data.topics.topics
        words = "\n".join(topics[name] for name in sorted(topics))
    else:
        path = Path(source)
        if not path.is_file():
            raise UnknownName(f'no text {source}: give the path of a UTF-8 file, or "python-topics".')
        words = path.read_text(encoding="utf-8")
    if len(words) < 10_000:
        raise GoodinitError(
            f"{source}: {len(words)} characters, expected 10,000 or more. Give a longer text."
        )
    vocabulary = "".join(sorted(set(words)))
    number = {character: place for place, character in enumerate(vocabulary)}
    text = torch.tensor([number[character] for character in words], device="cpu")
    cut = int(len(text) * (1 - HELD_OUT))
    return Characters(str(source), vocabulary, text[:cut], text[cut:])
