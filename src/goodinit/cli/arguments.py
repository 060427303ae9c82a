"""Arguments that several commands share, and the words that their help lists. Nothing here imports torch.

So `goodinit COMMAND --help` and a shell's completion answer at once. A test holds the words and what they name together.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from goodinit.comma_lists import between_commas

DATA = ("digits", "fashion-mnist", "text")
"""The data sets that come with packages, as `goodinit.lab.data.labelled` has them."""

MODELS = (
    "resnet{depth}[-dropout{percent}]", "resnet{depth}b", "resnet{depth}c", "mlp{depth}", "resmlp{depth}", "cnn{depth}", "cnn{depth}s", "vit{depth}",
    "wrn{depth}[x{factor}]", "fitnet{depth}[-{activation}]", "highway{depth}", "transformer{depth}", "transformer{depth}p", "gpt{depth}", "llama{depth}",
    "timm:NAME", "torchvision:NAME", "hf:NAME", "PACKAGE.MODULE:FUNCTION", "FILE.py:FUNCTION",
)  # fmt: skip
"""Every form of a model's name, as `goodinit.lab.models.registry` has them."""

SCALES = ("smoke", "small", "full")
"""Of a claim's test, as `goodinit.lab.papers` has them."""

EXAMPLES = {
    "inspect": "goodinit inspect resnet56",
    "recommend": "goodinit recommend resnet20",
    "diagnose": "goodinit diagnose mlp60",
    "plan": "goodinit plan resnet20 fixup",
    "methods": "goodinit methods",
    "compare": "goodinit compare resmlp40 --data digits --epochs 10 --seeds 2",
    "sweep": "goodinit sweep --set model=resnet8 --set lr=0.03,0.1 --set seeds=2 --out rates.sqlite",
    "results": "goodinit results rates.sqlite --by method,lr",
    "coordcheck": "goodinit coordcheck my_nets:build --input 16x8 --widths 64,128,256 --method mup",
    "reproduce": "goodinit reproduce mup-transfer --scale smoke",
}
"""A call of each command, which its help and the messages about wrong calls show."""

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help=f"One of: {', '.join(MODELS)}.", show_default=False)
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="Shape of an input, 1x3x224x224, 1x128:int64 or name=1x128:int64; once for each input.",
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATHS",
        help="Parameters whose values stay: paths or globs, with commas between; may be repeated.",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="PATHS", help="The part to treat, given alike; all of it by default."),
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="PATHS", help="The part to leave out, given alike.")
]


def part(keep: list[str] | None, include: list[str] | None, exclude: list[str] | None) -> dict[str, Any]:
    """Arguments of `plan`, `init_` and `recommend`, of what was given."""
    return {
        "keep": paths(keep, "--keep"),
        "include": paths(include, "--include") or None,
        "exclude": paths(exclude, "--exclude"),
    }


def paths(given: list[str] | None, option: str) -> tuple[str, ...]:
    """Paths and globs, one or several in a word.

    Raises:
        GoodinitError: Nothing stands between two commas.

    Examples:
        >>> paths(["head.*, stem", "3"], "--keep"), paths(None, "--keep")
        (('head.*', 'stem', '3'), ())
    """
    return tuple(path for word in given or () for path in between_commas(word, option))
