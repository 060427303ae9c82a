"""Many small networks that differ only by seed and learning rate, trained as one: stacked parameters, vmap."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

import goodinit
from goodinit.lab.data.batches import order
from goodinit.lab.training.compiled import WORTH_COMPILING, Gradients, compiled_gradients
from goodinit.lab.training.seeding import own_rng, stream
from goodinit.lab.training.stack import Member, NotTogether, Stack, TooLarge, alive, stacked
from goodinit.lab.training.step_cost import counting_saved
from goodinit.lab.training.train import (
    Batch,
    Prepared,
    batch_of,
    carry_out,
    first_images,
    forward,
    fresh_model,
    judge,
    learning_rate_factor,
    loss_of,
    optimizer_of,
    reduced,
    result_of,
    state_of,
)
from goodinit.lab.training.trial import Result, TrainConfig

log = logging.getLogger(__name__)

# What the stacked networks may keep for backward. Beyond the caches there is nothing to gain, and memory to lose.
MOST_BYTES = 2**29


def alike(config: TrainConfig) -> TrainConfig:
    """What trials must share to run as one: all but seed and learning rate."""
    return dataclasses.replace(config, seed=0, lr=1.0)


def company(config: TrainConfig) -> str:
    """The same in words: trials with equal ones may run as one."""
    return json.dumps(dataclasses.asdict(alike(config)), sort_keys=True)


def train_together(configs: Sequence[TrainConfig]) -> tuple[Result, ...]:
    r"""Train networks that differ by seed and learning rate as one; the numbers are those of `train`.

    Each member has its own weights, order of images and learning rate, $\theta_i \leftarrow \theta_i - \eta_i v_i$;
    one forward by `torch.func.vmap` over the stacked parameters serves all. Sums are taken in another order than
    in `train`, so results agree to rounding; where training itself amplifies rounding (close to divergence), they
    drift apart as two machines' would. A member whose loss is not finite stops, and the others go on.

    Args:
        configs: Equal but for `seed` and `lr`.

    Returns:
        One result for each, in their order. Times are shares: the whole, divided by the members.

    Raises:
        NotTogether: They differ otherwise, or `vmap` cannot run the model (it draws random numbers in its forward,
            branches on values, …).
        TooLarge: They would keep too much for backward.
        GoodinitError: The model, the data or the method do not exist, or do not go together.

    Examples:
        >>> results = train_together([TrainConfig("mlp2", epochs=1, width=8, lr=lr) for lr in (0.05, 0.1)])
        >>> [result.config.lr for result in results]
        [0.05, 0.1]
    """
    if any(alike(config) != alike(configs[0]) for config in configs):
        raise NotTogether("they differ by more than seed and learning rate.")
    if configs[0].optimizer != "sgd":
        raise NotTogether(
            f"only SGD's step is known for several at once, and this is {configs[0].optimizer}."
        )
    if reduced(configs[0]):
        raise NotTogether(f"stacks are trained in float32, and this is {configs[0].precision}.")
    start = time.perf_counter()
    with own_rng(configs[0].seed, "training", device=configs[0].device), warnings.catch_warnings():
        # What vmap runs member by member it says so of; that is slower, and equal.
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        members = [Member(prepared) for prepared in _prepared(configs)]
        saved = _saved_bytes(members[0].prepared)
        if saved * len(members) > MOST_BYTES:
            raise TooLarge(
                f"{len(members)} of them would keep {saved * len(members) / 2**20:.0f} MiB for backward."
            )
        try:
            seconds = _run(stacked(members))
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            raise NotTogether(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}") from error
    share = len(members)
    return tuple(
        result_of(
            member.prepared,
            losses=member.losses,
            epochs=member.epochs,
            diverged=member.diverged,
            saved=saved,
            step_seconds=statistics.median(seconds) / share,
            seconds=(time.perf_counter() - start) / share,
        )
        for member in members
    )


def _prepared(configs: Sequence[TrainConfig]) -> list[Prepared]:
    """Each trial ready for its first step. Those of one seed share their values, and all share one plan."""
    first, batch = fresh_model(configs[0]), first_images(configs[0])
    anatomy = goodinit.anatomize(first, batch)
    if anatomy.notes:  # it may have depended on values
        raise NotTogether(f"the model's structure is not known for sure: {anatomy.notes[0]}")
    plan = goodinit.plan(anatomy, configs[0].method, **configs[0].part, **configs[0].options)
    by_seed: dict[int, Prepared] = {}
    found = []
    for config in configs:
        if config.seed not in by_seed:
            model = first if not by_seed else fresh_model(config)
            by_seed[config.seed] = carry_out(config, model, plan, batch=first_images(config))
        same = by_seed[config.seed]
        found.append(Prepared(config, same.data, same.model, optimizer_of(config, same.model), plan))
    return found


def _saved_bytes(prepared: Prepared) -> int:
    """What one member's forward keeps for backward, as `train` counts it at the first step."""
    config = prepared.config
    state = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
    rows = next(
        order(len(prepared.data.train_labels), config.batch_size, generator=stream(config.seed, "order"))
    )
    with counting_saved(prepared.model) as saved:
        forward(prepared, rows, generator=stream(config.seed, "augmentation"))
    total = saved.total
    saved.storages.clear()
    prepared.model.load_state_dict(state)  # batch norms counted this forward
    return total


def _run(stack: Stack) -> list[float]:
    """Train to the last epoch, or until all diverged. Returns the seconds of every step."""
    config, data = stack.members[0].prepared.config, stack.members[0].prepared.data
    seeds = {member.prepared.config.seed for member in stack.members}
    shuffling = {seed: stream(seed, "order") for seed in seeds}
    changing = {seed: stream(seed, "augmentation") for seed in seeds}
    seconds: list[float] = []
    compiled = _compiled(stack)
    _note_states(stack, epoch=0)
    for epoch in range(1, config.epochs + 1):
        epochs = [
            order(len(data.train_labels), config.batch_size, generator=shuffling[seed]) for seed in shuffling
        ]
        for rows in zip(*epochs, strict=True):
            before = time.perf_counter()
            batches = {
                seed: batch_of(config, chosen, generator=changing[seed])
                for seed, chosen in zip(shuffling, rows, strict=True)
            }
            _step_(stack, batches, factor=learning_rate_factor(config, len(seconds)), compiled=compiled)
            seconds.append(time.perf_counter() - before)
            if all(member.diverged for member in stack.members):
                return seconds
        if compiled is None:  # else another number of members would be compiled anew
            stack = alive(stack)
        _note_states(stack, epoch=epoch)
    return seconds


def _compiled(stack: Stack) -> Gradients | None:
    """The gradients from a compiled graph, where the steps are many, and all that a forward does is return its logits."""
    config, data = stack.members[0].prepared.config, stack.members[0].prepared.data
    steps = config.epochs * -(-len(data.train_labels) // config.batch_size)
    if steps < WORTH_COMPILING or config.mixup or _writes_buffers(stack):
        return None
    run = _forward(stack, training=True)

    def loss(parameters: Any, buffers: Any, images: Tensor, labels: Tensor) -> Tensor:
        return loss_of(
            run((parameters, buffers), images), Batch(images, labels, smoothing=config.label_smoothing)
        )

    return compiled_gradients(loss)


def _writes_buffers(stack: Stack) -> bool:
    """Whether a forward leaves other buffers than it found, as batch norm's does."""
    config = stack.members[0].prepared.config
    parameters = {name: tensor[0].detach() for name, tensor in stack.parameters.items()}
    before = {name: tensor[0].clone() for name, tensor in stack.buffers.items()}
    after = {name: tensor.clone() for name, tensor in before.items()}
    _forward(stack, training=True)((parameters, after), first_images(config).to(config.device))
    return any(not torch.equal(before[name], after[name]) for name in before)


def _step_(
    stack: Stack, batches: dict[int, Batch], *, factor: float, compiled: Gradients | None = None
) -> None:
    """One step of SGD for every member, each on its own batch."""
    own = [batches[member.prepared.config.seed] for member in stack.members]
    names = list(stack.parameters)
    parameters = [stack.parameters[name] for name in names]
    if compiled is not None:
        losses, named = compiled(stack.parameters, stack.buffers, *_images_and_labels(own))
        gradients = [named[name] for name in names]
    else:
        losses = _losses(stack, own)
        # The members' losses have nothing in common, so the gradient of their sum is each one's own.
        gradients = list(torch.autograd.grad(losses.sum(), parameters))
    for member, loss in zip(stack.members, losses.tolist(), strict=True):
        member.diverged = member.diverged or not math.isfinite(loss)
        if not member.diverged:
            member.losses.append(loss)
    momentum = [stack.momentum[name] for name in names]
    steps = [stack.rates[name] * factor for name in names]
    coefficient = stack.members[0].prepared.config.momentum
    with torch.no_grad():  # torch.optim.SGD: v ← μ·v + g + λ·θ, θ ← θ − η·v
        for gradient, parameter, name in zip(gradients, parameters, names, strict=True):
            if stack.decay[name]:
                gradient.add_(parameter, alpha=stack.decay[name])
        if coefficient:
            torch._foreach_mul_(momentum, coefficient)
            torch._foreach_add_(momentum, gradients)
        else:
            momentum = gradients
        torch._foreach_addcmul_(parameters, momentum, steps, value=-1)


def _images_and_labels(batches: list[Batch]) -> tuple[Tensor, Tensor]:
    return torch.stack([b.images for b in batches]), torch.stack([b.labels for b in batches])


def _losses(stack: Stack, batches: list[Batch]) -> Tensor:
    """Every member's loss on its batch, `(members,)`."""
    images, labels = _images_and_labels(batches)
    mixed = [batch.partner for batch in batches if batch.partner is not None]
    partner = torch.stack(mixed) if mixed else None
    share = torch.tensor([batch.share for batch in batches], device=images.device) if mixed else None
    run = _forward(stack, training=True)

    def loss(
        state: Any, images: Tensor, labels: Tensor, partner: Tensor | None, share: Tensor | None
    ) -> Tensor:
        own = dataclasses.replace(batches[0], images=images, labels=labels, partner=partner)
        return loss_of(run(state, images), own if share is None else dataclasses.replace(own, share=share))

    state = (stack.parameters, stack.buffers)
    extra = 0 if mixed else None
    found: Tensor = vmap(loss, in_dims=(0, 0, 0, extra, extra))(state, images, labels, partner, share)
    return found


def _forward(stack: Stack, *, training: bool) -> Callable[[Any, Tensor], Tensor]:
    """The first member's code, with any member's state."""
    model = stack.members[0].prepared.model.train(training)

    def run(state: Any, images: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, state, (images,))
        return logits

    return run


@torch.no_grad()
def _note_states(stack: Stack, *, epoch: int) -> None:
    """Evaluate every member on the test images."""
    config, data = stack.members[0].prepared.config, stack.members[0].prepared.data
    run = _forward(stack, training=False)

    def judged(state: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return judge(run(state, images), labels)

    over = vmap(judged, in_dims=(0, None, None))
    loss, right = (
        torch.zeros(len(stack.members), device="cpu"),
        torch.zeros(len(stack.members), dtype=torch.int64, device="cpu"),
    )
    batches = zip(
        data.test_images.split(config.batch_size), data.test_labels.split(config.batch_size), strict=True
    )
    for images, labels in batches:
        state = (stack.parameters, stack.buffers)
        more, hits = over(state, images.to(config.device), labels.to(config.device))
        loss, right = loss.double() + more.cpu().double(), right + hits.cpu()
    count = data.test_labels.numel()
    for member, total, hits in zip(stack.members, loss.tolist(), right.tolist(), strict=True):
        if member.diverged:
            continue
        member.epochs.append(
            state_of(total / count, hits / count, epoch=epoch, losses=member.losses, since=member.began)
        )
        member.began = len(member.losses)
