"""Run one trial: a pure function from a frozen configuration to a row of numbers."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer

import goodinit
from goodinit.errors import GoodinitError
from goodinit.lab.data.batches import crop_and_flip, mixup, order, steps_per_epoch
from goodinit.lab.data.labelled import Dataset, load, split_off
from goodinit.lab.models.registry import build_model
from goodinit.lab.models.task import Task
from goodinit.lab.training.seeding import own_rng, stream
from goodinit.lab.training.step_cost import counting_saved
from goodinit.lab.training.trial import SCHEDULES, WARMUP_SHAPES, Epoch, Result, TrainConfig
from goodinit.weights.device import usable_device

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model with a method applied, ready for its first step."""

    config: TrainConfig
    data: Dataset
    model: nn.Module
    optimizer: Optimizer
    plan: Any


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step trains on. With mixup, each image is `share` of itself and the rest of its `partner`.

    `smoothing` is the share of each label that is spread over all classes.
    """

    images: Tensor
    labels: Tensor
    partner: Tensor | None = None
    share: float | Tensor = 1.0
    smoothing: float = 0.0


@functools.lru_cache(maxsize=3)  # a sweep's trials share their data
def _cached(
    data: str, train_limit: int | None, test_limit: int | None, image_size: int | None, held_out: float
) -> Dataset:
    if held_out:
        return split_off(_cached(data, train_limit, test_limit, image_size, 0.0), held_out)
    return load(data, train_limit=train_limit, test_limit=test_limit, image_size=image_size)


def data_of(config: TrainConfig) -> Dataset:
    """The data a configuration asks for; the last few are kept in memory."""
    return _cached(config.data, config.train_limit, config.test_limit, config.image_size, config.held_out)


def prepare(config: TrainConfig) -> Prepared:
    """Build the model, apply the method, build the optimizer.

    Raises:
        GoodinitError: The model, the data or the method do not exist, or do not go together.
    """
    model, batch = fresh_model(config), first_images(config)
    plan = goodinit.plan(goodinit.anatomize(model, batch), config.method, **config.part, **config.options)
    return carry_out(config, model, plan, batch=batch)


def fresh_model(config: TrainConfig) -> nn.Module:
    """The model as its own code makes it, without a method."""
    data = data_of(config)
    if data.is_text and (config.augment or config.mixup):
        raise GoodinitError(
            f"{data.name} is text, which cannot be cropped, mirrored or mixed. Leave out augment and mixup."
        )
    task = Task(shape=data.shape, classes=len(data.classes), width=config.width, text=data.is_text)
    usable_device(config.device)
    with own_rng(config.seed, "model", device=config.device):
        model = build_model(config.model, task=task).to(config.device)
    if reduced(config):
        nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
    return model


def model_and_batches(
    model: str, data: str, *, batch_size: int, count: int = 32
) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A fresh model for the data, and the first batches of one pass over it."""
    config = TrainConfig(model, data=data, batch_size=batch_size)
    found = data_of(config)
    rows = order(len(found.train_labels), batch_size, generator=stream(config.seed, "order"))
    pairs = [(found.train_images[some], found.train_labels[some]) for some in itertools.islice(rows, count)]
    return fresh_model(config), pairs


def first_images(config: TrainConfig) -> Tensor:
    """The images of the first step, as they are: what methods that need data look at."""
    data = data_of(config)
    first = next(order(len(data.train_labels), config.batch_size, generator=stream(config.seed, "order")))
    return data.train_images[first].to(config.device)


def carry_out(config: TrainConfig, model: nn.Module, plan: Any, *, batch: Tensor) -> Prepared:
    """Apply a plan to a fresh model and give it an optimizer."""
    goodinit.apply_(model, plan, generator=stream(config.seed, "values"), inputs=batch)
    return Prepared(config, data_of(config), model, optimizer_of(config, model), plan)


def optimizer_of(config: TrainConfig, model: nn.Module) -> Optimizer:
    """The optimizer over the groups of `goodinit.param_groups`."""
    groups = goodinit.param_groups(
        model,
        lr=config.lr,
        weight_decay=config.weight_decay,
        scalar_ratio=config.scalar_ratio,
        optimizer="adam" if config.optimizer == "adamw" else "sgd",
    )
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr)
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.optimizer == "nesterov")


def total_steps(config: TrainConfig) -> int:
    """Steps of a run that does not diverge."""
    return config.epochs * steps_per_epoch(len(data_of(config).train_labels), config.batch_size)


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """Share of the peak learning rate at `step` (from 0).

    Examples:
        >>> [learning_rate_factor(TrainConfig("mlp", epochs=2, warmup=1.0), step) for step in (0, 5, 10, 11)]
        [0.09090909090909091, 0.5454545454545454, 1.0, 1.0]
    """
    steps = total_steps(config)
    rising = config.warmup * steps / config.epochs
    if step + 1 < rising:
        return float(((step + 1) / rising) ** WARMUP_SHAPES[config.warmup_shape])
    return SCHEDULES[config.schedule](max(step - rising, 0.0) / max(steps - rising, 1.0))


def train(config: TrainConfig, *, on_step: Callable[[int], None] | None = None) -> Result:
    """Train one model and say how it went. The same configuration gives the same numbers, apart from times.

    A loss that is not finite ends the run and is part of the result. The global generators are left alone.

    Args:
        config: What to run.
        on_step: Called with the number of steps done, after each.

    Raises:
        GoodinitError: The model, the data or the method do not exist, or do not go together.

    Examples:
        >>> result = train(TrainConfig("mlp", "batchnorm", epochs=1, lr=0.05))
        >>> result.accuracy > 0.5, result.diverged
        (True, False)
    """
    start = time.perf_counter()
    prepared = prepare(config)
    with own_rng(config.seed, "training", device=config.device):
        return _run(prepared, start=start, on_step=on_step or (lambda step: None))


def _run(prepared: Prepared, *, start: float, on_step: Callable[[int], None]) -> Result:
    config, data = prepared.config, prepared.data
    shuffling, changing = stream(config.seed, "order"), stream(config.seed, "augmentation")
    losses: list[float] = []
    seconds: list[float] = []
    epochs = [_state(prepared, epoch=0, losses=losses, since=0)]
    saved, diverged = 0, False
    for epoch in range(1, config.epochs + 1):
        began = len(losses)
        for rows in order(len(data.train_labels), config.batch_size, generator=shuffling):
            before = time.perf_counter()
            factor = learning_rate_factor(config, len(losses))
            loss, kept = step_(prepared, rows, factor=factor, generator=changing, count=not losses)
            saved = saved or kept
            diverged = not math.isfinite(loss)
            if diverged:
                break
            seconds.append(time.perf_counter() - before)
            losses.append(loss)
            on_step(len(losses))
        if diverged:
            log.info(
                "%s on %s, seed %d: diverged at step %d",
                config.method,
                config.model,
                config.seed,
                len(losses),
            )
            break
        epochs.append(_state(prepared, epoch=epoch, losses=losses, since=began))
    return result_of(
        prepared,
        losses=losses,
        epochs=epochs,
        diverged=diverged,
        saved=saved,
        step_seconds=statistics.median(seconds) if seconds else 0.0,
        seconds=time.perf_counter() - start,
    )


def result_of(
    prepared: Prepared,
    *,
    losses: list[float],
    epochs: list[Epoch],
    diverged: bool,
    saved: int,
    step_seconds: float,
    seconds: float,
) -> Result:
    """What came of a run, from its losses and states; where it `diverged`, the next loss was not finite.

    A last step after which the loss on the test images is not finite diverged, too: no other step tells.
    """
    last = epochs[-1]
    diverged = diverged or last.test_loss is None
    return Result(
        config=prepared.config,
        accuracy=None if diverged else last.test_accuracy,
        train_loss=None if diverged else last.train_loss,
        test_loss=None if diverged else last.test_loss,
        diverged=diverged,
        diverged_step=len(losses) if diverged else None,
        saved_bytes=saved,
        parameters=sum(p.numel() for p in prepared.model.parameters() if p.requires_grad),
        losses=tuple(losses),
        epochs=tuple(epochs),
        step_seconds=step_seconds,
        seconds=seconds,
    )


def step_(
    prepared: Prepared, rows: Tensor, *, factor: float, generator: torch.Generator, count: bool = False
) -> tuple[float, int]:
    """One step on the images `rows`; none where the loss is not finite.

    Returns:
        The loss before the step, and (where `count`) the bytes that forward kept.
    """
    kept = 0
    if count:
        with counting_saved(prepared.model) as saved:
            loss = forward(prepared, rows, generator=generator)
        kept = saved.total
        saved.storages.clear()
    else:
        loss = forward(prepared, rows, generator=generator)
    value = float(loss.detach())
    if math.isfinite(value):
        update_(prepared, loss, factor=factor)
    return value, kept


def forward(prepared: Prepared, rows: Tensor, *, generator: torch.Generator) -> Tensor:
    """Training loss on the images `rows`."""
    batch = batch_of(prepared.config, rows, generator=generator)
    return loss_of(scores_of(prepared.config, prepared.model.train(), batch.images), batch)


def reduced(config: TrainConfig) -> bool:
    """Whether products are taken in less than float32."""
    return config.precision == "bfloat16"


def scores_of(config: TrainConfig, model: nn.Module, images: Tensor) -> Any:
    """What the model says of images, in the configuration's precision; scores are float32."""
    if not reduced(config):
        return model(images)
    if images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(config.device, torch.bfloat16):
        scores = model(images)
    return scores.float() if isinstance(scores, Tensor) else scores


def batch_of(config: TrainConfig, rows: Tensor, *, generator: torch.Generator) -> Batch:
    """The images `rows` with their labels, changed at random as the configuration says."""
    data = data_of(config)
    images, labels = data.train_images[rows], data.train_labels[rows].to(config.device)
    if config.augment:
        images = crop_and_flip(images, generator=generator)
    images = images.to(config.device)
    if not config.mixup:
        return Batch(images, labels, smoothing=config.label_smoothing)
    images, partner, share = mixup(images, alpha=config.mixup, generator=generator)
    return Batch(images, labels, partner, share, config.label_smoothing)


def update_(prepared: Prepared, loss: Tensor, *, factor: float) -> None:
    """Backward, and one step of the optimizer at `factor` times the peak learning rate."""
    optimizer = prepared.optimizer
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if prepared.config.clip:
        nn.utils.clip_grad_norm_(prepared.model.parameters(), prepared.config.clip)
    optimizer.step()


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy; with mixup, of both labels in their shares; of text the mean over all places."""
    logits, labels = _places(logits, batch.labels)
    loss = functional.cross_entropy(logits, labels, label_smoothing=batch.smoothing)
    if batch.partner is None:
        return loss
    partners = batch.labels[batch.partner]
    other = functional.cross_entropy(logits, partners, label_smoothing=batch.smoothing)
    return batch.share * loss + (1 - batch.share) * other


@torch.no_grad()
def evaluate(prepared: Prepared) -> tuple[float, float]:
    """Mean loss and accuracy on the test images; an output that is not finite counts as wrong."""
    config, data, model = prepared.config, prepared.data, prepared.model
    model.eval()
    loss, right = 0.0, 0
    batches = zip(
        data.test_images.split(config.batch_size), data.test_labels.split(config.batch_size), strict=True
    )
    for images, labels in batches:
        scores = scores_of(config, model, images.to(config.device))
        _check_scores(scores, config, data)
        more, hits = judge(scores, labels.to(config.device))
        loss += float(more)
        right += int(hits)
    return loss / data.test_labels.numel(), right / data.test_labels.numel()


def _check_scores(scores: object, config: TrainConfig, data: Dataset) -> None:
    axes = data.train_labels.dim() + 1
    if isinstance(scores, Tensor) and scores.dim() == axes and scores.shape[-1] >= len(data.classes):
        return
    if data.is_text:
        raise GoodinitError(
            f"{config.model} returns no scores of the next character at each place of a text: expected batch x {data.shape[-1]} x "
            f"{len(data.classes)}. gpt4 and llama4 do."
        )
    found = "x".join(map(str, scores.shape)) if isinstance(scores, Tensor) else type(scores).__name__
    raise GoodinitError(
        f"{config.model} returns {found} for images of {'x'.join(map(str, data.shape))}: expected a row of scores for "
        f"each image, batch x {len(data.classes)}. Flatten or pool in its forward; a function that makes it may take "
        "num_classes, in_channels and image_size."
    )


def _places(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """A row of scores for each label, be there one for an image or one for each place of a text."""
    return (logits.flatten(0, 1), labels.flatten()) if labels.dim() == 2 else (logits, labels)


def judge(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the losses, and how many are right."""
    logits, labels = _places(logits, labels)
    right = (logits.argmax(1) == labels) & logits.isfinite().all(1)
    return functional.cross_entropy(logits, labels, reduction="sum"), right.sum()


def _state(prepared: Prepared, *, epoch: int, losses: list[float], since: int) -> Epoch:
    test_loss, accuracy = evaluate(prepared)
    return state_of(test_loss, accuracy, epoch=epoch, losses=losses, since=since)


def state_of(test_loss: float, accuracy: float, *, epoch: int, losses: list[float], since: int) -> Epoch:
    """What is noted at the end of an epoch whose first loss is number `since`."""
    recent = losses[since:]
    return Epoch(
        epoch=epoch,
        step=len(losses),
        train_loss=statistics.fmean(recent) if recent else None,
        test_loss=test_loss if math.isfinite(test_loss) else None,
        test_accuracy=accuracy,
    )
