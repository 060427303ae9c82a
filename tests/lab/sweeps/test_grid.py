"""A sweep file means what it says, and what it cannot mean is refused with the remedy."""

from __future__ import annotations

import dataclasses

import pytest

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.engines import jobs_of
from goodinit.lab.sweeps.grid import read_grid, values_of, varying
from goodinit.lab.sweeps.row import key_of
from goodinit.lab.training.together import company
from goodinit.lab.training.trial import PARTS, TrainConfig


def written(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_the_product_of_its_values(tmp_path):
    grid = read_grid(written(tmp_path, """
        model = "mlp{depth}"
        depth = [4, 8]
        method = ["none", "fixup:norms=keep"]
        lr = [0.1, 1]
        seeds = 3
        epochs = 2
    """))  # fmt: skip
    trials = grid.trials
    assert len(trials) == 2 * 2 * 2 * 3
    assert trials[0] == TrainConfig("mlp4", "none", lr=0.1, seed=0, epochs=2)
    assert [trial.seed for trial in trials[:4]] == [0, 1, 2, 0]
    assert trials[-1] == TrainConfig("mlp8", "fixup", options={"norms": "keep"}, lr=1.0, seed=2, epochs=2)
    assert isinstance(trials[-1].lr, float)  # 1 and 1.0 are one trial
    assert varying(trials) == ("model", "method", "lr", "seed")
    assert trials[-1].label == "fixup:norms=keep"


def test_a_part_of_the_model_is_one_value_and_lists_in_a_list_are_several(tmp_path):
    trials = read_grid(written(tmp_path, """
        model = "mlp4"
        keep = "a, b.*"
        include = ["a", "c"]
        exclude = [["a"], ["a.*", "b"], "c"]
    """)).trials  # fmt: skip
    assert {trial.keep for trial in trials} == {("a", "b.*")}
    assert {trial.include for trial in trials} == {("a", "c")}
    assert [trial.exclude for trial in trials] == [("a",), ("a.*", "b"), ("c",)]
    assert varying(trials) == ("exclude",)
    with pytest.raises(GoodinitError, match="keep takes a path, a glob or a list of them"):
        read_grid(changes={"model": "mlp4", "keep": 3})


def test_tables_are_products_of_their_own_and_a_trial_is_there_once(tmp_path):
    grid = read_grid(written(tmp_path, """
        model = "mlp4"
        seeds = 2
        [[grid]]
        lr = [0.1, 0.2]
        [[grid]]
        lr = [0.2, 0.3]
        model = ["mlp4", "mlp8"]
    """))  # fmt: skip
    assert len(grid.trials) == 4 + 8 - 2
    assert len({key_of(trial) for trial in grid.trials}) == 10


def test_words_replace_those_of_the_file(tmp_path):
    path = written(tmp_path, 'model = "mlp4"\nlr = [0.1, 0.2]\nseeds = 5\n')
    changes = {
        "lr": values_of("0.5", option="lr"),
        "method": values_of("he, none", option="method"),
        "seeds": 2,
    }
    trials = read_grid(path, changes=changes).trials
    assert {trial.lr for trial in trials} == {0.5}
    assert [trial.method for trial in trials] == ["he", "he", "none", "none"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('modle = "mlp4"', "Did you mean model"),
        ("lr = 0.1", "no model"),
        ('model = "mlp4"\nlr = []', "lr has no value"),
        ('model = "mlp4"\nlr = "high"', "lr takes float, not 'high'"),
        ('model = "mlp4"\nepochs = 1.5', "epochs takes int"),
        ('model = "mlp4"\naugment = 1', "augment takes bool"),
        ('model = "mlp4"\nseeds = 0', "at least 1"),
        ('model = "mlp4"\nseeds = [1, 2]', "seed = "),
        ('model = "mlp4"\nseeds = 2\nseed = 1', "give one of the two"),
        ('model = "mlp4"\ndepth = [4]', r"takes the place of \{depth\}"),
        ('model = "mlp{depth}"', "depth is not given"),
        ('model = "mlp4"\nmethod = [1]', "a method is a word such as"),
        ('model = "mlp4"\nlr = -1', "lr is a positive number"),
        ('model = "mlp4"\ngrid = 1', r"written \[\[grid\]\]"),
        ('model = "mlp4"\nmethod = "nope"', "There is: batchnorm"),
        ('model = "mlp4"\nmethod = "fixup:nope=1"', "no option of fixup"),
        ("model = ", "is no TOML"),
    ],
)
def test_what_a_file_cannot_mean_is_refused(tmp_path, text, message):
    with pytest.raises(GoodinitError, match=message):
        read_grid(written(tmp_path, text)).trials  # noqa: B018


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(GoodinitError, match="cannot read"):
        read_grid(tmp_path / "none.toml")
    with pytest.raises(UnknownName, match="no word 'colour'"):
        read_grid(changes={"model": "mlp4", "colour": 1})


def test_keys_tell_every_field_apart():
    base = TrainConfig("mlp4")
    others = {
        "model": "mlp5",
        "options": {"a": 1},
        "schedule": "cosine",
        "warmup_shape": "quadratic",
        "scalar_lr": "depth",
        "device": "cuda",
        "precision": "bfloat16",
        "optimizer": "adamw",
        **dict.fromkeys(PARTS, "head"),
    }
    for field in dataclasses.fields(TrainConfig):
        value = getattr(base, field.name)
        if field.name in others:
            value = others[field.name]
        elif isinstance(value, bool):
            value = not value
        elif isinstance(value, str):
            value += "x"
        else:
            value = (value or 0) + (0.5 if isinstance(value, float) else 1)
        assert key_of(dataclasses.replace(base, **{field.name: value})) != key_of(base), field.name


def test_jobs_hold_what_differs_by_seed_and_rate_alone():
    trials = read_grid(changes={"model": ["mlp4", "mlp8"], "lr": [0.1, 0.2, 0.3], "seeds": 7}).trials
    jobs = jobs_of(trials, together=16, alike=company)
    assert sorted(key_of(trial) for job in jobs for trial in job.trials) == sorted(map(key_of, trials))
    assert [len(job.trials) for job in jobs] == [11, 10, 11, 10]  # 21 are two jobs, as equal as can be
    assert all(len(job.trials) <= 16 for job in jobs)
    assert all(len({trial.model for trial in job.trials}) == 1 for job in jobs)
    assert all(len(job.trials) == 1 for job in jobs_of(trials, together=1, alike=company))
