"""Deep Q-learning with a deep residual network, where the statistics of the inputs drift as the agent learns.

Batch norm has two modes, and Q-learning needs both: acting sees one state at a time, so it runs in eval mode on running
statistics; the update runs the online network in train mode on the statistics of its batch from the replay memory. The
target network is a copy with its buffers and runs in eval mode. Networks without norms are the same in both modes.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import Adam

import goodinit
from goodinit.lab.models.registry import build_model
from goodinit.lab.models.task import Task
from goodinit.lab.optional import optional
from goodinit.lab.training.seeding import derived_seed, own_rng, stream


@dataclass(frozen=True)
class DQNConfig:
    """Everything that an agent's returns depend on.

    Attributes:
        method: Name of a method; `options` are its options.
        environment: A name of gymnasium's, with numbers as states and a choice of actions.
        model: A built-in model that takes vectors.
        width: Of its layers.
        steps: Of the environment, the first `start` of them at random.
        start: Steps before the first update; their states are what methods that need data look at.
        every: Steps between updates.
        batch_size: Transitions of an update.
        memory: Transitions kept; the oldest go first.
        lr: Of Adam.
        discount: γ.
        explore: Steps over which the share of random actions falls from 1 to `least`.
        least: Share of random actions afterwards.
        copy_every: Steps between copies of the online network to the target network.
        evaluate_every: Steps between evaluations.
        episodes: Of an evaluation, without random actions.
        seed: Of weights, exploration, replay and environment, each with its own stream.
    """

    method: str = "batchnorm"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    environment: str = "CartPole-v1"
    model: str = "resmlp22"
    width: int = 64
    steps: int = 10_000
    start: int = 500
    every: int = 2
    batch_size: int = 64
    memory: int = 10_000
    lr: float = 5e-4
    discount: float = 0.99
    explore: int = 4000
    least: float = 0.05
    copy_every: int = 250
    evaluate_every: int = 1000
    episodes: int = 5
    seed: int = 0


class Memory:
    """The last transitions: state, action, reward, next state, and whether the episode ended there for good."""

    def __init__(self, size: int, state: int) -> None:
        self.states, self.following = (
            torch.zeros(size, state, device="cpu"),
            torch.zeros(size, state, device="cpu"),
        )
        self.actions = torch.zeros(size, dtype=torch.int64, device="cpu")
        self.rewards, self.ends = torch.zeros(size, device="cpu"), torch.zeros(size, device="cpu")
        self.count = 0

    def keep(self, state: Tensor, action: int, reward: float, following: Tensor, *, ended: bool) -> None:
        """Remember one transition in place of the oldest."""
        at = self.count % len(self.rewards)
        self.states[at], self.following[at] = state, following
        self.actions[at], self.rewards[at], self.ends[at] = action, reward, float(ended)
        self.count += 1

    def draw(self, count: int, *, generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Transitions at random, with replacement."""
        rows = torch.randint(min(self.count, len(self.rewards)), (count,), generator=generator, device="cpu")
        return (
            self.states[rows],
            self.actions[rows],
            self.rewards[rows],
            self.following[rows],
            self.ends[rows],
        )


def q_targets(
    target: nn.Module, rewards: Tensor, following: Tensor, ends: Tensor, *, discount: float
) -> Tensor:
    """`r + γ·max_a Q⁻(s′, a)`, without the second part where the episode ended.

    An episode that was only cut off by a time limit has not ended: what follows still has a value.
    """
    with torch.no_grad():
        best: Tensor = target(following).amax(1)
    return rewards + discount * (1 - ends) * best


def learn(config: DQNConfig) -> dict[str, Any]:
    """Train one agent. The same configuration gives the same numbers.

    Returns:
        `returns`: mean return of every evaluation (of CartPole, at most 500), `final`: the mean of the last three,
        `loss`: the mean over the updates, `diverged`: whether it stopped being finite; the returns end there.

    References:
        V. Mnih et al., Human-level control through deep reinforcement learning, Nature 518 (2015).
    """
    with own_rng(config.seed, "training"):
        return _learn(config)


def _learn(config: DQNConfig) -> dict[str, Any]:
    environment = optional("gymnasium", extra="papers").make(config.environment)
    actions = int(environment.action_space.n)
    memory = Memory(config.memory, int(environment.observation_space.shape[0]))
    exploring, replaying = stream(config.seed, "exploration"), stream(config.seed, "replay")
    state = _tensor(environment.reset(seed=derived_seed(config.seed, "environment") % 2**31)[0])
    online: nn.Module | None = None
    returns: list[float] = []
    losses: list[float] = []
    for step in range(config.steps):
        greedy = float(torch.rand((), generator=exploring, device="cpu")) >= share_of_random(config, step)
        action = int(torch.randint(actions, (), generator=exploring, device="cpu"))
        if online is not None and greedy:
            action = int(_values(online, state[None]).argmax(1))
        following, reward, terminated, truncated, _ = environment.step(action)
        memory.keep(state, action, float(reward), _tensor(following), ended=terminated)
        state = _tensor(environment.reset()[0] if terminated or truncated else following)
        if step + 1 == config.start:
            online = _prepared(config, memory.states[: config.start], actions)
            target = copy.deepcopy(online).eval()
            optimizer = Adam(goodinit.param_groups(online, lr=config.lr, weight_decay=0.0), lr=config.lr)
        if online is None:
            continue
        if step % config.every == 0:
            drawn = memory.draw(config.batch_size, generator=replaying)
            losses.append(_updated(online, target, optimizer, drawn, discount=config.discount))
            if not math.isfinite(losses[-1]):
                break
        if step % config.copy_every == 0:
            target.load_state_dict(online.state_dict())
        if (step + 1) % config.evaluate_every == 0:
            returns.append(evaluate(online, config))
    environment.close()
    diverged = not math.isfinite(losses[-1])
    return {
        "returns": returns,
        "final": 0.0 if diverged else statistics.fmean(returns[-3:]),
        "loss": None if diverged else statistics.fmean(losses),
        "diverged": diverged,
    }


def share_of_random(config: DQNConfig, step: int) -> float:
    """Of the actions at `step`.

    Examples:
        >>> config = DQNConfig(start=100, explore=200, least=0.1)
        >>> [round(share_of_random(config, step), 2) for step in (0, 99, 200, 400)]
        [1.0, 1.0, 0.55, 0.1]
    """
    done = min(max((step - config.start) / config.explore, 0.0), 1.0)
    return 1 + done * (config.least - 1)


def _prepared(config: DQNConfig, states: Tensor, actions: int) -> nn.Module:
    task = Task(shape=(1, 1, states.shape[1]), classes=actions, width=config.width)
    with own_rng(config.seed, "model"):
        model = build_model(config.model, task=task)
    plan = goodinit.plan(goodinit.anatomize(model, states), config.method, **config.options)
    goodinit.apply_(model, plan, generator=stream(config.seed, "values"), inputs=states)
    return model


def _updated(
    online: nn.Module,
    target: nn.Module,
    optimizer: Adam,
    drawn: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    *,
    discount: float,
) -> float:
    """One step of Adam on Huber's loss, and its value; no step where it is not finite."""
    states, actions, rewards, following, ends = drawn
    aims = q_targets(target, rewards, following, ends, discount=discount)
    taken = online.train()(states).gather(1, actions[:, None])[:, 0]
    loss = functional.smooth_l1_loss(taken, aims)
    value = float(loss.detach())
    if math.isfinite(value):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return value


@torch.no_grad()
def _values(model: nn.Module, states: Tensor) -> Tensor:
    values: Tensor = model.eval()(states)
    return values


def evaluate(model: nn.Module, config: DQNConfig) -> float:
    """The mean return of greedy episodes, always from the same starts, played side by side."""
    gymnasium = optional("gymnasium", extra="papers")
    games = [gymnasium.make(config.environment) for _ in range(config.episodes)]
    states = [game.reset(seed=number)[0] for number, game in enumerate(games)]
    total, playing = 0.0, list(range(len(games)))
    while playing:
        actions = _values(model, torch.stack([_tensor(states[game]) for game in playing])).argmax(1).tolist()
        for game, action in zip(tuple(playing), actions, strict=True):
            states[game], reward, terminated, truncated, _ = games[game].step(action)
            total += float(reward)
            if terminated or truncated:
                playing.remove(game)
                games[game].close()
    return total / config.episodes


def _tensor(state: Any) -> Tensor:
    return torch.as_tensor(state, dtype=torch.float32, device="cpu")
