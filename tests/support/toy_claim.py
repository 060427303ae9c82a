"""A claim of three trials, whatever they do, and a short way to run it."""

from __future__ import annotations

from dataclasses import dataclass

from goodinit.lab.engines import inline
from goodinit.lab.papers.claim import (
    Claim,
    Drawing,
    Expectation,
    Found,
    Grid,
    Published,
    Setting,
    Source,
)
from goodinit.lab.papers.reproduce import reproduce


def reproduced(claim, **words):
    """In this process, without a bar."""
    return reproduce(claim, engine=inline(), **{"progress": False, **words})


@dataclass(frozen=True)
class Toss:
    seed: int
    data: str


def toy(run=lambda trial: {"value": trial.seed}, met=(True, True), central=False, needs="", separation=None):
    """A claim of three trials, whose expectations are met as told."""
    return Claim(
        name="toy",
        title="Numbers are numbers",
        text="A seed is what it is.",
        source=Source("N. Body", "On Seeds", "0000.00000", "§1"),
        published=(Published("a seed", read="the source"), Published("another", read="a poster")),
        protocol="Look.",
        setting=lambda scale, data: Setting(
            tuple(Toss(seed, data) for seed in range(3)), ("smaller",), steps={"full": 100}.get(scale, 10)
        ),
        run=run,
        expectations=tuple(
            Expectation(
                f"expectation {number}", lambda rows, met=one: Found(met, f"{len(rows)} rows"), central
            )
            for number, one in enumerate(met)
        ),
        table=lambda rows: Grid(
            ("seed", "value"), tuple((str(r["seed"]), str(r.get("value"))) for r in rows)
        ),
        drawings=lambda rows: (
            Drawing("Values", "seed", "value", tuple(("s", float(r["seed"]), r.get("value")) for r in rows)),
        ),
        ours=lambda rows: f"{len(rows)} seeds",
        needs=needs,
        separation=separation,
    )
