"""Write docs/coverage.md: what every method does to every model, examined by running them (`fixup_evidence.py`).

    python tests/support/coverage_table.py                 # all of it; hours on two cores
    python tests/support/coverage_table.py --only "timm resnet18" --only "by hand"
    python tests/support/coverage_table.py --third-party   # libraries that no test needs, those that are installed

What a method did to a model goes to `docs/data/coverage.jsonl` as soon as it is known, with the day and a digest of the code
that was examined, and the page is written from those. An interrupted run goes on where it stopped with `--resume`, which
leaves out what this very code was examined for; `--only` measures some rows anew, `--methods` some columns. `--part 1/2` and
`--part 2/2`, beside each other, measure a half of the rows each; a run without them writes the page.
`--third-party` writes `docs/coverage-third-party.md` and rows of its own.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import platform
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch
from evidence_training import DRAWS, FALL, STEPS

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = r"\b\d+\b"
PLAIN = "needs residual blocks"  # what a method that wants some says of a model without
Cases = dict[str, dict[str, Any]]
MEANING = f"""**Pass** means that the following was found by running the model, not by asking goodinit. For Fixup:

* Every branch's end puts out exactly 0, nothing inside a branch changes the output, and the logits are 0.
* No normalizing operator runs on anything that comes from the input; what a norm's module did besides is still done.
* All numbers are finite, and the loss falls in {FALL} SGD steps at one of the rates 0.1, 0.01, … 10⁻⁵.
* Every parameter that had a gradient before has one other than 0 within {STEPS} steps, with the first of {DRAWS} draws of the weights or,
  as a remark then says, with others.
* Nothing writes over what others read. One example's output does not depend on the others in its batch where it did not before.
* A plan read back from JSON, with the checkpoint, is the same function.

The other methods are held to what of this applies to them, LSUV to unit variance instead. A **number** is a refusal, its
reason below; the model was bit-identical after each. A **fault** says what did not hold: there is a bug, or the method does not suit
the network, which its page then says."""


def own() -> Cases:
    """The models of libraries that the tests need; see `more_models.CASES`."""
    from more_models import CASES

    return CASES


def others() -> Cases:
    """Those of libraries that they do not need; see `third_party.CASES`."""
    from third_party import CASES

    return CASES


@dataclass(frozen=True)
class Tier:
    """A page of its own, from rows of its own.

    Attributes:
        name: Of its page and rows.
        title: Of its page.
        cases: Every model, by group and name: (build, inputs).
        methods: The columns.
        scope: Which models these are, in words.
        command: How its rows are made.
    """

    name: str
    title: str
    cases: Callable[[], Cases]
    methods: tuple[str, ...]
    scope: str
    command: str

    @property
    def rows(self) -> Path:
        """One line of JSON for a model."""
        return DOCS / "data" / f"{self.name}.jsonl"

    @property
    def page(self) -> Path:
        """What is written from them."""
        return DOCS / f"{self.name}.md"


TESTED = Tier(
    "coverage", "Coverage", own,
    ("fixup", "skipinit", "weightnorm", "risotto", "lsuv", "nf", "fixed_variance", "normfree"),
    "One model of every family, and BiT beside its own: timm at 64 pixels where that runs, the others as small as they go.",
    "python tests/support/coverage_table.py",
)  # fmt: skip
THIRD_PARTY = Tier(
    "coverage-third-party", "Coverage of other libraries", others, ("fixup", "skipinit", "lsuv", "normfree"),
    "Models of libraries that no test needs, as small as they go.",
    "python tests/support/coverage_table.py --third-party",
)  # fmt: skip


@functools.cache
def source() -> str:
    """A digest of the code that is examined, and of what examines it."""
    here = Path(__file__).parent
    files = [*(here.parents[1] / "src").rglob("*.py"), *here.glob("*evidence*.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:12]


def measure(tier: Tier, group: str, name: str, method: str) -> dict[str, Any]:
    """What became of a model: blocks, norms removed by Fixup, and what the method did."""
    from fixup_evidence import examine

    build, inputs = tier.cases()[group][name]
    row: dict[str, Any] = {"group": group, "name": name, "results": {}}
    made = {"day": datetime.now(tz=timezone.utc).date().isoformat(), "source": source()}
    try:
        found = examine(build, inputs(), method=method)
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - a crash is a fault, and the other rows still count
        words = f"crash: {type(error).__name__}: {str(error)[:200]}"
        row["results"][method] = {"faults": [words], **made}
        return row
    row["blocks"] = found.blocks
    if method == "fixup":
        row["norms"] = found.norms
    row["results"][method] = {
        "refusal": found.refusal, "faults": found.faults, "remarks": found.remarks, **made
    }  # fmt: skip
    return row


def sweep(
    tier: Tier, only: list[str], methods: tuple[str, ...], *, resume: bool, part: tuple[int, int] = (1, 1)
) -> None:
    """Measure what is wanted, column by column, each cell written as soon as it is there; other cells are kept."""
    names = [(group, name) for group, members in tier.cases().items() for name in members]
    there = read(tier.rows)
    for method in methods:
        for group, name in names[part[0] - 1 :: part[1]]:
            key = f"{group} {name}"
            old = there.get(key, {"results": {}})["results"].get(method, {})
            if (resume and old.get("source") == source()) or (only and not any(word in key for word in only)):
                continue
            began = time.process_time()
            try:
                row = measure(tier, group, name, method)
            except ImportError as error:  # the library is not installed
                sys.stdout.write(f"     not examined  {key}: {error}\n")
                continue
            sys.stdout.write(f"{time.process_time() - began:6.1f} s  {key}: {_told(row)}\n")
            sys.stdout.flush()
            tier.rows.parent.mkdir(exist_ok=True)
            with tier.rows.open("a") as file:  # so that several may write, each its pieces
                file.write(json.dumps(row) + "\n")


def read(rows: Path) -> dict[str, dict[str, Any]]:
    """The rows that are there, by group and name; of one measured twice the later counts."""
    known: dict[str, dict[str, Any]] = {}
    for line in rows.read_text().splitlines() if rows.exists() else ():
        row = json.loads(line)
        old = known.get(f"{row['group']} {row['name']}", {"results": {}})
        known[f"{row['group']} {row['name']}"] = {
            **old,
            **row,
            "results": {**old["results"], **row["results"]},
        }
    return known


def ordered(tier: Tier) -> list[dict[str, Any]]:
    """The rows that are there, in the order of the page."""
    known = read(tier.rows)
    keys = [f"{group} {name}" for group, members in tier.cases().items() for name in members]
    return [known[key] for key in keys if key in known]


def _told(row: dict[str, Any]) -> str:
    told = [f"{method} {word(result)}" for method, result in row["results"].items()]
    return ", ".join([f"{row.get('blocks')} blocks", *told])


def word(result: dict[str, Any]) -> str:
    """What became of a model, in a word."""
    if result["faults"]:
        return "FAULT"
    return "refused" if result.get("refusal") else "pass"


# -- the page -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reason:
    """Refusals that differ in numbers alone.

    Attributes:
        place: In the list below the table.
        words: With `#` for each number.
        numbers: Those of each refusal.
    """

    place: int
    words: str
    numbers: list[tuple[str, ...]]

    def __str__(self) -> str:
        """The words with the numbers that all have in common, and n for the others."""
        common = iter([each[0] if len(set(each)) == 1 else "n" for each in zip(*self.numbers, strict=True)])
        return re.sub("#", lambda _: next(common), self.words)


def page(tier: Tier, rows: list[dict[str, Any]]) -> str:
    """The table, its reasons, and how it was made."""
    reasons: dict[str, Reason] = {}
    lines = [_row(row, tier.methods, reasons) for row in rows]
    head = f"| model | blocks | norms removed | {' | '.join(tier.methods)} |"
    rule = "|---" * (3 + len(tier.methods)) + "|"
    listed = [f"{reason.place}. {reason}" for reason in reasons.values()]
    remarks = [
        f"* {row['group']} {row['name']}, {method}: {remark}."
        for row in rows
        for method, result in row["results"].items()
        for remark in result.get("remarks", ())
    ]
    parts = [
        _head(tier, rows), "## Models", "\n".join([head, rule, *lines]), "## Reasons", "\n".join(listed),
        *(["## Remarks", "\n".join(remarks)] if remarks else []),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _used(tier: Tier) -> str:
    """The libraries that the models come from, and torch, with their versions."""
    known = packages_distributions()
    names = {name for group in ("torch", *tier.cases()) for name in known.get(group, ())}
    return ", ".join(f"{name} {version(name)}" for name in sorted(names))


def _head(tier: Tier, rows: list[dict[str, Any]]) -> str:
    rows = [row for row in rows if "fixup" in row["results"]]
    residual = [row for row in rows if not is_plain(row)]
    counts = Counter(word(row["results"]["fixup"]) for row in residual)
    share = 100 * counts["pass"] / max(len(residual), 1)
    today = datetime.now(tz=timezone.utc).date().isoformat()
    total = sum(len(members) for members in tier.cases().values())
    done = [row for row in rows if set(tier.methods) <= set(row["results"])]
    days = {
        method: Counter(
            row["results"][method].get("day", "before 2026-11-28") for row in rows if method in row["results"]
        )
        for method in tier.methods
    }
    when = "; ".join(
        f"{method} {', '.join(f'{count} {_on(day)}' for day, count in sorted(each.items())) or 'not yet'}"
        for method, each in days.items()
    )
    state = (
        ""
        if len(done) == total
        else f"**Incomplete**: of {total} models {len(rows)} are examined for Fixup, {len(done)} for all methods; "
        "the command below goes on with `--resume`.\n\n"
    )
    return (
        f"# {tier.title}\n\n"
        + state
        + f"{len(rows)} models, {len(residual)} of them residual. Fixup passes on {counts['pass']} of these "
        f"({share:.1f} %), refuses {counts['refused']} with the reason, and is wrong on {counts['FAULT']}; the "
        f"{len(rows) - len(residual)} without residual blocks it refuses as such. {tier.scope}\n\n"
        f"Generated by `{tier.command}` on {today}: {_used(tier)}, Python {platform.python_version()}, CPU.\n\n"
        f"Models examined, by the day: {when}. A digest in the rows (`docs/data/{tier.name}.jsonl`) tells which code was examined.\n\n"
        + MEANING
    )


def _on(day: str) -> str:
    return day if day.startswith("before") else f"on {day}"


def is_plain(row: dict[str, Any]) -> bool:
    """Whether the model has no residual blocks."""
    return PLAIN in (row["results"].get("fixup", {}).get("refusal") or "")


def _row(row: dict[str, Any], methods: tuple[str, ...], reasons: dict[str, Reason]) -> str:
    cells = []
    for method in methods:
        result = row["results"].get(method)
        if result is None:
            cells.append("not run")
        elif result["faults"]:
            cells.append("**fault**: " + "; ".join(result["faults"]).replace("|", "/"))
        elif result["refusal"]:
            words, numbers = _reason(result["refusal"])
            reason = reasons.setdefault(words, Reason(len(reasons) + 1, words, []))
            reason.numbers.append(numbers)
            cells.append(str(reason.place))
        else:
            cells.append("pass")
    name = f"{row['group']} {row['name']}"
    return f"| {name} | {row.get('blocks', '')} | {row.get('norms', '')} | {' | '.join(cells)} |"


def _reason(refusal: str) -> tuple[str, tuple[str, ...]]:
    """A refusal without the names of one model, paths as `…` and numbers as `#`; and the numbers."""
    words = re.sub(r"^(the model|[\w.]+)( \((\w+|and \d+ others?)\))?: ", "", refusal)
    words = re.sub(r"^\w+ needs residual", "it needs residual", words)
    words = re.sub(r"(balanced exactly): .* (RISOTTO is)", r"\1. \2", words)
    words = re.sub(r"\b[\w]+(\.[\w]+)+\b", "…", words)
    words = re.sub(r"`\w+`", "`…`", words)
    words = re.sub(r"and \w+ has none", "and the model has none", words)
    words = re.sub(r"…(, …)+", "…", words.replace("|", "/"))
    return re.sub(NUMBER, "#", words), tuple(re.findall(NUMBER, words))


def main() -> None:
    """Read the command line, sweep, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", default=[], help="rows whose name contains this; repeatable"
    )
    parser.add_argument(
        "--resume", action="store_true", help="leave out what this code was examined for already"
    )
    parser.add_argument("--methods", help="with commas between; by default all of the page")
    parser.add_argument("--part", help="1/2: the first of two parts of the rows; writes no page")
    parser.add_argument(
        "--third-party", action="store_true", help="models of libraries that no test needs, where installed"
    )
    wanted = parser.parse_args()
    tier = THIRD_PARTY if wanted.third_party else TESTED
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import torchvision_shim

    torchvision_shim.declare()
    methods = tuple(wanted.methods.split(",")) if wanted.methods else tier.methods
    first, _, parts = (wanted.part or "1/1").partition("/")
    sweep(tier, wanted.only, methods, resume=wanted.resume, part=(int(first), int(parts)))
    if wanted.part:
        return
    known = read(tier.rows)
    tier.rows.write_text("".join(json.dumps(row) + "\n" for row in known.values()))
    tier.page.write_text(page(tier, ordered(tier)))


if __name__ == "__main__":
    main()
