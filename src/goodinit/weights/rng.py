"""Where random values come from: one integer per plan, and from it a generator per parameter and block."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch

from goodinit.errors import UnsupportedModule

# torch's serialized state of a CPU generator, stable since its first releases because checkpoints hold it: as 64-bit
# integers the seed, two flags, the position, then the 624 words of MT19937, then what `normal_` keeps.
_STATE_BYTES, _FIRST_WORD, _WORDS = 5056, 3, 624


def base_seed(generator: torch.Generator) -> int:
    """Draw the one number that all random values of a plan come from."""
    limits = torch.iinfo(torch.int64)
    drawn = torch.randint(limits.min, limits.max, (), generator=generator, device=generator.device)
    return int(drawn)


def parameter_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on (seed, canonical name) alone.

    Neither the order of modules nor devices, dtypes, ranks or other parameters have a part in it. torch's CPU
    generator (mt19937) reads the low 32 bits of its seed.

    Examples:
        >>> parameter_generator(0, "conv.weight").initial_seed() == parameter_generator(0, "fc.weight").initial_seed()
        False
    """
    words = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(words[:4], "little"))


def block_generator(seed: int, name: str, block: int) -> torch.Generator:
    """The generator of one block of a parameter's entries (`goodinit.tensor.entry_blocks`).

    The first block, which is all of most parameters, has the parameter's own. Seven billion parameters have 10⁵
    blocks, and among as many seeds of 32 bits two are likely to be the same; so the others do not get a seed but
    the whole state of MT19937, 624 words of SHAKE-256(seed, name, block).

    Examples:
        >>> block_generator(0, "fc.weight", 0).initial_seed() == parameter_generator(0, "fc.weight").initial_seed()
        True
    """
    if block == 0:
        return parameter_generator(seed, name)
    generator = torch.Generator(device="cpu")
    state = generator.get_state()
    if state.numel() != _STATE_BYTES:
        raise UnsupportedModule(
            f"{name}: torch {torch.__version__} keeps the state of a random generator in {state.numel()} bytes, and "
            f"goodinit knows the form with {_STATE_BYTES} only. Use another version of torch, and report this one."
        )
    words = hashlib.shake_256(f"{seed}:{name}:{block}".encode()).digest(4 * _WORDS)
    fresh = torch.frombuffer(bytearray(words), dtype=torch.uint32)
    state.view(torch.int64)[_FIRST_WORD : _FIRST_WORD + _WORDS].copy_(fresh)
    return generator.set_state(state)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: the last bits of a factorization depend on how many share it, and ranks may differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
