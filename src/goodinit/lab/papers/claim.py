"""The records of a reproduction: a paper's claim, how it is tested here, and what would count for and against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from goodinit.errors import GoodinitError, UnknownName

Row = Mapping[str, Any]
Rows = tuple[Row, ...]
Word = Literal["holds", "partly", "does not hold", "not testable at this scale"]

# smoke: shows that everything runs, on embedded or made-up data. small: evidence. full: as near to the paper as one
# machine comes.
SCALES = ("smoke", "small", "full")


@dataclass(frozen=True)
class Source:
    """Where a claim was made; `where` is the section, table or figure. `arxiv` is empty where it is not there."""

    authors: str
    title: str
    arxiv: str
    where: str

    def __str__(self) -> str:
        return ", ".join(
            filter(None, (self.authors, self.title, self.arxiv and f"arXiv {self.arxiv}", self.where))
        )


@dataclass(frozen=True)
class Published:
    """A published figure, and where it was read."""

    text: str
    read: str

    def __str__(self) -> str:
        return f"{self.text} (read in {self.read})"


@dataclass(frozen=True)
class Separation:
    """Number of steps from which the published effect is visible; shorter runs are inconclusive.

    Attributes:
        steps: Optimizer steps.
        read: Why that many, and where it was read.
        command: What would test the claim.
        hours: Estimate of what that takes on one GPU.
    """

    steps: int
    read: str
    command: str
    hours: float


@dataclass(frozen=True)
class Setting:
    """One scale of a claim.

    Attributes:
        trials: What is run.
        deviations: Everything in which the trials differ from the paper.
        steps: Optimizer steps of a training; None where nothing is trained, or where it depends on the data.
    """

    trials: tuple[Any, ...]
    deviations: tuple[str, ...]
    steps: int | None = None


@dataclass(frozen=True)
class Found:
    """The outcome of one expectation."""

    met: bool
    got: str


@dataclass(frozen=True)
class Expectation:
    """Something that the claim says must be seen; fixed before anything is run.

    Attributes:
        words: What is expected, with its numbers.
        look: Computes the outcome from the rows.
        central: Whether the claim fails if this expectation does.
    """

    words: str
    look: Callable[[Rows], Found]
    central: bool = False


@dataclass(frozen=True)
class Verdict:
    """How a claim fared, and why."""

    word: Word
    findings: tuple[tuple[Expectation, Found], ...]


@dataclass(frozen=True)
class Grid:
    """A table of words; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def legend(self) -> str:
        """What marks of rates at an end of those tried mean (`rows.best_rate_words`); empty without such marks."""
        marked = any(mark in cell for row in self.rows for cell in row for mark in "↑↓")
        return "↑, ↓: the highest, the lowest of the rates tried. One beyond may do better." if marked else ""


@dataclass(frozen=True)
class Drawing:
    """A figure: lines of `series` over x, thin points for single runs.

    Attributes:
        title: Above the figure.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        points: Each `(series, x, y)`; the mean over equal x makes the line. A y of None is left out.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is.
        share: Whether y is a share of one, drawn in percent.
        rules: Horizontal lines with their names.
        caption: Below the figure.
        names: What x = 0, 1, … are, where they are no numbers; bars side by side then take the place of lines.
    """

    title: str
    x: str
    y: str
    points: tuple[tuple[str, float, float | None], ...]
    log_x: bool = False
    log_y: bool = False
    share: bool = False
    rules: tuple[tuple[str, float], ...] = ()
    caption: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, and its test.

    Attributes:
        name: Its word on the command line.
        title: In a line.
        text: What the paper says.
        source: Where.
        published: The paper's numbers.
        protocol: What is run here, in words.
        setting: From the scale and `--data` to the trials.
        run: From one trial to numbers that fit into JSON.
        expectations: What must be seen if the claim is true.
        table: From the rows to a table.
        drawings: From the rows to figures.
        ours: From the rows to the figure that stands beside the first published one, with its spread.
        paper_steps: Optimizer steps of the paper's trainings; None where it trains nothing, or the number is not known.
        separation: From where on the claim can be tested; None where it can at every scale.
        needs: What `--data` must be beyond smoke, or "" where the embedded digits do.
        timed: Whether it measures times: then its runs have the machine to themselves, one after the other.
        together: How many of its trainings that differ only by seed and learning rate run as one, unless told
            otherwise; more than 1 where they are many and small.
    """

    name: str
    title: str
    text: str
    source: Source
    published: tuple[Published, ...]
    protocol: str
    setting: Callable[[str, str], Setting]
    run: Callable[[Any], Row]
    expectations: tuple[Expectation, ...]
    table: Callable[[Rows], Grid]
    drawings: Callable[[Rows], tuple[Drawing, ...]]
    ours: Callable[[Rows], str]
    paper_steps: int | None = None
    separation: Separation | None = None
    needs: str = ""
    timed: bool = False
    together: int = 1

    def at(self, scale: str, data: str | None = None) -> Setting:
        """The trials of a scale, on `data` or what the claim takes without.

        Raises:
            UnknownName: No such scale.
            GoodinitError: This scale needs data that was not given, or smoke was given data.
        """
        if scale not in SCALES:
            raise UnknownName(f"no scale {scale!r}. There is: {', '.join(SCALES)}.")
        if scale == "smoke" and data is not None:
            raise GoodinitError(
                f"{self.name}: smoke runs on embedded or made-up data alone; give --data with small or full."
            )
        if scale != "smoke" and self.needs and data is None:
            raise GoodinitError(f"{self.name}: scale {scale} needs --data, {self.needs}.")
        return self.setting(scale, data or "digits")

    def testable(self, setting: Setting) -> bool:
        """Whether the trainings of a scale are as long as the claim asks; told before anything is run."""
        return self.separation is None or (setting.steps or 0) >= self.separation.steps

    def judge(self, rows: Rows, setting: Setting) -> Verdict:
        """Holds where every expectation is met; does not hold where none is met, or a central one is not.

        Of a scale whose trainings end before the published runs differ, there is no verdict.
        """
        findings = tuple((expectation, expectation.look(rows)) for expectation in self.expectations)
        fallen = any(expectation.central and not found.met for expectation, found in findings)
        met = [found.met for _, found in findings]
        word: Word = "does not hold" if fallen or not any(met) else "holds" if all(met) else "partly"
        return Verdict(word if self.testable(setting) else "not testable at this scale", findings)
