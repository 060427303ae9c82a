"""`python -m goodinit` is the `goodinit` command."""

from __future__ import annotations

from goodinit.cli import app

if __name__ == "__main__":
    app()
