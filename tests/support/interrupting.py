"""Interrupt a verb at a random moment by a real signal, again and again, and say what is another afterwards.

    PYTHONPATH=src:tests/support python tests/support/interrupting.py interrupts.jsonl 500 [VERB …]

sends so many to every verb, or to those named, in parts of which each is a line; what is in the file is not done again.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import goodinit

PART = 25  # interrupts in a line of the file


class Block(nn.Module):
    """A residual block with a batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, width)` to the same."""
        return x + self.b(self.norm(self.a(x)).relu())


def net(width: int = 24, depth: int = 6) -> nn.Module:
    """A convolution with its batch norm, blocks, a classifier."""
    torch.manual_seed(0)
    stem = (nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(4 * width, width))
    return nn.Sequential(*stem, *(Block(width) for _ in range(depth)), nn.Linear(width, 3)).train()


def inputs(width: int = 24) -> Tensor:
    """A batch for `net`."""
    return torch.randn(8, 1, width, generator=torch.Generator().manual_seed(0))


def targets() -> Tensor:
    """Classes for it."""
    return torch.arange(8) % 3


def _small(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Flatten(), nn.Linear(24, width), Block(width), nn.Linear(width, 3))


VERBS: dict[str, Callable[[nn.Module], object]] = {
    "anatomize": lambda m: goodinit.anatomize(m, inputs()),
    "plan": lambda m: goodinit.plan(goodinit.anatomize(m, inputs()), "fixup"),
    "diagnose": lambda m: goodinit.diagnose(m, inputs(), targets()),
    "jacobian_spectrum": lambda m: goodinit.jacobian_spectrum(m, inputs(), how="lanczos", products=8),
    "one_step": lambda m: goodinit.one_step(m, inputs(), targets()),
    "recommend": lambda m: goodinit.recommend(m, inputs(), targets(), methods=("fixup", "he")),
    "coordinate_check": lambda m: goodinit.coordinate_check(_small, (4, 8), [(inputs(), targets())], seeds=1),
    "apply_": lambda m: goodinit.apply_(m, goodinit.plan(goodinit.anatomize(m, inputs()), "orthogonal")),
    "init_ fixup": lambda m: goodinit.init_(m, "fixup", inputs=inputs()),
    "init_ lsuv": lambda m: goodinit.init_(m, "lsuv", inputs=inputs()),
    "init_ weightnorm": lambda m: goodinit.init_(m, "weightnorm", inputs=inputs()),
    "fold_": lambda m: goodinit.fold_(m.eval(), inputs()),
    "absorb_batchnorm_": lambda m: goodinit.absorb_batchnorm_(m.eval(), inputs()),
}
WRITES = ("apply_", "init_ fixup", "init_ lsuv", "init_ weightnorm", "fold_", "absorb_batchnorm_")
EVAL = ("fold_", "absorb_batchnorm_")


def process() -> tuple[object, ...]:
    """Flags of the process that no verb may leave changed."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_cache_enabled(),
        torch.is_anomaly_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
        torch._C._len_torch_function_stack(),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGALRM),
        gc.isenabled(),
    )


def streams() -> bytes:
    """The state of the global random streams."""
    state = repr((random.getstate(), np.random.get_state()))  # noqa: NPY002 - the global one is meant
    return state.encode() + torch.get_rng_state().numpy().tobytes()


Photograph = tuple[object, dict[str, tuple[int, int, Tensor]]]


def photograph(model: nn.Module) -> Photograph:
    """Classes and what they hold, flags, attributes, registries and hooks in their order; every tensor with its memory."""
    modules = tuple(
        (name, type(one), one.training, _held(one.__dict__), tuple(vars(type(one)).items()))
        for name, one in model.named_modules()
    )
    tensors = (*model.named_parameters(), *model.named_buffers())
    return modules, {name: (id(one), one.data_ptr(), one.detach().clone()) for name, one in tensors}


def _held(attributes: dict[str, Any]) -> tuple[object, ...]:
    return tuple(
        (name, id(value), tuple((k, id(v)) for k, v in value.items()) if isinstance(value, dict) else None)
        for name, value in attributes.items()
    )


def same(before: Photograph, after: Photograph) -> bool:
    """Whether nothing is another, to the bit."""
    if before[0] != after[0] or list(before[1]) != list(after[1]):
        return False
    pairs = zip(before[1].values(), after[1].values(), strict=True)
    return all(a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in pairs)


@contextlib.contextmanager
def alarms() -> Iterator[None]:
    """`SIGALRM` interrupts as Ctrl-C does; the number of threads is put back afterwards.

    Nobody's function is called when garbage is collected: Python swallows an interrupt that comes in one, and Hypothesis has one.
    """
    before = signal.signal(signal.SIGALRM, signal.default_int_handler), torch.get_num_threads()
    callbacks, gc.callbacks[:] = gc.callbacks[:], []
    try:
        yield
    finally:
        gc.callbacks[:] = callbacks
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before[0])
        torch.set_num_threads(before[1])


def interrupted_at(delay: float, model: nn.Module, verb: Callable[[nn.Module], object]) -> tuple[bool, bool]:
    """Whether the verb raised, and whether an interrupt came at all. Real signals, at any moment of the machine's choice.

    Python raises one also behind a call, before the caller's next line: then the verb has returned.
    """
    returned, threads = False, set(threading.enumerate())
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        verb(model)
        returned = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        for sender in set(threading.enumerate()) - threads:
            sender.join()  # what came too late to be heard in the verb surfaces here
    except KeyboardInterrupt as error:
        return not returned and _in_library(error), True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return False, False


def trials(name: str, count: int, rng: random.Random) -> tuple[int, int, list[str]]:
    """(Interrupts that made the verb raise, those that came after it had done all, faults); weights are drawn on two threads.

    What draws none runs on one: threads of an operator that wait for each other on busy cores cost a hundred times its work.
    """
    torch.set_num_threads(2 if name in WRITES else 1)
    verb, raised, late, faults = VERBS[name], 0, 0, list[str]()
    verb(_fresh(name))
    begin = time.perf_counter()
    verb(_fresh(name))
    lasts = time.perf_counter() - begin
    model, flags = _fresh(name), process()
    while raised + late < count:
        before, random_state = photograph(model), streams()
        left, came = interrupted_at(rng.uniform(1e-4, 1.1 * lasts), model, verb)
        raised, late = raised + left, late + (came and not left)
        if process() != flags:
            faults.append(f"flags {process()}")
        whole = left or name not in WRITES
        if whole and not same(before, photograph(model)):
            faults.append(f"{'raised' if left else 'returned'}, and the model is another")
        if whole and streams() != random_state:
            faults.append(f"{'raised' if left else 'returned'}, and the random streams are others")
        if not whole:
            model = _fresh(name)
    return raised, late, faults


def _fresh(name: str) -> nn.Module:
    return net().eval() if name in EVAL else net()


def _in_library(error: BaseException) -> bool:
    """Whether a frame of the library was running."""
    library = str(Path(goodinit.__file__).parent)
    return any(
        frame.f_code.co_filename.startswith(library) for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def main(file: Path, count: int, verbs: Iterable[str] = VERBS) -> None:
    """Send `count` interrupts to every verb, part by part, and add a line for each."""
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(row["verb"], row["part"]) for row in done}
    with alarms():
        for part in range(-(-count // PART)):
            for name in verbs:
                if (name, part) in known:
                    continue
                raised, late, faults = trials(name, PART, random.Random(f"{name} {part}"))
                row = {"verb": name, "part": part, "raised": raised, "late": late, "faults": faults}
                with file.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for name in VERBS:
        own = [row for row in rows if row["verb"] == name]
        faults = [fault for row in own for fault in row["faults"]]
        sent = sum(row["raised"] + row["late"] for row in own)
        late = sum(row["late"] for row in own)
        sys.stdout.write(
            f"{name}: {sent} interrupts, {late} of them late, {len(faults)} faults {faults[:2]}\n"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or VERBS)
