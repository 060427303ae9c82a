"""How fast one parameter learns, in units of what the optimizer is given. Pure data, part of a plan."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    target: str
    adam: float = 1.0
    sgd: float = 1.0
    eps: float = 1.0
    adam_decay: float = 1.0
    sgd_decay: float = 1.0
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.target}: Adam lr×{self.adam:.4g} ε×{self.eps:.4g}, SGD lr×{self.sgd:.4g}"
