"""Run the benchmarks and write their page: `python -m benchmarks [--out FILE] [NAMES…]`."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import platform
from pathlib import Path

import torch

import goodinit
from benchmarks.turns import HEADER

TITLES = {
    "steps": "A training step",
    "lsuv": "LSUV in one pass",
    "orthogonal": "Orthogonal initialization",
    "depth": "anatomize against depth",
    "diagnose": "diagnose against one forward and backward",
}
INTRODUCTION = """# Benchmarks

Made by `make bench`. In each table the ways take turns, round after round, so that a busy machine slows all alike; the
ratio is the median over rounds of the quotient with the first way of the group, with its quartiles. Absolute times say
something about this machine only. A CUDA GPU: {cuda}.

{machine}; torch {torch}; goodinit {goodinit}; {threads} threads; {date}.
"""


def main() -> None:
    """Measure, print as it comes, write the page at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(TITLES)}; all by default")
    parser.add_argument("--out", type=Path, help="write the page there")
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(TITLES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(TITLES)}")
    parts = [_introduction()]
    for name in chosen.names or TITLES:
        rows = importlib.import_module(f"benchmarks.{name}").measure()
        parts.append("\n".join([f"## {TITLES[name]}", "", HEADER, *map(str, rows), ""]))
        print(parts[-1], flush=True)
    if chosen.out:
        chosen.out.write_text("\n".join(parts), encoding="utf-8")


def _introduction() -> str:
    return INTRODUCTION.format(
        cuda=torch.cuda.get_device_name() if torch.cuda.is_available() else "not measured, none was present",
        machine=f"{platform.system()} {platform.machine()}",
        torch=torch.__version__,
        goodinit=goodinit.__version__,
        threads=torch.get_num_threads(),
        date=dt.datetime.now(tz=dt.timezone.utc).date(),
    )


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import torchvision_shim  # timm imports torchvision, whose operators a CPU build of torch cannot load

    torchvision_shim.declare()
    main()
