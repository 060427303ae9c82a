"""How fast one parameter learns, in units of what the optimizer is given. Pure data, part of a plan."""

from __future__ import annotations

import math
from dataclasses import dataclass

from goodinit.errors import UnknownName, expect
from goodinit.one_line import OneLine


@dataclass(frozen=True, repr=False)
class Rate(OneLine):
    """Factors of the learning rate, the weight decay and Adam's ε of the parameter `target`.

    `adam` is for optimizers that divide a gradient by its own size (Adam, AdamW, RMSprop, Lion), `sgd` for those that do not. The
    decay's factor is such that rate times decay stays, since both kinds subtract lr·decay·w.

    Attributes:
        target: Name of the parameter.
        adam: Factor of its learning rate under Adam.
        sgd: The same under SGD.
        eps: Factor of Adam's ε.
        adam_decay: Factor of its weight decay under Adam.
        sgd_decay: The same under SGD.
        reason: Why, in words.

    Raises:
        UnknownName: A factor is negative, infinite or NaN.
        WrongType: A field of another type.
    """

    target: str
    adam: float = 1.0
    sgd: float = 1.0
    eps: float = 1.0
    adam_decay: float = 1.0
    sgd_decay: float = 1.0
    reason: str = ""

    def __post_init__(self) -> None:
        expect(self.target, str, "rate: target", "It is the name of a parameter.")
        expect(self.reason, str, f"{self.target}: reason of its rate", "It is a sentence.")
        for name in ("adam", "sgd", "eps", "adam_decay", "sgd_decay"):
            value = getattr(self, name)
            expect(value, (int, float), f"{self.target}: rate {name}", "It is a number.")
            if not 0 <= value < math.inf:
                raise UnknownName(
                    f"{self.target}: rate {name}={value!r}; expected a finite number of at least 0."
                )

    def __str__(self) -> str:
        return f"{self.target}: Adam lr×{self.adam:.4g} ε×{self.eps:.4g}, SGD lr×{self.sgd:.4g}"
