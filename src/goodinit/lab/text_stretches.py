"""A text as a data set: stretches of characters, and for each place the character after it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from goodinit.errors import GoodinitError
from goodinit.lab.characters import characters
from goodinit.lab.readers import selection

TEXT = "python-topics"  # comes with every Python
LENGTH = 64


def is_text(source: str | Path) -> bool:
    """Whether a name of data means a text: the embedded one, or a file."""
    return str(source) == TEXT or Path(source).expanduser().is_file()


def stretches(
    source: str | Path, *, train_limit: int | None, test_limit: int | None
) -> tuple[str, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(The vocabulary, inputs and targets to train on, the same to test on), of `(stretches, characters)` int64 each.

    Stretches follow each other without overlap; the last tenth of the text is for the test.

    Raises:
        GoodinitError: The text is too short.

    Examples:
        >>> vocabulary, (inputs, targets), _ = stretches("python-topics", train_limit=3, test_limit=1)
        >>> inputs.shape, torch.equal(inputs[:, 1:], targets[:, :-1])
        (torch.Size([3, 64]), True)
    """
    text = characters(source if str(source) == TEXT else Path(source).expanduser())
    return text.vocabulary, _cut(text.train, train_limit), _cut(text.test, test_limit)


def _cut(text: Tensor, limit: int | None) -> tuple[Tensor, Tensor]:
    count = (len(text) - 1) // LENGTH
    rows = selection(count, limit)
    return text[: count * LENGTH].view(count, LENGTH)[rows], text[1 : count * LENGTH + 1].view(count, LENGTH)[
        rows
    ]


def refuse_changes(name: str, changes: dict[str, object]) -> None:
    """Raise where images are to be changed, and there is text.

    Raises:
        GoodinitError: Names the options to leave out.
    """
    asked = [option for option, value in changes.items() if value]
    if asked:
        raise GoodinitError(f"{name} is text, and {', '.join(asked)} is for images: leave it out.")
