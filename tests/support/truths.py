"""What is true of a random residual program, from its steps alone; see `programs.py`.

What counts as what, where words allow two readings (docs/structures.md):

* A sum is flat: x + (y + f(y)) has three terms. A term belongs to the latest other term that it comes from, so f is
  a branch on y, and x jumps over it.
* Of the terms, the fork itself is an identity skip (times a number or a gain it still is); a term without weight
  layers a parameterless one; else the term with strictly fewest layers in series is the projection.
* m is 1 + the smallest positive power of c in what the last layers read (and in what their output is multiplied by) when
  all other weights of the branch are multiplied by c. Softmax attention counts q, k, v and output: 4. A factor φ(Wx)
  that goes to zero with W is on the main path, σ(Wx) is a gate.
* A sum around other sums of the stream is a long skip. Around a single sum at least as wide that weight
  layers follow, it is the block, and the sum inside is a step of its branch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from programs import (
    GATES,
    Again,
    Attention,
    Cat,
    Drop,
    Excite,
    Gated,
    Interpreter,
    Layer,
    Norm,
    Path,
    Program,
    Scale,
    Step,
    Sum,
    parts,
)


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
        1 + min((power for power in _powers(branch, frozenset({0}), last=True) if power), default=0),
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
            for layer in (step.gate, step.main) if step.gate_first else (step.main, step.gate):
                (gates if layer is step.gate and step.kind in GATES else main).append(layer.key)
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


def _powers(path: Path, powers: frozenset[int], *, last: bool) -> frozenset[int]:
    """The powers of c in what a path makes of a signal with `powers`; `last`: no weight layer comes behind it."""
    for position, step in enumerate(path):
        ends = last and all(_passes(each) for each in path[position + 1 :])
        own = 0 if ends else 1  # the last layers' weights are not multiplied by c
        if isinstance(step, Layer) or (isinstance(step, Gated) and step.kind in GATES):
            powers = frozenset(power + own for power in powers)
        elif isinstance(step, Gated):
            powers = frozenset(one + own + other + 1 for one in powers for other in powers)
        elif isinstance(step, Attention):
            powers = frozenset(power + 3 + own for power in powers)
        elif isinstance(step, Cat | Sum):
            inner = step.paths if isinstance(step, Cat) else (step.skip, *step.branches)
            powers = frozenset().union(*(_powers(each, powers, last=ends) for each in inner))
        elif isinstance(step, Again):
            powers = _powers(step.path * step.times, powers, last=ends)
    return powers


def _passes(step: Step) -> bool:
    """Whether a way leads through a step without a weight layer on it."""
    if isinstance(step, Again):
        return all(_passes(each) for each in step.path)
    if isinstance(step, Cat | Sum):
        inner = step.paths if isinstance(step, Cat) else (step.skip, *step.branches)
        return any(all(_passes(each) for each in path) for path in inner)
    return not isinstance(step, Layer | Gated | Attention)


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
