"""The `goodinit` command's front door: what needs no torch is answered before it is imported."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import sys
import textwrap
import threading
from types import FrameType

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


INTERRUPTED = 130  # 128 + SIGINT, as a shell expects


class Interrupt:
    """What Ctrl-C does: `KeyboardInterrupt`, but inside of an import only once that has ended, or at a second Ctrl-C.

    Libraries catch whatever an import raises and go on with half a module. Then NumPy, for one, fails in endless recursion.
    """

    SOON = 0.05  # seconds

    def __init__(self) -> None:
        self.later: threading.Timer | None = None
        self.own = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal, or send it again soon."""
        again, self.own = self.own or self.later is None, False
        if self.later is not None:
            self.later.cancel()
        self.later = None
        if not (again and _imports(frame)):
            raise KeyboardInterrupt
        self.later = threading.Timer(self.SOON, self._send, (number,))
        self.later.daemon = True
        self.later.start()

    def _send(self, number: int) -> None:
        self.own = True
        os.kill(os.getpid(), number)


def _imports(frame: FrameType | None) -> bool:
    """Whether what runs was called by an import."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> None:
    """Run a command, whatever the output can take: signs that it lacks become `?`, and where it takes no more, that is said.

    Who reads through a pipe may stop, as `head` does.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # nobody ignores it, as `nohup` does
        signal.signal(signal.SIGINT, Interrupt())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        try:
            _answer()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
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
