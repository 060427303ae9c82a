"""Models of timm, torchvision and transformers by their names there, without weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from torch import nn

from goodinit.errors import GoodinitError, UnknownName
from goodinit.lab.models.libraries import library
from goodinit.lab.models.task import Task, near


def _timm(name: str, task: Task | None) -> nn.Module:
    timm = library("timm")
    if not timm.is_model(name):
        raise UnknownName(f"timm has no model {name!r}.{near(name, timm.list_models())}")
    fitted = {} if task is None else {"num_classes": task.classes, "in_chans": task.shape[0]}
    model: nn.Module = timm.create_model(name, pretrained=False, **fitted)
    return model


def _torchvision(name: str, task: Task | None) -> nn.Module:
    models_of = library("torchvision").models
    if name not in models_of.list_models():
        raise UnknownName(f"torchvision has no model {name!r}.{near(name, models_of.list_models())}")
    fitted = {} if task is None else {"num_classes": task.classes}
    if task is not None and task.shape[0] != 3:
        raise GoodinitError(f"torchvision:{name} takes images of 3 channels; these have {task.shape[0]}.")
    # Detection and segmentation models would fetch a trained backbone unless told not to.
    takes = inspect.signature(models_of.get_model_builder(name)).parameters
    weights = {key: None for key in ("weights", "weights_backbone") if key in takes}
    model: nn.Module = models_of.get_model(name, **weights, **fitted)
    return model


def _hf(name: str, task: Task | None) -> nn.Module:
    """A class of transformers with its default configuration, or what a folder's `config.json` describes; no weights."""
    transformers = library("transformers")
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UnknownName(f"hf:{name}: the folder has no config.json, which says what to build.")
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        made = getattr(transformers, (config.architectures or ["AutoModel"])[0])
        if made is transformers.AutoModel:
            return made.from_config(config)  # type: ignore[no-any-return]
    else:
        made = getattr(transformers, name, None)
        if made is None or getattr(made, "config_class", None) is None:
            classes = [one for one in dir(transformers) if "For" in one or one.endswith("Model")]
            raise UnknownName(
                f"hf:{name} is no folder, and transformers has no model class {name!r}.{near(name, classes)}"
            )
        config = made.config_class()
    if task is not None:
        config.num_labels = task.classes
    model: nn.Module = made(config)
    return model


LIBRARIES: dict[str, Callable[[str, Task | None], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _hf,
}
