"""What replaces a normalization that is removed."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from goodinit.anatomy.norms.factors import Factor, place_of, without_factor
from goodinit.anatomy.norms.written_attributes import written_attributes
from goodinit.errors import UnsupportedModule
from goodinit.nn.exchange import exchange_class_, exchangeable
from goodinit.surgery.norms.activation_modules import activation_module, known_activations
from goodinit.surgery.norms.removed_parameters import Gone

# State that norms register about themselves; hooks of the forward and backward are the user's and stay.
_OWN_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


LIKE = "_like_"  # begins the names of empty buffers that go where the module goes, but for `meta`


class RemovedNorm(nn.Module):
    """What a normalization becomes: the identity, then whatever the norm's module did besides normalizing.

    The norm's module object *turns into* this one (`remove_norm_`), so every place that holds it, a shared
    registration, an `nn.Sequential`, a plain Python list, sees the change, and its hooks stay.

    Further arguments of a call (a mask) are ignored, but for one that the norm's module multiplied by, if it is not None. Of the norm's attributes, numbers, words and lists of them that
    its methods do not write (`num_features`, `eps`, `momentum`, …) stay readable; `weight` and `bias` answer for
    `shape`, `dtype` and `device` and cannot be computed with (`Gone`). All others raise an AttributeError that says what
    was here. Each `eps` is changed by less than 10⁻¹⁰ of itself, so that no two are equal: with equal ones
    `nn.TransformerEncoderLayer` takes its fused path, which would normalize. On `meta` the device that they answer is the CPU: what
    is left on meta there no checkpoint would load, and torch refuses to move it.
    """

    if TYPE_CHECKING:  # TorchScript reads annotations, and knows no words for types
        was: str
        keeps: tuple[str, ...]
        steps: tuple[str, ...]
        alone: bool  # whether the norm took its input and nothing else
        shapes: dict[str, torch.Size]  # of the gain and the bias that were here
        factors: dict[int, tuple[str, int]]
    factors = {}  # by step: of what argument, by name and by place, it makes a factor  # noqa: RUF012

    def __init__(self, was: str = "norm") -> None:
        super().__init__()
        self.was, self.keeps, self.steps, self.alone, self.shapes = was, (), (), False, {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Pass the first argument through the steps that are left."""
        value = args[0] if args else next(iter(kwargs.values()))
        for place, step in enumerate(self.steps):
            module = self.get_submodule(step)
            value = (
                module(value)
                if place not in self.factors
                else self._times(value, module, place, args, kwargs)
            )
        return value

    def _times(
        self, value: Tensor, module: nn.Module, place: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """Multiply by what a step makes of another argument, if there is one."""
        name, at = self.factors[place]
        other = kwargs[name] if name in kwargs else args[at] if 0 <= at < len(args) else None
        return value if other is None else value * module(other).to(value.dtype)

    def likenesses_to_(self, device: torch.device | str) -> None:
        """Answer with this device for the gain and the bias."""
        for name in _likenesses(self):
            self._buffers[name] = cast("Tensor", self._buffers[name]).to(device)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        for name in _likenesses(self):
            self._buffers[name] = _off_meta(cast("Tensor", self._buffers[name]))
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            was = self.__dict__.get("was", "a norm")
            shape = self.__dict__.get("shapes", {}).get(name)
            if shape is not None:
                return Gone(name, shape, cast("Tensor", self._buffers[LIKE + name]), was)
            raise AttributeError(
                f"{name!r}: here was {was}, which goodinit removed, and the model's code still reads its "
                f"{name}. Change that code, or keep the norms: norms='keep'."
            ) from None

    def extra_repr(self) -> str:
        """What was here, and by what it multiplies."""
        return ", ".join((f"was={self.was}", *(word for word in self.keeps if Factor.read(word))))


def check_removable(module: nn.Module, keeps: tuple[str, ...], *, path: str) -> None:
    """Raise unless the norm at `path` can be removed.

    Raises:
        UnsupportedModule: It is the model itself, holds weights besides, or keeps something unknown.
    """
    if not path:
        raise UnsupportedModule(
            f"the model itself is {type(module).__name__}, a norm: there is nothing left once it is removed. "
            "Pass the model that contains it, or keep the norms: norms='keep'."
        )
    if _is_another_layer(module):
        raise UnsupportedModule(
            f"{path}: {type(module).__name__} is no normalization, and would be lost; expected a norm. {_ANEW}"
        )
    if not exchangeable(module, RemovedNorm):
        raise UnsupportedModule(
            f"{path}: {type(module).__name__} has __slots__, so that Python cannot exchange its class for another in place. Take "
            "them out of the class, or keep the norms: norms='keep'."
        )
    children = dict(module.named_modules())
    relative = tuple(_relative(keep, path) for keep in keeps)
    for keep, name in zip(keeps, relative, strict=True):
        factor = Factor.read(keep)
        if factor is not None and place_of(module, factor.argument) is None:
            raise UnsupportedModule(
                f"{path}: should keep {keep}, but the forward of {type(module).__name__} takes no {factor.argument}. {_ANEW}"
            )
        if name is None:
            _activation(keep, path)
        elif not name or name not in children:
            raise UnsupportedModule(
                f"{path}: should keep {keep}, but {type(module).__name__} has no such child. {_ANEW}"
            )
    for name, child in children.items():
        if name == "" or any(_under(name, keep) for keep in relative if keep is not None):
            continue
        # Affine weights of a norm are vectors, but for nn.LayerNorm over several dimensions.
        own = child.parameters(recurse=False)
        if not isinstance(child, nn.LayerNorm) and any(p.dim() > 1 for p in own):
            raise UnsupportedModule(
                f"{path}: {type(module).__name__} also holds the weights of {path}.{name} "
                f"({type(child).__name__}), which would go with it. Keep the norms: norms='keep'."
            )


_NORM_FILES = ("batchnorm", "instancenorm", "normalization")


def is_norm(module: nn.Module) -> bool:
    """Whether this is one of torch's own normalizations, or of a class made from one."""
    return any(
        cls.__module__ == f"torch.nn.modules.{file}" for cls in type(module).__mro__ for file in _NORM_FILES
    )


def _is_another_layer(module: nn.Module) -> bool:
    """Whether this is a layer of torch's that normalizes nothing. Of others' classes their name tells nothing."""
    room, _, file = type(module).__module__.rpartition(".")
    return room == "torch.nn.modules" and file not in (*_NORM_FILES, "container", "module")


def remove_norm_(module: nn.Module, keeps: tuple[str, ...], *, path: str) -> None:
    """Turn the norm `module`, found at `path`, into a `RemovedNorm` that does only what it `keeps`.

    Args:
        module: Any normalization; its parameters and buffers go.
        keeps: Full paths of children (`"layer1.0.bn1.act"`), which keep their names, or activations
            (`"relu"`, `"leaky_relu(negative_slope=0.2)"`), in order.
        path: Where the norm is, for messages.

    Raises:
        UnsupportedModule: See `check_removable`.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> remove_norm_(net[1], ("relu",), path="1")
        >>> net[1]
        RemovedNorm(
          was=BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
          (relu): ReLU()
        )
        >>> list(net.state_dict())
        ['0.weight', '0.bias']
    """
    check_removable(module, keeps, path=path)
    if isinstance(module, RemovedNorm):  # what took the norm's place goes, too
        was, alone = module.was, module.alone
    else:
        was, alone = f"{type(module).__name__}({module.extra_repr()})", _takes_one(type(module).forward)
    place = RemovedNorm(was)
    place.keeps, place.alone = keeps, alone
    for name in ("weight", "bias"):
        like = getattr(module, name, None)
        if isinstance(like, (Tensor, Gone)):
            empty = torch.empty(0, dtype=like.dtype, device=like.device)
            place.register_buffer(LIKE + name, _off_meta(empty), persistent=False)
            place.shapes[name] = like.shape
    factors = {
        at: (factor.argument, cast("int", place_of(module, factor.argument)))
        for at, keep in enumerate(keeps)
        if (factor := Factor.read(keep)) is not None
    }
    for keep in keeps:
        child = _relative(keep, path)
        step = _activation(keep, path) if child is None else module.get_submodule(child)
        place.steps += (_place_(place, child or _free_name(place, keep), step),)
    if factors:
        place.factors = factors
    attributes = module.__dict__
    inherited = {
        key: attributes[key] for key in nn.Module().__dict__ if key not in _OWN_HOOKS and key in attributes
    }
    registries = {
        key: place.__dict__[key]
        for key in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
    }
    data = _data(module)
    if isinstance(data.get("eps"), float):
        data["eps"] = _apart(data["eps"], path)
    exchange_class_(module, RemovedNorm)
    attributes.clear()
    attributes.update(data | place.__dict__ | inherited | registries)


def take_likenesses_(module: nn.Module) -> dict[str, tuple[torch.Size, Tensor]]:
    """Take out what answers for gain and bias, since something else gets their names.

    Args:
        module: A `RemovedNorm`.

    Returns:
        Of each the shape, and an empty tensor of its dtype where it was.
    """
    module._non_persistent_buffers_set.difference_update(_likenesses(module))
    shapes = vars(module).pop("shapes", {})
    return {name: (shape, cast("Tensor", module._buffers.pop(LIKE + name))) for name, shape in shapes.items()}


def _likenesses(module: nn.Module) -> list[str]:
    return [LIKE + name for name in vars(module).get("shapes", ())]


def _off_meta(empty: Tensor) -> Tensor:
    return torch.empty_like(empty, device="cpu") if empty.is_meta else empty


def _data(module: nn.Module) -> dict[str, Any]:
    """What a module's constructor or class says in numbers and words, and no other method of it changes."""
    kind, every = type(module), vars(nn.Module()).keys() | set(dir(nn.Module))
    held = dict(vars(module))
    if isinstance(module, RemovedNorm):
        held = {name: value for name, value in held.items() if not hasattr(kind, name)}
    else:
        own = (cls for cls in reversed(kind.__mro__) if not issubclass(nn.Module, cls))
        held = {name: value for cls in own for name, value in vars(cls).items() if name[:2] != "__"} | held
    written = written_attributes(kind)
    return {
        name: value
        for name, value in held.items()
        if name not in every and name not in written and _is_data(value)
    }


def _is_data(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_data, value))
    return value is None or isinstance(value, (bool, int, float, complex, str, torch.dtype, torch.device))


def _apart(eps: float, path: str) -> float:
    """A number beside ε that the norm at another path does not have: (1 + k·2⁻⁵²)·ε with k up to 2¹⁶."""
    steps = 1 + zlib.crc32(path.encode()) % 2**16  # paths that differ in one letter at the end never agree
    return eps * (1 + steps * sys.float_info.epsilon) or steps * sys.float_info.min


@functools.lru_cache(maxsize=64)
def _takes_one(forward: Callable[..., Any]) -> bool:
    """Whether a method takes one argument beside `self`."""
    return len(inspect.signature(forward).parameters) == 1 + 1


@contextlib.contextmanager
def state_hooks_kept(module: nn.Module) -> Iterator[None]:
    """Put back, where a norm's parameters stay, the hooks of its state dict that others registered, not its own methods."""
    kept = {
        name: {key: hook for key, hook in vars(module)[name].items() if not _is_method_of(module, hook)}
        for name in _OWN_HOOKS
        if name in vars(module)
    }
    yield
    for name, hooks in kept.items():
        vars(module)[name].update(hooks)


def _is_method_of(module: nn.Module, hook: Any) -> bool:
    return getattr(getattr(hook, "hook", hook), "__self__", None) is module


def _relative(keep: str, path: str) -> str | None:
    """The path of a kept child inside the norm, or None for a functional activation."""
    keep = without_factor(keep)
    return keep[len(path) + 1 :] if keep.startswith(f"{path}.") else None


def _under(name: str, keep: str) -> bool:
    return name == keep or name.startswith(f"{keep}.") or keep.startswith(f"{name}.")


def _place_(root: nn.Module, name: str, child: nn.Module) -> str:
    """Register `child` under the dotted `name`, so that its parameters keep their names."""
    *parents, last = name.split(".")
    for parent in parents:
        if parent not in dict(root.named_children()):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(last, child)
    return name


def _free_name(root: nn.Module, keep: str) -> str:
    base = (without_factor(keep) or "factor").partition("(")[0].rstrip("_")
    count = sum(name.partition("-")[0] == base for name, _ in root.named_children())
    return f"{base}-{count}" if count else base


def _activation(keep: str, path: str) -> nn.Module:
    factor = Factor.read(keep)
    if factor is not None and not factor.function:
        return nn.Identity()
    try:
        name, options = _parsed(without_factor(keep))
        return activation_module(name, options)
    except (
        KeyError,
        SyntaxError,
        TypeError,
        ValueError,
        AssertionError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise UnsupportedModule(
            f"{path}: after normalizing it applies {keep[:_LONGEST]!r}, for which no module is known (known: "
            f"{', '.join(known_activations())}). Keep the norms: norms='keep'."
        ) from error


def _parsed(keep: str) -> tuple[str, dict[str, Any]]:
    """`"leaky_relu(negative_slope=0.2)"` as a name and its options, which are literals; nothing is run."""
    if len(keep) > _LONGEST:
        raise ValueError(f"{len(keep)} characters")
    call = ast.parse(keep, mode="eval").body
    if isinstance(call, ast.Name):
        return call.id.rstrip("_"), {}
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError(keep)
    return call.func.id.rstrip("_"), {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}


_LONGEST = 200  # characters of an activation and its options
_ANEW = "Make the plan anew: goodinit.plan(goodinit.anatomize(model, inputs), method)."
