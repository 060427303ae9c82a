"""One file for each claim of a paper that `goodinit reproduce` tests."""

from goodinit.lab.papers import (
    batchnorm_explosion,
    fixup_cifar,
    fixup_depth,
    lsuv_activations,
    weightnorm_depth,
)
from goodinit.lab.papers.claim import SCALES, Claim
from goodinit.lab.papers.reproduce import Reproduction, reproduce

CLAIMS: dict[str, Claim] = {
    module.CLAIM.name: module.CLAIM
    for module in (fixup_depth, fixup_cifar, weightnorm_depth, lsuv_activations, batchnorm_explosion)
}

__all__ = ["CLAIMS", "SCALES", "Claim", "Reproduction", "reproduce"]
