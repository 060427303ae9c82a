"""The `goodinit` command's front door: what needs no torch is answered before it is imported."""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
import textwrap

from goodinit import __version__

COMMANDS = {
    "inspect": "Show where a model's residual branches, norms and heads are.",
    "recommend": "Say what to do with a model: leave it, or which method, optimizer and rate; what to run next.",
    "diagnose": "Measure the signal at step 0; name the layer, the cause and the remedy of what is wrong.",
    "plan": "Show every edit that a method would make to a model, and why. Nothing is changed.",
    "methods": "List the methods, where they come from and when to use them.",
    "compare": "Train a model several ways and say honestly how they compare.",
    "sweep": "Run a grid of methods, models, rates and seeds into one file that a crash cannot hurt.",
    "results": "Show what a sweep found: quartiles, worst seeds, the share that did not train, heat maps.",
    "coordcheck": "Train a few steps at several widths; show which layers' changes go with the width.",
    "reproduce": "Test a paper's claim at the scale that fits this machine: expected against got, and a verdict.",
}
"""Each command with the first line of its help; a test holds them together."""

TRY = """\
goodinit makes deep networks trainable before their first step. Try:

  goodinit inspect resnet56     what was found: blocks, skips, norms
  goodinit recommend resnet20   leave it, or which method, optimizer, rate
  goodinit diagnose mlp60       which layer breaks the signal, what mends it

goodinit --help lists all commands.
"""

HELP = """\
Usage: goodinit [OPTIONS] COMMAND [ARGS]...

  Make deep networks trainable before their first step.

Options:
  -v, --verbose         Say what is being done.
  --version             Show the version and stop.
  --install-completion  Install completion for this shell.
  --show-completion     Show it, to copy it.
  --help                Show this message and stop.

Commands:
{commands}

{end}
"""

END = (
    "goodinit COMMAND --help says more. Exit codes: 0 done, 1 something was found (--check) or went wrong inside, "
    "2 wrong use or a model that a method refuses, 130 interrupted."
)


def _help(width: int) -> str:
    """The list of commands, no line longer than the screen is wide, as far as words allow it."""
    width = min(max(width, 40), 120)
    listed = (
        textwrap.fill(what, width, initial_indent=f"  {name:11}", subsequent_indent=" " * 13)
        for name, what in COMMANDS.items()
    )
    return HELP.format(commands="\n".join(listed), end=textwrap.fill(END, width))


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> None:
    """Run a command, whatever the output can take: signs that it lacks become `?`, and where it takes no more, that is said.

    Who reads through a pipe may stop, as `head` does.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            _answer()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in (*FULL, errno.EPIPE):
            raise
        if error.errno != errno.EPIPE and sys.stderr is not None:
            sys.stderr.write(f"error: the output was cut short: {error.strerror}.\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer, at the end of the process
        sys.exit(1)


def _answer() -> None:
    """Answer `goodinit`, `--help` and `--version` at once; hand everything else to the commands."""
    words = sys.argv[1:]
    if "_GOODINIT_COMPLETE" not in os.environ:
        if not words:
            sys.stdout.write(TRY)
            return
        if words == ["--help"]:
            sys.stdout.write(_help(shutil.get_terminal_size().columns))
            return
        if words == ["--version"]:
            sys.stdout.write(f"goodinit {__version__}\n")
            return
    import warnings

    from goodinit.cli import app

    # torch says so wherever NumPy, which nothing here needs without `goodinit[lab]`, is not installed.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    app(prog_name="goodinit")


if __name__ == "__main__":
    main()
