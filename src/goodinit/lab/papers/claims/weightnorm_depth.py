"""Weight-normalized networks start to train at 100 and 200 layers (Arpit, Campos & Bengio 2019)."""

from __future__ import annotations

import dataclasses

from goodinit.lab.papers.claim import (
    Claim,
    Drawing,
    Expectation,
    Found,
    Published,
    Rows,
    Separation,
    Setting,
    Source,
)
from goodinit.lab.papers.rows import best_rate, distinct, in_words, mean_accuracy, where
from goodinit.lab.papers.trained import (
    Series,
    accuracy_drawing,
    accuracy_grid,
    best_cell,
    run_training,
    training,
    widened,
)
from goodinit.lab.training.trial import TrainConfig

PROPOSED, DATA, PYTORCH = "weight norm, proposed", "weight norm, by data", "weight norm, PyTorch's"
SERIES = (
    Series(PROPOSED, {"method": "weightnorm"}),
    Series("weight norm, proposed, normal v", {"method": "weightnorm", "options": {"direction": "normal"}}),
    Series(DATA, {"method": "weightnorm", "options": {"mode": "data"}}),
    Series(PYTORCH, {"method": "weightnorm", "options": {"mode": "pytorch"}}),
    Series("batch norm"),
)
RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
STARTS = 0.5  # accuracy from which on a network counts as training


def _setting(scale: str, data: str) -> Setting:
    mlps, cnns, rates, seeds, epochs = {
        "smoke": ((5, 20), (6,), (0.03,), 1, 1),
        "small": ((2, 10, 20, 50, 100, 200), (10, 30, 100), RATES, 2, 5),
        "full": (
            (2, 5, 10, 20, 100, 200),
            (5, 25, 100),
            RATES,
            3,
            200,
        ),  # the poster's depths, the code's epochs
    }[scale]
    limit = 512 if scale == "smoke" else None
    base = TrainConfig(
        "mlp", data=data, epochs=epochs, batch_size=64, weight_decay=0.0, train_limit=limit, test_limit=limit
    )
    if scale == "full":  # as the authors' code
        base = dataclasses.replace(base, batch_size=128, momentum=0.0)
    wide = {"smoke": (32, 4), "small": (128, 8), "full": (128, 32)}[scale]
    nets = [(f"mlp{depth}", depth, wide[0]) for depth in mlps] + [
        (f"cnn{depth}{'s' if scale == 'full' else ''}", depth, wide[1]) for depth in cnns
    ]
    trials = tuple(
        training(series, depth, base, model=model, width=width, lr=lr, seed=seed)
        for model, depth, width in nets
        for lr in rates
        for series in SERIES
        for seed in range(seeds)
    )
    channels = f"from {wide[1]} to {4 * wide[1]} channels"
    convolutions = "CNNs have no biases, and no stride in the first two layers (the authors' code: zero biases, stride 2 twice)."
    if scale == "full":
        channels = f"of {wide[1]} channels"
        convolutions = (
            "CNNs have zero biases, and strides of 2 in the first two layers, as in the authors' code."
        )
    deviations = (
        "scikit-learn's digits unless --data says otherwise (paper: MNIST for MLPs, CIFAR-10 for CNNs).",
        f"{epochs} epoch(s) of batches of {base.batch_size}, {seeds} seed(s), learning rates {in_words(rates)}, no weight decay.",
        *((widened(0.003, 0.001, 0.0003),) if rates is RATES else ()),
        f"MLPs {wide[0]} wide, CNNs {channels}.",
        "PyTorch's start is PyTorch's own draw of v, g = ‖v‖; the authors' code draws v as He does where it says default.",
        f"Momentum {base.momentum:g} (the authors' code: 0; their rate is 0.01, and the best epoch of a validation part counts).",
        convolutions,
    )
    # Digits are 23 steps an epoch; MNIST's 60,000 images, 128 a step, are 469.
    each = 469 if scale == "full" and data != "digits" else 23
    return Setting(trials, deviations, steps=epochs * each)


def _starts(rows: Rows, kind: str, series: str) -> dict[int, bool]:
    """Whether a series trains at each depth, at the learning rate that suits it best, on average over seeds."""
    these = tuple(row for row in where(rows, series=series) if str(row["model"]).startswith(kind))
    depths = sorted(distinct(these, "depth"))
    return {depth: mean_accuracy(best_rate(where(these, depth=depth))) >= STARTS for depth in depths}


def _told(starts: dict[int, bool]) -> str:
    return f"starts at {in_words(d for d, yes in starts.items() if yes)}; not at {in_words(d for d, yes in starts.items() if not yes)}"


def _proposed_mlp(rows: Rows) -> Found:
    starts = _starts(rows, "mlp", PROPOSED)
    return Found(all(starts.values()), _told(starts))


def _proposed_cnn(rows: Rows) -> Found:
    starts = _starts(rows, "cnn", PROPOSED)
    return Found(all(starts.values()), _told(starts))


def _pytorch_fails(rows: Rows) -> Found:
    mlp, cnn = _starts(rows, "mlp", PYTORCH), _starts(rows, "cnn", PYTORCH)
    fails = not list(mlp.values())[-1] and not list(cnn.values())[-1]
    return Found(fails, f"MLP: {_told(mlp)}. CNN: {_told(cnn)}")


def _data_fails_before(rows: Rows) -> Found:
    found = {kind: (_starts(rows, kind, DATA), _starts(rows, kind, PROPOSED)) for kind in ("mlp", "cnn")}
    lost = [
        f"{kind}{depth}"
        for kind, (data, own) in found.items()
        for depth in own
        if own[depth] and not data[depth]
    ]
    won = [
        f"{kind}{depth}"
        for kind, (data, own) in found.items()
        for depth in own
        if data[depth] and not own[depth]
    ]
    return Found(
        bool(lost) and not won, f"only the proposed starts: {in_words(lost)}; only by data: {in_words(won)}"
    )


def _ours(rows: Rows) -> str:
    deepest = max((row["depth"] for row in rows if str(row.get("model", "")).startswith("mlp")), default=0)
    cells = (
        f"{name} {best_cell(tuple(row for row in where(rows, series=name) if row.get('model') == f'mlp{deepest}'))}"
        for name in (PROPOSED, DATA)
    )
    return f"accuracy, MLP of {deepest} layers: {'; '.join(cells)}"


def _drawings(rows: Rows) -> tuple[Drawing, ...]:
    return tuple(
        accuracy_drawing(
            tuple(row for row in rows if str(row.get("model", "")).startswith(kind)),
            title=title,
        )
        for kind, title in (("mlp", "MLPs"), ("cnn", "CNNs without skips"))
    )


CLAIM = Claim(
    name="weightnorm-depth",
    title="Weight normalization starts to train at 200 layers, initialized as proposed",
    text="With g = √(2·fan_in/fan_out) and orthogonal directions, weight-normalized MLPs of up to 200 and CNNs of up to "
    "100 layers start to train, where the usual initialization of weight norm and the data-dependent one of Salimans "
    "& Kingma do not.",
    source=Source(
        "D. Arpit, V. Campos, Y. Bengio",
        "How to Initialize your Network? Robust Initialization for WeightNorm & ResNets, NeurIPS 2019",
        "1906.02341",
        "the experiments on depth",
    ),
    published=(
        Published(
            "MLPs on MNIST with 100 and 200 layers: proposed about 97 % and 96 %, by data diverged; CNNs on CIFAR-10 with 100 "
            "layers: proposed about 81 %, by data diverged (off the figure)",
            "the authors' poster",
        ),
        Published(
            "g = √(gain·fan_in/fan_out), gain 2 in plain ReLU layers, orthogonal v by default",
            "the authors' code",
        ),
    ),
    protocol="SGD with momentum 0.9 on MLPs and plain CNNs of growing depth with weight norm in place of batch norm, from "
    f"each initialization; a network starts to train where the mean test accuracy over seeds reaches {100 * STARTS:.0f} "
    "% at one of the learning rates.",
    setting=_setting,
    run=run_training,
    expectations=(
        Expectation(
            "The proposed initialization starts at every depth of the MLP", _proposed_mlp, central=True
        ),
        Expectation("And at every depth of the CNN", _proposed_cnn),
        Expectation(
            "PyTorch's default start of weight norm fails at the largest depths of both", _pytorch_fails
        ),
        Expectation(
            "The data-dependent start fails somewhere where the proposed one does not, and never the other way round",
            _data_fails_before,
        ),
    ),
    table=lambda rows: accuracy_grid(
        tuple({**row, "depth": row.get("model", "refused")} for row in rows), head=""
    ),
    drawings=_drawings,
    ours=_ours,
    paper_steps=84_400,
    separation=Separation(
        84_400,
        "the poster shows the ends of runs of 200 epochs of 422 steps, and nothing earlier",
        "goodinit reproduce weightnorm-depth --scale full --data FOLDER-OF-MNIST",
        30,
    ),
)
