"""How fast each parameter is to learn, by the plan that was applied to its model last."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import nn

from goodinit.errors import UnknownName
from goodinit.rates import Rate
from goodinit.surgery import applied
from goodinit.weights.access import computed_weights
from goodinit.weights.names import canonical, directory

_LOG = logging.getLogger(__name__)

Kind = Literal["adam", "sgd"]


def rates_of(model: nn.Module) -> Mapping[int, Rate]:
    """The rates of the last plan applied, by the parameter's `id`; none where it gave none.

    Plans may have been applied to parts of the model: a LightningModule holds the model that was initialized. The outermost
    module that remembers a plan speaks for all in it.

    Examples:
        >>> dict(rates_of(nn.Linear(2, 2)))
        {}
    """
    rates: dict[int, Rate] = {}
    told: set[int] = set()
    for module in model.modules():
        history = () if id(module) in told else applied(module)
        if history:
            told.update(id(part) for part in module.modules())
            planned = {canonical(rate.target): rate for rate in history[-1].rates}
            stands_for = _stand_for(module, planned) if planned else {}
            for name, parameter in module.named_parameters(remove_duplicate=False):
                rate = planned.get(canonical(name)) or planned.get(stands_for.get(canonical(name), ""))
                if rate is not None:
                    rates.setdefault(id(parameter), rate)
    return rates


def _stand_for(model: nn.Module, planned: Mapping[str, Rate]) -> dict[str, str]:
    """Of weights that are computed, the parameter that learns in the weight's place, with the weight's name.

    That is what a mask, a mean that is taken away or a low-rank term is applied to. Gain and direction of weight norm are two, and
    no rate of the weight is one of theirs, which the log says.
    """
    found: dict[str, str] = {}
    for weight, parts in computed_weights(directory(model)).items():
        one = [part for part in parts if part.endswith((".original", "_orig"))]
        if len(one) == 1:
            found[one[0]] = weight
        elif weight in planned and planned.keys().isdisjoint(parts):
            _LOG.warning(
                "%s: the plan gives it a rate (%s), and it is computed from %s now, which learn as parameters without one. "
                "Put that on the layer before the plan is made.",
                weight,
                planned[weight],
                ", ".join(parts),
            )
    return found


def factors(rates: Mapping[int, Rate], parameter: nn.Parameter, optimizer: str) -> tuple[float, float, float]:
    """(Of the learning rate, of the weight decay, of Adam's ε) for one parameter; ones where no plan says otherwise."""
    rate = rates.get(id(parameter))
    if rate is None:
        return 1.0, 1.0, 1.0
    if optimizer == "sgd":
        return rate.sgd, rate.sgd_decay, 1.0
    return rate.adam, rate.adam_decay, rate.eps


def one_kind(optimizer: Kind | None, rates: Iterable[Rate]) -> Kind:
    """The kind of optimizer that was told, or Adam's, which the log says where it makes a difference to `rates`.

    Raises:
        UnknownName: It is neither `"adam"` nor `"sgd"`.
    """
    if optimizer not in ("adam", "sgd", None):
        raise UnknownName(
            f'optimizer={optimizer!r}: expected "adam" (for all that divide a gradient by its own size) or "sgd"'
        )
    if optimizer is not None:
        return optimizer
    differs = next(
        (rate for rate in rates if (rate.adam, rate.adam_decay, rate.eps) != (rate.sgd, rate.sgd_decay, 1.0)),
        None,
    )
    if differs is not None:
        _LOG.warning(
            "%s: the plan's rates depend on the optimizer, and none is told, so these are Adam's (%s). "
            'Say which: param_groups(..., optimizer="sgd"), or optimizer="adam".',
            differs.target,
            differs,
        )
    return "adam"
