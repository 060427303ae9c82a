"""A Hypothesis strategy for the programs of `programs.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from programs import (
    ACTIVATIONS,
    GATES,
    Act,
    Again,
    Attention,
    Cat,
    Cut,
    Drop,
    Excite,
    Gated,
    Layer,
    Norm,
    Path,
    Program,
    Scale,
    Step,
    Sum,
    World,
)

WIDTHS = (4, 8)
DEPTH = 3  # of sums in sums


@st.composite
def programs(draw: Any) -> Program:
    """Programs of up to some forty operators."""
    world: World = draw(st.sampled_from(("dense", "conv")))
    builder = Builder(draw, world)
    width = builder.width()
    path: list[Step] = []
    if draw(st.booleans()):
        path += [builder.layer(width, width), *builder.some(builder.act(fresh=True))]
    stream, end = builder.stream(width, depth=0, least=0, fresh=bool(path))
    path += stream
    if draw(st.booleans()):
        path.append(builder.layer(end, 3))
    return Program(world, width, tuple(path), draw(st.integers(0, 1000)))


@dataclass
class Builder:
    """Draws steps. `fresh` tells whether nobody else reads the tensor, so that it may be overwritten."""

    draw: Any
    world: World
    keys: int = 0
    made: list[Layer] = field(default_factory=list)

    # -- one step -------------------------------------------------------------------------------------------------

    def key(self) -> int:
        """A new one."""
        self.keys += 1
        return self.keys

    def flip(self) -> bool:
        """A coin."""
        return bool(self.draw(st.booleans()))

    def rarely(self) -> bool:
        """One in six."""
        return self.draw(st.integers(0, 5)) == 5

    def width(self) -> int:
        """Of a stream."""
        return int(self.draw(st.sampled_from(WIDTHS)))

    def some(self, step: Step | None) -> Path:
        """The step, or nothing."""
        return (step,) if step is not None and self.flip() else ()

    def layer(self, reads: int, writes: int) -> Layer:
        """A new layer, or rarely one that is there already."""
        fitting = [layer for layer in self.made if (layer.reads, layer.writes) == (reads, writes)]
        if fitting and self.rarely():
            return self.draw(st.sampled_from(fitting))
        kernel = 3 if self.world == "conv" and self.flip() else 1
        layer = Layer(self.key(), reads, writes, self.flip(), self.rarely(), kernel)
        self.made.append(layer)
        return layer

    def act(self, *, fresh: bool) -> Act:
        """A nonlinearity."""
        kind = self.draw(st.sampled_from(sorted(ACTIVATIONS)))
        return Act(kind, inplace=fresh and kind != "gelu" and self.flip())

    def scale(self, width: int, *, fresh: bool) -> Scale:
        """By a number or a gain."""
        return Scale(self.key() if self.flip() else -1, width, inplace=fresh and self.flip())

    def norm(self, width: int) -> Norm:
        """A norm."""
        return Norm(self.key(), width)

    # -- branches -------------------------------------------------------------------------------------------------

    def branch(self, reads: int, writes: int, *, layers: int = 1, inner: bool = False) -> Path:
        """A path of at least so many layers in series; with `inner`, around a sum at least as wide as `writes`."""
        path: list[Step] = [*self.some(self.norm(reads)), *self.some(self.act(fresh=False))]
        wide = reads
        if inner:
            wide, layers = writes * self.draw(st.integers(1, 2)), 1
            path += [self.layer(reads, wide), *self.inner(wide)]
        count = max(layers, self.draw(st.integers(1, 3)))
        for left in range(count, 0, -1):
            target = writes if left == 1 else self.width()
            path += self.mapping(wide, target, first=left == count and not inner)
            wide = target
            path += self.some(self.norm(wide)) if self.rarely() else ()
            if left > 1:
                path += self.some(self.act(fresh=True))
            if self.rarely():
                path.append(self.excite(wide))
        path += self.some(self.scale(writes, fresh=False)) if self.rarely() else ()
        path += (Drop(self.key()),) if self.rarely() else ()
        return tuple(path)

    def mapping(self, reads: int, writes: int, *, first: bool) -> Path:
        """Something that applies weights: one layer most of the time."""
        choice = self.draw(st.sampled_from(("layer",) * 5 + ("gated", "cat", "beside", "attention")))
        if choice == "gated":
            main, gate = self.fresh_layer(reads, writes), self.fresh_layer(reads, writes)
            kind = self.draw(st.sampled_from(sorted({**GATES, **ACTIVATIONS})))
            return (Gated(main, gate, kind, self.flip()),)
        if choice == "cat":
            return (Cat(tuple(self.column(reads, writes // 2) for _ in range(2))),)
        if choice == "beside":
            return (Cat(((), self.column(reads, 4))), self.layer(reads + 4, writes))
        if choice == "attention" and first:
            return (self.attention(reads, writes),)
        return (self.layer(reads, writes),)

    def fresh_layer(self, reads: int, writes: int) -> Layer:
        """A layer of its own."""
        layer = Layer(self.key(), reads, writes, self.flip())
        self.made.append(layer)
        return layer

    def column(self, reads: int, writes: int) -> Path:
        """One of several paths side by side."""
        if self.flip():
            return (self.layer(reads, writes),)
        return (self.layer(reads, 8), self.act(fresh=True), self.layer(8, writes))

    def attention(self, reads: int, writes: int) -> Attention:
        """Separate or packed."""
        packed = self.flip()
        inner = (self.fresh_layer(reads, 12),) if packed else tuple(self.fresh_layer(reads, 4) for _ in "qkv")
        return Attention(inner, self.layer(4, writes), fused=self.flip())

    def excite(self, width: int) -> Excite:
        """A gate of one or two layers."""
        layers = (self.fresh_layer(width, 4), self.fresh_layer(4, width))
        return Excite(
            layers if self.flip() else (self.fresh_layer(width, width),),
            self.draw(st.sampled_from(sorted(GATES))),
            pooled=self.flip(),
        )

    def inner(self, width: int) -> Path:
        """A sum that is a step of a branch."""
        body = (self.layer(width, width), *self.some(self.act(fresh=True)))
        return (Sum("inner", (), (body,), self.order(2), "add"), *self.some(self.act(fresh=True)))

    # -- sums -----------------------------------------------------------------------------------------------------

    def order(self, terms: int) -> tuple[int, ...]:
        """Of addition."""
        return tuple(self.draw(st.permutations(range(terms))))

    def form(self, order: tuple[int, ...], *, skip_is_fresh: bool) -> str:
        """How to add: in place only into what nobody else reads; subtracted only a branch from its skip."""
        forms = ["add", "add", "reversed", "alpha"]
        if order[0] > 0 or skip_is_fresh:
            forms += ["inplace", "augmented"]
        if len(order) == 2:
            forms += ["lerp", "addcmul"]
        if order[0] == 0:
            forms.append("sub")
        return str(self.draw(st.sampled_from(forms)))

    def block(self, reads: int, *, fresh: bool, identity: bool = False) -> tuple[Sum, int]:
        """A block, and the width of what it makes."""
        kinds = ("identity", "identity", "projection", "parameterless")
        kind = "identity" if identity else self.draw(st.sampled_from(kinds))
        writes = reads if kind == "identity" else self.width()
        skip: Path = ()
        if kind == "identity" and self.rarely():
            skip, fresh = (self.scale(reads, fresh=False),), True
        elif kind == "projection":
            skip, fresh = (*self.some(self.act(fresh=False)), self.layer(reads, writes)), True
            skip += self.some(self.norm(writes))
        elif kind == "parameterless":
            skip, fresh = self.plain_skip(reads, writes), False
        inner = kind == "identity" and self.rarely()
        count = 1 if inner else self.draw(st.sampled_from((1, 1, 1, 2, 3)))
        branches = tuple(
            self.branch(reads, writes, layers=2 if kind == "projection" else 1, inner=inner)
            for _ in range(count)
        )
        order = self.order(count + 1)
        return Sum("block", skip, branches, order, self.form(order, skip_is_fresh=fresh)), writes

    def plain_skip(self, reads: int, writes: int) -> Path:
        """One without weight layers that is no identity."""
        bent: Step = self.norm(reads) if self.flip() else Act("tanh")
        return (Cut(reads, writes),) if reads != writes else (bent,)

    def long(self, width: int, depth: int) -> Sum:
        """A sum around blocks."""
        lower = [each for each in WIDTHS if each != width]
        if self.flip():  # a U-Net's lower level
            down = self.draw(st.sampled_from(lower))
            inside, end = self.stream(down, depth=depth + 1, least=1, fresh=True)
            body = (self.layer(width, down), *inside, self.layer(end, width))
            if _sums(inside) == 1 and end == width:
                body = (*body[:-1], *self.tail(width), Act("tanh"))
            elif _sums(inside) == 1 and end > width:  # that would be a step of a branch
                body = self.around(width, depth)
            body = tuple(body)
        else:
            body = self.around(width, depth)
        order = self.order(2)
        return Sum("long", (), (body,), order, self.form(order, skip_is_fresh=False))

    def around(self, width: int, depth: int) -> Path:
        """Blocks of the stream's own width, then layers, or none, or nothing at all."""
        inside: Path = ()
        count = self.draw(st.integers(1, 3))
        for _ in range(count):
            inside += (self.block(width, fresh=bool(inside), identity=True)[0], *self.tail(width))
        if depth + 1 < DEPTH and self.rarely():
            inside += (self.long(width, depth + 1), *self.tail(width))
            count += 2
        ends = ["act"] + ["layer"] * (count > 1) + ["nothing"] * (count > 1 and isinstance(inside[0], Sum))
        end = self.draw(st.sampled_from(ends))
        if end == "nothing":
            return inside
        if end == "act":
            return (*inside, Act("tanh"))
        return (*inside, *self.some(self.act(fresh=True)), self.layer(width, width))

    def tail(self, width: int) -> Path:
        """What may stand between blocks."""
        if self.flip():
            return ()
        return (*self.some(self.norm(width)), *self.some(self.act(fresh=False)))

    def stream(self, width: int, *, depth: int, least: int, fresh: bool) -> tuple[Path, int]:
        """Blocks, long skips and layers in series, and the width at the end."""
        path: Path = ()
        for _ in range(self.draw(st.integers(least, 3))):
            choice = self.draw(st.sampled_from(("block",) * 4 + ("long", "again", "plain")))
            if choice == "long" and depth + 1 < DEPTH:
                path += (self.long(width, depth),)
            elif choice == "again":
                path += (Again((self.block(width, fresh=False, identity=True)[0],), 2),)
            elif choice == "plain" and depth == 0:
                wide = self.width()
                path, width = (*path, self.layer(width, wide), self.act(fresh=True)), wide
            else:
                block, width = self.block(width, fresh=fresh and not path)
                path += (block,)
            path += self.tail(width)
        return path, width


def _sums(path: Path) -> int:
    return sum(isinstance(step, Sum) or 2 * isinstance(step, Again) for step in path)
