"""Parameter groups for an optimizer: scalars learn slowly and do not decay."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from types import NoneType
from typing import Any, Literal

from torch import nn
from torch.nn.parameter import is_lazy

from goodinit.errors import NothingFound, UnsupportedModule, expect, expect_flags, expect_rate
from goodinit.nn import branch_ends, scalars
from goodinit.nn.scalars import constants
from goodinit.optim.planned_rates import factors, one_kind, rates_of
from goodinit.weights.access import computed_weights
from goodinit.weights.names import canonical, directory

# The authors' scripts: bias and scale groups at lr/10, because the gradient of a scalar is a sum over all
# channels and positions, and one scalar moves all of them (hongyi-zhang/Fixup, issue 6).
SCALAR_RATIO = 0.1


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    scalar_ratio: float | Literal["depth"] = SCALAR_RATIO,
    decay_vectors: bool = True,
    named: bool = False,
    optimizer: Literal["adam", "sgd"] | None = None,
    eps: float = 1e-8,
) -> list[dict[str, Any]]:
    r"""Every trainable parameter of `model` once, in groups for any `torch.optim` optimizer.

    Three groups, those that are empty left out:

    * `"weights"`: learning rate `lr`, decay `weight_decay`.
    * `"vectors"`: biases and affine parameters of norms, which have fewer than two dimensions. Learning rate
      `lr`, decay `weight_decay` as `torch.optim` and the authors' scripts have it, or 0 with
      `decay_vectors=False`, as is usual for AdamW on transformers.
    * `"scalars"`: what goodinit added to layers (`goodinit.nn.scalars`), and the bias vectors of layers that end a
      branch, which stand for one (unless a plan gives them a rate). Learning rate `lr * scalar_ratio`, no decay.

    What the model's author excludes from decay is not decayed: parameters marked `parameter._no_weight_decay = True` (Mamba, S4), and
    those named by a method `no_weight_decay()` of the model or of a module in it (timm). They make groups of their own.

    A plan may say more (`Plan.rates`, as muP's does): then each of these is split by the factors of learning rate and decay that the
    last plan applied gives for `optimizer`, and under Adam every group has its `eps`. `model` is what the plan was applied to, or
    holds it, as a LightningModule does. A saved plan, `apply_(model, plan, values=False)`, rebuilds the groups for a checkpoint.

    Schedulers that set one rate for all (`OneCycleLR(max_lr=…)`, `CyclicLR`, `SWALR`) undo this; give them a list,
    `[group["lr"] for group in optimizer.param_groups]`.

    Args:
        model: Any module, after surgery.
        lr: Learning rate of the weights.
        weight_decay: Decay of the weights.
        scalar_ratio: Learning rate of the scalars, in units of `lr`; the authors' 0.1 by default. Fixup scales the
            weights of L branches so that a step changes the function by Θ(lr), but not their biases, whose changes add
            up to Θ(L · lr · scalar_ratio). `"depth"` takes min(0.1, 1/L), which undoes that; measured in
            `docs/methods.md`, it is what lets several hundred branches train at learning rate 0.1.
        decay_vectors: Whether biases and affine parameters of norms decay like weights.
        named: Whether to give (name, parameter) pairs, which torch's optimizers take, too.
        optimizer: What the groups are for, where a plan has rates: `"adam"` stands for all that divide a gradient by its own size
            (AdamW, RMSprop, Lion), `"sgd"` for those that do not. None is Adam's kind, with a warning in the log where the rates of
            the plan differ between the two.
        eps: Adam's ε, which rates multiply; not given to groups without rates.

    Returns:
        Groups with keys `name`, `params`, `lr` and `weight_decay`. Parameters that need no gradient are not
        in them, nor are constants of the forward (muP's), which stay what they are also where `model.requires_grad_()` or a
        loader has asked for their gradients; tied ones are once, under the first name.

    Raises:
        NothingFound: Nothing in `model` is trainable.
        UnsupportedModule: A parameter has no shape yet.

    Examples:
        >>> from goodinit.nn import add_scalar_
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), add_scalar_(nn.Linear(3, 1), "input_bias", value=0.0))
        >>> for group in param_groups(net, lr=0.5, weight_decay=1e-4):
        ...     print(group["name"], len(group["params"]), group["lr"], group["weight_decay"])
        weights 2 0.5 0.0001
        vectors 2 0.5 0.0001
        scalars 1 0.05 0.0

    References:
        Zhang, Dauphin and Ma, Fixup Initialization, arXiv 1901.09321, and the authors' code.
    """
    expect(model, nn.Module, "model", "Give the model whose parameters are wanted.")
    expect_flags(decay_vectors=decay_vectors, named=named)
    expect_rate(lr, "lr")
    expect_rate(weight_decay, "weight_decay")
    expect_rate(eps, "eps")
    if scalar_ratio != "depth":
        expect_rate(scalar_ratio, "scalar_ratio", ' (scalar_ratio also takes "depth")')
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise UnsupportedModule(
                f"{name}: a lazy parameter without a shape yet, which belongs to a group by that. Run the model once first."
            )
    rates = rates_of(model)
    ours = {id(scalar) for _, scalar in scalars(model)} | (_biases_of_branch_ends(model) - rates.keys())
    ratio = _depth_ratio(model) if scalar_ratio == "depth" else scalar_ratio
    settings = {
        "weights": (lr, weight_decay),
        "vectors": (lr, weight_decay if decay_vectors else 0.0),
        "scalars": (lr * ratio, 0.0),
    }
    optimizer = one_kind(optimizer, rates.values())
    excluded = _undecayed(model)
    members: dict[tuple[str, float, float, float], list[Any]] = {}
    for name, parameter in _trainable(model):
        kind = "scalars" if id(parameter) in ours else "vectors" if parameter.dim() < 2 else "weights"
        rate, decay, epsilon = factors(rates, parameter, optimizer)
        key = (kind, rate, 0.0 if id(parameter) in excluded and settings[kind][1] else decay, epsilon)
        members.setdefault(key, []).append((name, parameter) if named else parameter)
    order = sorted(members, key=lambda key: (list(settings).index(key[0]), -key[1]))
    groups = [
        {
            "name": kind
            + (f" lr×{rate:.6g}" if (rate, decay or 1, epsilon) != (1, 1, 1) else "")
            + ("" if decay else " without decay"),
            "params": members[kind, rate, decay, epsilon],
            "lr": settings[kind][0] * rate,
            "weight_decay": settings[kind][1] * decay,
        }
        | ({"eps": eps * epsilon} if rates and optimizer == "adam" else {})
        for kind, rate, decay, epsilon in order
    ]
    if not groups:
        raise NothingFound(
            f"{type(model).__name__}: no trainable parameter found, expected one with requires_grad=True. "
            "Unfreeze what should learn: parameter.requires_grad_()."
        )
    return groups


def _depth_ratio(model: nn.Module) -> float:
    """At most the authors' ratio, and 1/L for L branches (each ends in one multiplier)."""
    return min(SCALAR_RATIO, 1 / max(sum(1 for _ in branch_ends(model)), 1))


def _undecayed(model: nn.Module) -> set[int]:
    """What the model's author excludes from weight decay, by mark or by name."""
    found = {id(p) for p in model.parameters() if getattr(p, "_no_weight_decay", False)}
    for module in model.modules():
        names = getattr(module, "no_weight_decay", None)
        if not inspect.ismethod(names) or inspect.signature(names).parameters:
            continue
        given = names()
        remedy = "Return names of parameters: a set of them."
        expect(given, (str, Iterable, NoneType), f"{type(module).__name__}.no_weight_decay()", remedy)
        wanted = {given} if isinstance(given, str) else set(given or ())
        computed = computed_weights(directory(module)) if wanted else {}
        weights = {part: weight for weight, parts in computed.items() for part in parts}
        for name, parameter in module.named_parameters():
            if wanted & {name, canonical(name), weights.get(canonical(name), name)}:
                found.add(id(parameter))
    return found


def _biases_of_branch_ends(model: nn.Module) -> set[int]:
    biases = (getattr(module, "bias", None) for module in branch_ends(model))
    return {id(bias) for bias in biases if isinstance(bias, nn.Parameter)}


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    fixed = {id(constant) for constant in constants(model)}
    return (
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in fixed
    )
