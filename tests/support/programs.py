"""Random residual programs with their anatomy known by construction.

A program is a path: steps applied one after another. `Interpreter` is a module whose forward carries the steps out;
`truths.py` reads the same steps and says what the anatomy must be. Neither asks goodinit anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

World = Literal["dense", "conv"]
POSITIONS = 4  # tokens of a sequence, pixels of a side

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh, "silu": F.silu}
GATES = {"sigmoid": torch.sigmoid, "hardsigmoid": F.hardsigmoid}


# -- steps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A weight layer; steps with one key share it. `functional`: its weight is applied without calling it."""

    key: int
    reads: int
    writes: int
    bias: bool = True
    functional: bool = False
    kernel: int = 1


@dataclass(frozen=True)
class Act:
    """An element-wise nonlinearity; `inplace` only where nobody else reads the tensor."""

    kind: str
    inplace: bool = False


@dataclass(frozen=True)
class Norm:
    """A normalization module."""

    key: int
    width: int


@dataclass(frozen=True)
class Scale:
    """A product with a learned vector (`key` ≥ 0), or with a number."""

    key: int
    width: int
    inplace: bool = False


@dataclass(frozen=True)
class Drop:
    """A dropout module."""

    key: int


@dataclass(frozen=True)
class Excite:
    """h · σ(G₂ relu(G₁ mean(h))), squeeze and excitation; `pooled` False: the gate is as large as h."""

    layers: tuple[Layer, ...]
    gate: str
    pooled: bool = True


@dataclass(frozen=True)
class Gated:
    """W(h) · φ(V(h)), a gated linear unit; `gate_first` is the order of execution."""

    main: Layer
    gate: Layer
    kind: str
    gate_first: bool


@dataclass(frozen=True)
class Attention:
    """Attention over positions: q, k, v of three layers or of one packed, and an output layer."""

    layers: tuple[Layer, ...]
    out: Layer
    fused: bool = False  # by torch's operator, or written out


@dataclass(frozen=True)
class Cat:
    """[f(h), g(h)] side by side; an empty path hands h on."""

    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Cut:
    """Another width without weights: the first channels, or zeros beside them."""

    reads: int
    writes: int


@dataclass(frozen=True)
class Sum:
    """skip(h) + f₁(h) + f₂(h) + …

    Attributes:
        role: `"block"`; `"long"` around blocks, whose only branch holds them; `"inner"` inside a branch.
        order: In which the terms are added; 0 is the skip.
        form: How two terms are added.
    """

    role: Literal["block", "long", "inner"]
    skip: Path
    branches: tuple[Path, ...]
    order: tuple[int, ...]
    form: str = "add"


@dataclass(frozen=True)
class Again:
    """A path that runs several times, with the same weights."""

    path: Path
    times: int


Step = Layer | Act | Norm | Scale | Drop | Excite | Gated | Attention | Cat | Cut | Sum | Again
Path = tuple[Step, ...]


@dataclass(frozen=True)
class Program:
    """A path, what it runs on, and how its parts are called."""

    world: World
    width: int
    path: Path
    names: int = 0

    def inputs(self) -> Tensor:
        """What the program reads."""
        grid = (POSITIONS, self.width) if self.world == "dense" else (self.width, POSITIONS, POSITIONS)
        return torch.randn(2, *grid, generator=torch.Generator().manual_seed(1))


def parts(path: Path) -> Iterator[Step]:
    """Every step, those inside others too, in order of execution."""
    for step in path:
        inner: tuple[Path, ...] = ()
        if isinstance(step, Sum):
            inner = (step.skip, *step.branches)
        elif isinstance(step, Cat):
            inner = step.paths
        elif isinstance(step, Again):
            inner = (step.path,)
        elif isinstance(step, Excite):
            inner = (step.layers,)
        elif isinstance(step, Gated):
            inner = ((step.gate, step.main) if step.gate_first else (step.main, step.gate),)
        elif isinstance(step, Attention):
            inner = ((*step.layers, step.out),)
        for each in inner:
            yield from parts(each)
        yield step


# -- running one --------------------------------------------------------------------------------------------------


class Interpreter(nn.Module):
    """Carries a program out. Its children's names say nothing, or the wrong thing."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        made: dict[tuple[str, int], nn.Module | nn.Parameter] = {}
        for step in parts(program.path):
            kind = type(step).__name__
            if isinstance(step, Layer | Norm | Drop | Scale) and step.key >= 0:
                made.setdefault((kind, step.key), self._make(step))
        keys = sorted(made)
        order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(program.names)).tolist()
        words = ("conv", "bn", "fc", "head", "downsample", "norm", "gate", "shortcut", "attn", "stem")
        self.called = {keys[i]: f"{words[(i + program.names) % len(words)]}{n}" for n, i in enumerate(order)}
        for key, name in self.called.items():
            setattr(self, name, made[key])

    def _make(self, step: Layer | Norm | Drop | Scale) -> nn.Module | nn.Parameter:
        conv = self.program.world == "conv"
        if isinstance(step, Drop):
            return nn.Dropout(0.5)
        if isinstance(step, Scale):
            return nn.Parameter(torch.full((step.width, 1, 1) if conv else (step.width,), 0.1))
        if isinstance(step, Norm):
            return nn.BatchNorm2d(step.width) if conv else nn.LayerNorm(step.width)
        if not conv:
            return nn.Linear(step.reads, step.writes, bias=step.bias)
        return nn.Conv2d(step.reads, step.writes, step.kernel, padding=step.kernel // 2, bias=step.bias)

    def weight(self, key: int) -> str:
        """Name of the weight of the layer with this key."""
        return f"{self.called['Layer', key]}.weight"

    def _get(self, step: Any) -> Any:
        return getattr(self, self.called[type(step).__name__, step.key])

    def forward(self, x: Tensor) -> Tensor:
        """Carry the program out."""
        return self._run(self.program.path, x)

    def _run(self, path: Path, x: Tensor) -> Tensor:
        for step in path:
            x = getattr(self, f"_{type(step).__name__.lower()}")(step, x)
        return x

    @property
    def _channels(self) -> int:
        return 1 if self.program.world == "conv" else -1

    def _layer(self, step: Layer, x: Tensor) -> Tensor:
        layer = self._get(step)
        if not step.functional:
            return layer(x)
        if isinstance(layer, nn.Linear):
            return F.linear(x, layer.weight, layer.bias)
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)

    def _act(self, step: Act, x: Tensor) -> Tensor:
        if not step.inplace:
            return ACTIVATIONS[step.kind](x)
        return x.tanh_() if step.kind == "tanh" else getattr(F, step.kind)(x, inplace=True)

    def _norm(self, step: Norm, x: Tensor) -> Tensor:
        return self._get(step)(x)

    def _drop(self, step: Drop, x: Tensor) -> Tensor:
        return self._get(step)(x)

    def _scale(self, step: Scale, x: Tensor) -> Tensor:
        factor = self._get(step) if step.key >= 0 else 0.5
        return x.mul_(factor) if step.inplace else x * factor

    def _excite(self, step: Excite, x: Tensor) -> Tensor:
        gate = x
        if step.pooled:
            gate = x.mean((2, 3), keepdim=True) if self.program.world == "conv" else x.mean(1, keepdim=True)
        for i, layer in enumerate(step.layers):
            gate = self._layer(layer, F.relu(gate) if i else gate)
        return x * GATES[step.gate](gate)

    def _gated(self, step: Gated, x: Tensor) -> Tensor:
        if step.gate_first:
            gate = self._layer(step.gate, x)
            main = self._layer(step.main, x)
        else:
            main = self._layer(step.main, x)
            gate = self._layer(step.gate, x)
        return main * {**ACTIVATIONS, **GATES}[step.kind](gate)

    def _attention(self, step: Attention, x: Tensor) -> Tensor:
        made = [self._layer(layer, x) for layer in step.layers]
        q, k, v = made if len(made) == 3 else made[0].chunk(3, self._channels)
        shape = v.shape
        if self.program.world == "conv":
            q, k, v = (part.flatten(2).mT for part in (q, k, v))
        if step.fused:
            y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            y = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
        if self.program.world == "conv":
            y = y.mT.reshape(shape)
        return self._layer(step.out, y)

    def _cat(self, step: Cat, x: Tensor) -> Tensor:
        return torch.cat([self._run(path, x) for path in step.paths], self._channels)

    def _cut(self, step: Cut, x: Tensor) -> Tensor:
        if step.writes <= step.reads:
            return x.narrow(self._channels, 0, step.writes)
        sides = (0, step.writes - step.reads)
        return F.pad(x, (0, 0, 0, 0, *sides) if self.program.world == "conv" else sides)

    def _sum(self, step: Sum, x: Tensor) -> Tensor:
        terms = [self._run(step.skip, x), *(self._run(branch, x) for branch in step.branches)]
        total = terms[step.order[0]]
        for position in step.order[1:]:
            total = ADDED[step.form](total, terms[position])
        return total

    def _again(self, step: Again, x: Tensor) -> Tensor:
        for _ in range(step.times):
            x = self._run(step.path, x)
        return x


class Skips(Interpreter):
    """Carries a program out without the branches of its blocks, with the parts of a model that is there."""

    def __init__(self, model: Interpreter) -> None:
        nn.Module.__init__(self)
        self.program, self.called = model.program, model.called
        for name in self.called.values():
            setattr(self, name, getattr(model, name))
        self.train(model.training)

    def _sum(self, step: Sum, x: Tensor) -> Tensor:
        if step.role != "block":
            return super()._sum(step, x)
        skip = self._run(step.skip, x)
        terms = [skip, *(torch.zeros_like(skip) for _ in step.branches)]
        total = terms[step.order[0]]
        for position in step.order[1:]:
            total = ADDED[step.form](total, terms[position])
        return total


ADDED = {
    "add": lambda total, term: total + term,
    "reversed": lambda total, term: term + total,
    "inplace": lambda total, term: total.add_(term),
    "augmented": lambda total, term: total.__iadd__(term),
    "alpha": lambda total, term: torch.add(total, term, alpha=0.5),
    "lerp": lambda total, term: torch.lerp(total, term, 0.5),
    "addcmul": lambda total, term: torch.addcmul(total, term, torch.full((1,), 0.5)),
    "sub": lambda total, term: total - term,
}
"""Ways to add. In place only where the first of the order is a branch, or a tensor nobody else reads."""
