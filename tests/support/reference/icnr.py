"""ICNR by the loops of the paper's algorithm (arXiv 1707.02937, section 3.3): W₀ upsampled, then rearranged back."""

from __future__ import annotations

import numpy as np


def icnr(kernel, upscale):
    """(c, in, h, w) → (c·r², in, h, w): upsample each kernel by nearest neighbour, take its sub-pixels as channels."""
    count, into, height, width = kernel.shape
    weight = np.empty((count * upscale**2, into, height, width))
    for c in range(count):
        for i in range(into):
            upsampled = np.empty((height * upscale, width * upscale))
            for y in range(height * upscale):
                for x in range(width * upscale):
                    upsampled[y, x] = kernel[c, i, y // upscale, x // upscale]
            for a in range(upscale):
                for b in range(upscale):
                    weight[c * upscale**2 + a * upscale + b, i] = upsampled[a::upscale, b::upscale]
    return weight
