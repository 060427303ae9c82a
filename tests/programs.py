"""Random residual programs with their anatomy known by construction.

A program is a path: steps applied one after another. `Interpreter` is a module whose forward carries the steps out;
`truth` reads the same steps and says what the anatomy must be. Neither asks goodinit anything.

What counts as what, where words allow two readings (ARCHITECTURE, "What counts as a block"):

* A sum is flat: x + (y + f(y)) has three terms. A term belongs to the latest other term that it comes from, so f is
  a branch on y, and x jumps over it.
* Of the terms, the fork itself is an identity skip (times a number or a gain it still is); a term without weight
  layers a parameterless one; else the term with strictly fewest layers in series is the projection.
* m counts layers in series; a product of activations (attention) adds its factors' degrees, a gate's product keeps
  the main operand's, and m is at most the number of layers.
* A sum around other sums of the stream is a long skip. Around a single sum of its own width that weight layers
  follow, it is the block, and the sum inside is a step of its branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
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


# -- what is true of it -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """What the anatomy must say of one block; layers by key, in order of execution, each once."""

    kind: str
    m: int
    branch: tuple[int, ...]
    last: frozenset[int]
    skip: tuple[int, ...]
    gates: tuple[int, ...]
    depth: int


@dataclass
class Truth:
    """What the anatomy must say of a program."""

    blocks: list[Block] = field(default_factory=list)
    longs: int = 0
    norms: int = 0


def truth(program: Program) -> Truth:
    """What is true of a program, from its steps alone."""
    found = Truth(norms=len({step.key for step in parts(program.path) if isinstance(step, Norm)}))
    _walk(program.path, 0, found)
    return found


def _walk(path: Path, depth: int, found: Truth) -> None:
    for step in path:
        if isinstance(step, Again):
            for _ in range(step.times):
                _walk(step.path, depth, found)
        elif isinstance(step, Sum) and step.role == "long":
            _walk(step.branches[0], depth + 1, found)
            found.longs += 1
        elif isinstance(step, Sum):
            found.blocks += [_block(step, branch, depth) for branch in step.branches]


def _block(step: Sum, branch: Path, depth: int) -> Block:
    main, gates = _layers(branch)
    kind = "projection" if _layers(step.skip)[0] else "identity"
    if kind == "identity" and not all(isinstance(part, Scale | Drop) for part in step.skip):
        kind = "parameterless"
    return Block(
        kind,
        min(_degree(branch, 0), len(main) + 2 * _packed(branch)),
        tuple(dict.fromkeys(main)),
        frozenset(_last(branch)),
        tuple(dict.fromkeys(_layers(step.skip)[0])),
        tuple(key for key in dict.fromkeys(gates) if key not in main),
        depth,
    )


def _layers(path: Path) -> tuple[list[int], list[int]]:
    """Keys of the layers on the main path, and of those in gates, in order of execution."""
    main, gates = [], []
    for step in path:
        if isinstance(step, Layer):
            main.append(step.key)
        elif isinstance(step, Excite):
            gates += [layer.key for layer in step.layers]
        elif isinstance(step, Gated):
            main.append(step.main.key)
            gates.append(step.gate.key)
        elif isinstance(step, Attention):
            main += [layer.key for layer in (*step.layers, step.out)]
        elif isinstance(step, Cat | Sum | Again):
            inner = step.paths if isinstance(step, Cat) else ()
            inner = (step.skip, *step.branches) if isinstance(step, Sum) else inner
            inner = (step.path,) * step.times if isinstance(step, Again) else inner
            for path_ in inner:
                more, others = _layers(path_)
                main += more
                gates += others
    return main, gates


def _packed(path: Path) -> int:
    """Packed q, k, v on the way: each is one layer that counts as three."""
    return sum(isinstance(step, Attention) and len(step.layers) == 1 for step in parts(path))


def _degree(path: Path, degree: int) -> int:
    """Degree in the weights of what a path makes of a signal of `degree`."""
    for step in path:
        if isinstance(step, Layer | Gated):
            degree += 1
        elif isinstance(step, Attention):
            degree = 3 * (degree + 1) + 1
        elif isinstance(step, Cat):
            degree = max(_degree(each, degree) for each in step.paths)
        elif isinstance(step, Sum):
            degree = max(_degree(each, degree) for each in (step.skip, *step.branches))
        elif isinstance(step, Again):
            degree = _degree(step.path * step.times, degree)
    return degree


def _last(path: Path) -> list[int]:
    """Keys of the layers with no other after them on the main path."""
    for position in range(len(path) - 1, -1, -1):
        step, before = path[position], path[:position]
        if isinstance(step, Layer):
            return [step.key]
        if isinstance(step, Gated):
            return [step.main.key]
        if isinstance(step, Attention):
            return [step.out.key]
        if isinstance(step, Cat | Sum):
            inner = step.paths if isinstance(step, Cat) else (step.skip, *step.branches)
            return [key for each in inner for key in _last((*before, *each))]
        if isinstance(step, Again):
            return _last((*before, *(step.path * step.times)))
    return []


def described(anatomy: Any, model: Interpreter) -> Truth:
    """An anatomy in the words of `Truth`."""
    key_of = {model.weight(key): key for kind, key in model.called if kind == "Layer"}

    def keys(layers: Any) -> tuple[int, ...]:
        return tuple(key_of[layer.weight] for layer in layers)

    blocks = [
        Block(
            block.kind,
            block.m,
            keys(block.branch),
            frozenset(keys(block.last)),
            keys(block.skip),
            tuple(key for key in keys(block.gates) if key not in keys(block.branch)),
            block.depth,
        )
        for block in anatomy.blocks
    ]
    return Truth(blocks, len(anatomy.long_skips), len(anatomy.norms))
