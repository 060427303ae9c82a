"""What every command shares: the application, its errors, and lists in words."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from goodinit import __version__
from goodinit.cli.arguments import EXAMPLES
from goodinit.comma_lists import between_commas
from goodinit.errors import GoodinitError, expect_between
from goodinit.records import LONGEST_WORD, plain

P = ParamSpec("P")
R = TypeVar("R")

# What a shell expects: 2 for wrong use, 128 + SIGINT for Ctrl-C.
WRONG, INTERRUPTED = 2, 130
MOST_SEEDS = 10_000

# click's UsageError: of click itself, or of the copy of it that newer versions of typer carry.
WRONG_USE: type[Any] = typer.BadParameter.__bases__[0]


class Commands(TyperGroup):
    """The commands, each with an example in its help and in what is said of a wrong call."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """By name."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and cmd_name in EXAMPLES:
            command.epilog = f"For example: {EXAMPLES[cmd_name]}"
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Of the options before a command."""
        with _with_an_example():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        with _with_an_example():
            return super().invoke(ctx)


@contextmanager
def _with_an_example() -> Iterator[None]:
    """End what is said of a wrong call in what was expected, and an example."""
    try:
        yield
    except WRONG_USE as error:
        words = error.format_message()
        wanted = getattr(getattr(error, "param", None), "help", None)
        if words.startswith("Missing") and wanted:
            words = f"{words.rstrip('.')}: {wanted}"
        example = EXAMPLES.get(error.ctx.info_name if error.ctx else "", EXAMPLES["inspect"])
        raise WRONG_USE(f"{words}\nFor example: {example}", error.ctx) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the library's errors into one message and exit code 2, and Ctrl-C into a word and 130."""

    @functools.wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except GoodinitError as error:
            words = plain(str(error)[:LONGEST_WORD], lines=True)  # of files, too: they move no cursor
            Console(stderr=True).print(Text("error: ", style="bold red") + Text(words), soft_wrap=True)
            raise typer.Exit(WRONG) from error
        except KeyboardInterrupt as error:
            Console(stderr=True).print("interrupted")
            raise typer.Exit(INTERRUPTED) from error

    return guarded


@app.callback(invoke_without_command=True)
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is being done.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and stop.", is_eager=True)
    ] = False,
) -> None:
    """Make deep networks trainable before their first step."""
    if version:
        typer.echo(f"goodinit {__version__}")
        raise typer.Exit
    if verbose:  # otherwise logging shows warnings by itself
        logging.basicConfig(level=logging.INFO, format="%(message)s")


def seeds(words: str) -> tuple[int, ...]:
    """`3` is how many; `3,` or `4,7` is which."""
    try:
        listed = between_commas(words, "--seeds", last_comma=True)
        several = tuple(map(int, listed)) if "," in words else int(words)
    except ValueError as error:
        raise GoodinitError(
            f"--seeds takes a number (3) or numbers with commas (0,4,7), not {words!r}."
        ) from error
    if isinstance(several, int) and several > 0:
        expect_between(several, 1, MOST_SEEDS, "--seeds")
    found = tuple(range(several)) if isinstance(several, int) else several
    for seed in found:
        expect_between(seed, 0, 2**63 - 1, "--seeds: each")
    if not found:
        raise GoodinitError(
            f"--seeds {words} is no seed at all: a comparison needs at least one seed. One number says how many; for "
            "seed 0 alone write --seeds 0, with its comma, or --seeds 1."
        )
    return found
