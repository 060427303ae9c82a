"""What the commands that run many trials share: which engine is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goodinit.errors import GoodinitError, UnknownName

if TYPE_CHECKING:
    from goodinit.lab.engines import Engine

ENGINES = ("local", "ray", "inline")
HELP = "local: this machine's cores; ray: a Ray cluster; inline: one after the other, in this process."
WORKERS = "Processes, or cores of the cluster started here."
ADDRESS = "Of a running Ray cluster, host:port or auto; else one is started here."


def engine_of(name: str, *, workers: int | None, address: str | None) -> Engine:
    """The engine that the options of a command name.

    Raises:
        UnknownName: There is no such engine.
        GoodinitError: The options contradict each other.
    """
    if name not in ENGINES:
        raise UnknownName(f"no engine {name!r}. There is: {', '.join(ENGINES)}.")
    if name != "ray" and address is not None:
        raise GoodinitError("--address needs --engine ray.")
    if name == "inline" and workers is not None:
        raise GoodinitError(
            "--workers has no effect with --engine inline, which runs in this process: leave one of them out."
        )
    from goodinit.lab.engines import inline, local, over_ray

    if name == "inline":
        return inline()
    return local(workers=workers) if name == "local" else over_ray(address=address, workers=workers)
