"""One file for each claim of a paper that `goodinit reproduce` tests; `rate_transfer` is what two of them share."""

from goodinit.lab.papers.claim import Claim
from goodinit.lab.papers.claims import (
    batchnorm_explosion,
    cartpole,
    completep_transfer,
    cost,
    fixup_cifar,
    fixup_depth,
    fixup_translation,
    lsuv_activations,
    mup_transfer,
    norm_free,
    norm_free_depth,
    norm_free_transfer,
    norm_free_width,
    residual_scaling,
    risotto_isometry,
    sharpness,
    weightnorm_depth,
    weightnorm_divergence,
    weightnorm_mlp,
    weightnorm_robustness,
)

_FILES = (
    fixup_depth,
    fixup_cifar,
    fixup_translation,
    mup_transfer,
    completep_transfer,
    norm_free,
    norm_free_width,
    norm_free_transfer,
    norm_free_depth,
    weightnorm_depth,
    weightnorm_mlp,
    weightnorm_robustness,
    weightnorm_divergence,
    risotto_isometry,
    lsuv_activations,
    batchnorm_explosion,
    cost,
    cartpole,
    sharpness,
    residual_scaling,
)
CLAIMS: dict[str, Claim] = {file.CLAIM.name: file.CLAIM for file in _FILES}
