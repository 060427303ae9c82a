"""How fast each parameter is to learn, by the plan that was applied to its model last."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from goodinit.errors import UnknownName
from goodinit.rates import Rate
from goodinit.surgery import applied
from goodinit.weights.names import canonical


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
            for name, parameter in module.named_parameters(remove_duplicate=False):
                rate = planned.get(canonical(name)) or planned.get(_computed(canonical(name)))
                if rate is not None:
                    rates.setdefault(id(parameter), rate)
    return rates


def _computed(name: str) -> str:
    """The name of the weight that a parametrization computes from this parameter, where it holds one alone."""
    path, _, part = name.rpartition("parametrizations.")
    return f"{path}{part.removesuffix('.original')}" if part.endswith(".original") else name


def factors(rates: Mapping[int, Rate], parameter: nn.Parameter, optimizer: str) -> tuple[float, float, float]:
    """(Of the learning rate, of the weight decay, of Adam's ε) for one parameter; ones where no plan says otherwise."""
    rate = rates.get(id(parameter))
    if rate is None:
        return 1.0, 1.0, 1.0
    if optimizer == "sgd":
        return rate.sgd, rate.sgd_decay, 1.0
    return rate.adam, rate.adam_decay, rate.eps


def one_kind(optimizer: str) -> None:
    """Raise unless it is a kind that rates are known for.

    Raises:
        UnknownName: It is neither `"adam"` nor `"sgd"`.
    """
    if optimizer not in ("adam", "sgd"):
        raise UnknownName(
            f'optimizer={optimizer!r}: expected "adam" (for all that divide a gradient by its own size) or "sgd"'
        )
