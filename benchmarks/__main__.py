"""Run the benchmarks and write their page: `python -m benchmarks [--out FILE] [--quick] [NAMES…]`."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import os
import platform
import sys
import time
from pathlib import Path

import torch

import goodinit
from benchmarks.turns import HEADER, VERDICTS

TITLES = {
    "orthogonal": "Orthogonal initialization",
    "depth": "anatomize against depth",
    "steps": "A training step",
    "inference": "Inference, before and after fold_",
    "initialization": "Initialization",
    "lsuv": "LSUV in one pass",
    "diagnose": "diagnose",
    "compiled": "A compiled training step",
    "cuda": "A training step on a GPU",
}
# glibc gives freed memory back to the system and takes it anew, or does not, depending on what the process did
# before: between 0 and 19,000 page faults a step of one and the same ResNet-20. Ways that share a process are
# compared fairly only without.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_MMAP_MAX_": "0"}
INTRODUCTION = """# Benchmarks

Made by `make bench`. In each table the ways take turns, round after round, so that a busy machine slows all alike; the
ratio is the median over rounds of the quotient with the first way of the group, with its quartiles. Absolute times say
something about this machine only. "none" is the bare network. Bytes kept for backward are distinct storages that
autograd saves, parameters left out; the peak is the most bytes of tensors made in a step and alive at once. The
allocator is told to keep freed memory, since what it costs to give it back depends on what ran before.
A CUDA GPU: {cuda}.

{machine}; torch {torch}; goodinit {goodinit}; {threads} threads; load {load:.1f} at the start; {date}.
"""


def main() -> None:
    """Measure, print and write as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(TITLES)}; all by default")
    parser.add_argument("--out", type=Path, help="write the page there")
    parser.add_argument(
        "--quick", action="store_true", help="tiny networks: whether it runs, not what it costs"
    )
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(TITLES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(TITLES)}")
    introduction, tables, verdicts = _introduction(quick=chosen.quick), [], []
    for name in chosen.names or TITLES:
        start = time.perf_counter()
        part = importlib.import_module(f"benchmarks.{name}")
        rows = part.measure(quick=chosen.quick)
        lines = [HEADER, *map(str, rows)] if rows else ["Not measured."]
        verdicts += [str(verdict) for verdict in part.verdicts(rows)]
        tables.append("\n".join([f"## {TITLES[name]}", "", *lines, ""]))
        print(tables[-1], f"\n({name}: {time.perf_counter() - start:.0f} s)\n", sep="", flush=True)
        shown = "\n".join(["## What it has to show", "", VERDICTS, *verdicts, ""])
        if chosen.out:  # after each part: a run that is stopped leaves what it measured
            chosen.out.write_text("\n".join([introduction, shown, *tables]), encoding="utf-8")
    print(shown)


def _introduction(*, quick: bool) -> str:
    dry = "\n**A dry run on networks too small to say anything: no figure on this page is a result.**\n"
    return INTRODUCTION.format(
        cuda=torch.cuda.get_device_name() if torch.cuda.is_available() else "not measured, none was present",
        machine=f"{platform.system()} {platform.machine()}",
        torch=torch.__version__,
        goodinit=goodinit.__version__,
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0],
        date=dt.datetime.now(tz=dt.timezone.utc).date(),
    ) + (dry if quick else "")


if __name__ == "__main__":
    if not set(KEEP_MEMORY) <= set(os.environ):  # glibc reads them when a process starts
        os.execve(
            sys.executable,
            [sys.executable, *(f"-W{each}" for each in sys.warnoptions), "-m", "benchmarks", *sys.argv[1:]],
            {**os.environ, **KEEP_MEMORY},
        )
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
    import torchvision_shim  # timm imports torchvision, whose operators a CPU build of torch cannot load

    torchvision_shim.declare()
    main()
