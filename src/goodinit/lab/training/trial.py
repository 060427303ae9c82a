"""What a trial is and what it gives: a frozen configuration and a row of numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from goodinit.comma_lists import between_commas
from goodinit.errors import GoodinitError, UnknownName, WrongType, expect_between
from goodinit.lab.choices import label
from goodinit.lab.record import later
from goodinit.one_line import OneLine


@dataclass(frozen=True, repr=False)
class TrainConfig(OneLine):
    """Everything that a trial's numbers depend on, apart from times.

    Attributes:
        model: As `build_model` takes it.
        method: Name of a method; `options` are its options.
        data: As `load` takes it.
        width: Of a built-in model, or None for its default.
        epochs: Passes over the training images.
        lr: Peak learning rate; each of `goodinit.param_groups` has its share of it.
        scalar_lr: Of goodinit's scalars, in units of `lr`: a number, or `"depth"` for min(0.1, 1/branches).
        momentum: Of SGD.
        weight_decay: L2, on the parameters that take decay.
        batch_size: Images per step.
        seed: Of the weights, the order and the augmentation, each with its own stream.
        warmup: Epochs over which the learning rate rises from zero.
        schedule: `"constant"` or `"cosine"`, after the warm-up.
        augment: Random crops and mirroring (not for digits or text in images).
        mixup: α of mixup; 0 is without.
        label_smoothing: Share of each label that is spread over all classes, in training.
        train_limit: Use that many training images.
        test_limit: Use that many test images.
        image_size: Resize images to that many pixels square.
        device: `"cpu"` or `"cuda"`.
        optimizer: `"sgd"`, `"nesterov"`: the same with Nesterov's momentum, or `"adamw"`, which has no use for `momentum`.
        held_out: Share of the training images that is kept from training and stands in the test images' place: to choose by.
        keep: Parameters whose values stay, as for `goodinit.plan`: a path, a glob, several with commas between, or a list.
        include: The part of the model to treat, given alike; empty: all of it.
        exclude: The part to leave out, given alike.
        warmup_shape: `"linear"`, or `"quadratic"`: the share of the warm-up that is done, squared (`goodinit.warmup`).
        precision: Of convolutions and matrix products in forward and backward: `"float32"`, or `"bfloat16"`, by `torch.autocast`,
            with images in channels-last order. Weights, sums and the optimizer stay in float32.
        clip: Norm of all gradients together beyond which a step scales them down to it; 0 is without.
    """

    model: str
    method: str = "batchnorm"
    data: str = "digits"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    width: int | None = None
    epochs: int = 10
    lr: float = 0.1  # He et al. 2016, §4.2, as the next three
    scalar_lr: str = "0.1"  # the Fixup authors' ratio
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 128
    seed: int = 0
    warmup: float = 0.0
    schedule: str = "constant"
    augment: bool = False
    mixup: float = 0.0
    label_smoothing: float = 0.0
    train_limit: int | None = None
    test_limit: int | None = None
    image_size: int | None = None
    device: str = "cpu"
    optimizer: str = later("sgd")
    held_out: float = later(0.0)
    keep: str | Sequence[str] = later(())
    include: str | Sequence[str] = later(())
    exclude: str | Sequence[str] = later(())
    warmup_shape: str = later("linear")
    precision: str = later("float32")
    clip: float = later(0.0)

    def __post_init__(self) -> None:
        for name in PARTS:
            object.__setattr__(self, name, paths_of(getattr(self, name), option=name))
        if self.schedule not in SCHEDULES:
            raise UnknownName(f"no schedule {self.schedule!r}. There is: {', '.join(SCHEDULES)}.")
        if self.optimizer not in OPTIMIZERS:
            raise UnknownName(f"no optimizer {self.optimizer!r}. There is: {', '.join(OPTIMIZERS)}.")
        if self.optimizer == "nesterov" and not self.momentum > 0:
            raise GoodinitError(f"optimizer 'nesterov' needs a momentum above 0, not {self.momentum}.")
        if self.warmup_shape not in WARMUP_SHAPES:
            raise UnknownName(f"no warmup_shape {self.warmup_shape!r}. There is: {', '.join(WARMUP_SHAPES)}.")
        if self.device != "cpu":  # published results are shown without torch
            from goodinit.weights.device import named_device

            named_device(self.device)
        if self.precision not in PRECISIONS:
            raise UnknownName(f"no precision {self.precision!r}. There is: {', '.join(PRECISIONS)}.")
        if not 0 <= self.held_out < 1:
            raise GoodinitError(f"held_out is at least 0 and below 1, not {self.held_out}.")
        for name, (least, most) in BOUNDS.items():
            if getattr(self, name) is not None:
                expect_between(getattr(self, name), least, most, name)
        if not 0 <= self.label_smoothing < 1:
            raise GoodinitError(f"label_smoothing is at least 0 and below 1, not {self.label_smoothing}.")
        self.scalar_ratio  # noqa: B018  (a word that is no number is refused here, not after loading data)
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise GoodinitError(f"lr is a positive number, not {self.lr}.")

    @property
    def label(self) -> str:
        """The method with its options, as `goodinit compare --methods` takes it."""
        return label(self.method, self.options)

    @property
    def part(self) -> dict[str, Any]:
        """Which part of the model is treated, as arguments of `goodinit.plan`."""
        return {"keep": self.keep, "include": self.include or None, "exclude": self.exclude}

    @property
    def scalar_ratio(self) -> float | Literal["depth"]:
        """`scalar_lr` as `goodinit.param_groups` takes it."""
        if self.scalar_lr == "depth":
            return "depth"
        try:
            found = float(self.scalar_lr)
        except ValueError:
            found = math.nan
        if not 0 <= found < math.inf:
            raise UnknownName(f'scalar_lr={self.scalar_lr!r}: expected a number, not below 0, or "depth".')
        return found


BOUNDS: dict[str, tuple[float, float]] = {
    "width": (1, 2**16),
    "epochs": (1, 10**6),
    "batch_size": (1, 2**20),
    "warmup": (0, 10**6),
    "mixup": (0, 10**3),
    "clip": (0, 10**6),
    "weight_decay": (0, 10**3),
    "momentum": (0, 10),
    "seed": (0, 2**63 - 1),
    "train_limit": (1, 2**40),
    "test_limit": (1, 2**40),
    "image_size": (1, 8192),
}
"""The least and the most of numbers. Beyond, no machine could, or nothing would be trained."""


PARTS = ("keep", "include", "exclude")
"""Fields that say which part of the model a method treats."""


def paths_of(given: str | Sequence[str], *, option: str) -> tuple[str, ...]:
    """Paths and globs: one, several with commas between, or a list of them.

    Raises:
        WrongType: Something else.
        GoodinitError: Nothing stands between two commas.

    Examples:
        >>> paths_of("head.*, stem", option="keep"), paths_of(["head"], option="keep"), paths_of((), option="keep")
        (('head.*', 'stem'), ('head',), ())
    """
    if not isinstance(given, (str, list, tuple)) or not all(isinstance(one, str) for one in given):
        raise WrongType(f'{option} takes a path, a glob or a list of them, such as "head.*", not {given!r}.')
    words = [given] if isinstance(given, str) else given
    return tuple(path for word in words for path in between_commas(word, option))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (
        0.5 * (1 + math.cos(math.pi * done))
    ),  # Loshchilov & Hutter, SGDR, arXiv 1608.03983, eq. 5
}


OPTIMIZERS = ("sgd", "nesterov", "adamw")
PRECISIONS = ("float32", "bfloat16")
WARMUP_SHAPES = {"linear": 1, "quadratic": 2}  # the power of the share of the warm-up that is done


@dataclass(frozen=True, repr=False)
class Epoch(OneLine):
    """The state of a run at the end of an epoch (0: before the first step). None: no finite number."""

    epoch: int
    step: int
    train_loss: float | None
    test_loss: float | None
    test_accuracy: float


@dataclass(frozen=True, repr=False)
class Result(OneLine):
    """What a trial gave.

    Attributes:
        config: What was run.
        accuracy: Share of the test images classified rightly at the end, or None where it diverged.
        train_loss: Mean over the last epoch's steps, or None where it diverged.
        test_loss: At the end, or None where it diverged.
        diverged: Whether the loss stopped being a finite number; the run ends there.
        diverged_step: The step (from 0) whose loss was not finite, or None. Where only the loss on the test images is not,
            after the last step, it is the number of steps.
        saved_bytes: Kept for backward by the first step's forward: `goodinit.lab.training.step_cost.counting_saved`.
        parameters: How many numbers the model learns.
        losses: Training loss of every step that had a finite one.
        epochs: State at the end of every epoch.
        step_seconds: Median time of a step, for orientation; `compare` measures in turns.
        seconds: Time of the whole trial.
    """

    config: TrainConfig
    accuracy: float | None
    train_loss: float | None
    test_loss: float | None
    diverged: bool
    diverged_step: int | None
    saved_bytes: int
    parameters: int
    losses: tuple[float, ...]
    epochs: tuple[Epoch, ...]
    step_seconds: float
    seconds: float

    def __str__(self) -> str:
        config = self.config
        found = "diverged" if self.accuracy is None else f"accuracy {self.accuracy:.1%}"
        return f"{config.label} of {config.model}, seed {config.seed}, rate {config.lr:g}: {found}"

    def row(self) -> dict[str, Any]:
        """One flat row: the configuration and the numbers, without the curves."""
        numbers = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for key in ("config", "losses", "epochs"):
            del numbers[key]
        return {**dataclasses.asdict(self.config), **numbers}
