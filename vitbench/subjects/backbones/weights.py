"""Checkpoints into a backbone: tensors only, never code."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class BadWeights(ValueError):
    """The checkpoint cannot be used; the message is one sentence for the user."""


# What checkpoints hold beside tensors. Loading runs nothing of these: they are filled as data, and
# the settings that the authors keep are a dictionary to us.
_ALLOWED: list[Any] = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]
# Where training code keeps the weights: of what was trained, then of averages and pairs of models.
_KEYS = ("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network")
_KEYS_OF_OTHERS = (
    "model_ema",
    "ema",
    "ema_state_dict",
    "state_dict_ema",
    "ema_model",
    "teacher",
    "student",
)
# What torch.compile puts into a name, wherever it compiled a part.
_COMPILED = "_orig_mod."
# Where detectors and segmenters have theirs.
_BODY = "backbone."
# A number that averaged models carry.
_COUNTER = "n_averaged"


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a checkpoint by name, and the keys that they lie under ("model.state_dict").

    Raises BadWeights.
    """
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the errors below say what is odd about a file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadWeights(f"weights {path} cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        raise BadWeights(_refusal(path, str(error))) from None
    # A file cut off is reported by whichever reader met the end first.
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadWeights(
            f"weights {path} are no whole checkpoint ({first}): download or save the file again"
        ) from None
    return _tensors(path, content)


def _refusal(path: Path, message: str) -> str:
    """torch's page of advice, which ends in how to run what is pickled, as one sentence."""
    what = re.search(r"unsupported (?:global: )?(?:GLOBAL|class) ([\w.]+)", message, re.IGNORECASE)
    if what is not None:
        return (
            f"weights {path} pickle more than tensors ({what[1]}), which loading would run: "
            "save its state_dict alone, with torch.save(model.state_dict(), FILE)"
        )
    return (
        f"weights {path} are no checkpoint of tensors: save a state_dict, with "
        "torch.save(model.state_dict(), FILE)"
    )


def _tensors(path: Path, content: object) -> tuple[dict[str, Tensor], str]:
    inner, keys = content, []
    while isinstance(inner, Mapping) and (key := _key_in(path, inner)) is not None:
        keys.append(key)
        inner = inner[key]
    if isinstance(inner, Mapping):
        tensors = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors, ".".join(keys)
    raise BadWeights(
        f"weights {path} hold no state_dict, neither by itself nor under "
        f"{', '.join((*_KEYS, *_KEYS_OF_OTHERS))}"
    )


def _key_in(path: Path, content: Mapping[Any, Any]) -> str | None:
    """Under which key the weights lie; None where they are here. Raises BadWeights where it is not
    clear which of several models is meant.
    """

    def nested(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if _holds_tensors(content.get(name))]

    if own := nested(_KEYS):
        return own[0]
    others = nested(_KEYS_OF_OTHERS)
    if len(others) > 1:
        raise BadWeights(
            f"weights {path} hold several models, {' and '.join(others)}: save the state_dict of "
            "one of them"
        )
    return others[0] if others else None


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(inner, Tensor) or _holds_tensors(inner) for inner in value.values()
    )


def _without_prefix(loaded: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[Any, str]:
    """The tensors by the module's names, and the prefix that they had: DataParallel, training code
    and averaging put one before every name.
    """
    tensors, prefix = {key.replace(_COMPILED, ""): loaded[key] for key in loaded}, ""
    while not tensors.keys() & own.keys():
        starts = {key.partition(".")[0] for key in tensors if key != _COUNTER}
        if len(starts) != 1 or not all("." in key for key in tensors if key != _COUNTER):
            break
        (start,) = starts
        prefix += f"{start}."
        tensors = {
            key.removeprefix(f"{start}."): tensors[key] for key in tensors if key != _COUNTER
        }
    return (tensors, prefix) if tensors.keys() & own.keys() else (dict(loaded), "")


def load_into(module: nn.Module, path: Path) -> str:
    """Fills the module; every name and shape must fit. Returns what was done to the names, in
    words; "" for nothing. Raises BadWeights.

    A classifier's checkpoint fits a pyramid too: its norm and head are left out, and the norms of
    the maps stay as they are, as the authors fine-tune it. Of a whole detector or segmenter the
    backbone is taken.
    """
    own = module.state_dict()
    saved, keys = read(path)
    is_pyramid = getattr(module, "features_only", False)
    body = {key: value for key, value in saved.items() if key.startswith(_BODY)}
    is_whole = is_pyramid and 0 < len(body) < len(saved)
    loaded, prefix = _without_prefix(body if is_whole else saved, own)
    if is_pyramid:
        loaded = {k: v for k, v in loaded.items() if not k.startswith(("head.", "norm."))}
        fresh = {key for key in own if key.startswith("norm")}
        if not loaded.keys() & fresh:
            loaded |= {key: own[key] for key in fresh}
    missing, unexpected = own.keys() - loaded.keys(), loaded.keys() - own.keys()
    resized = [key for key in own if key in loaded and own[key].shape != loaded[key].shape]
    if resized:
        key = resized[0]
        raise BadWeights(
            f"weights {path} are of another size: {key} is {_size(loaded[key])}, "
            f"here {_size(own[key])} ({len(resized)} of {len(own)} differ)"
        )
    if missing or unexpected:
        text = [f"{len(missing)} are missing ({min(missing)}, ...)"] if missing else []
        text += (
            [f"{len(unexpected)} are not known here ({min(unexpected)}, ...)"] if unexpected else []
        )
        raise BadWeights(f"weights {path} are of another model: {'; '.join(text)}")
    module.load_state_dict(loaded)
    done = [f"taken from {keys!r}"] if keys else []
    done += [f"without the prefix {prefix!r}"] if prefix else []
    done += [f"{len(saved) - len(body)} tensors above the backbone are left out"] * is_whole
    done += [f"without {_COMPILED!r}"] if any(_COMPILED in key for key in saved) else []
    return ", ".join(done)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
