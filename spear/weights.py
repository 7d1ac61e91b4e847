"""Files of weights from others: what is no such file is said to be so, nothing in them is executed, numbers are finite.

Every place that takes a model of unknown origin reads it through here: checkpoints, teachers, quantizers.
"""

import json
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from spear import fs, torchfile
from spear.errors import CheckpointError, DataError
from spear.pickles import Foreign

_LARGEST_SETTINGS_BYTES = 16 << 20
_PLACEHOLDERS = {
    b"version https://git-lfs": (
        "a git-lfs pointer of {size} instead of the file itself",
        "run 'git lfs pull' in the folder it was cloned to, or download the file by itself",
    ),
    b"/annex/objects/": ("a git-annex pointer of {size} instead of the file itself", "run 'git annex get' there"),
    b"<!doctype html": ("a web page of {size} instead of the file itself", "download the file, not the page about it"),
    b"<html": ("a web page of {size} instead of the file itself", "download the file, not the page about it"),
}


class WeightsError(CheckpointError, DataError):
    """A file of weights, or of settings beside them, that cannot be used."""


def check_file(path: str | Path, expected: str = "a file of weights") -> Path:
    """Returns the path of a regular file that holds something.

    Raises:
        WeightsError: nothing there, no regular file, empty, or a pointer or web page in place of the file.
    """
    path = Path(path)
    fix = "copy or download it again"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError(f"{path} is no regular file", expected, "give the path of the file")
        if status.st_size == 0:
            raise WeightsError(f"{path} is empty", expected, fix)
        with open(path, "rb") as file:
            start = file.read(64).lstrip().lower()
    except FileNotFoundError as error:
        raise WeightsError(f"nothing at {path}", expected, "correct the path") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error})", expected, "correct the path or its rights") from error
    for mark, (found, remedy) in _PLACEHOLDERS.items():
        if start.startswith(mark):
            raise WeightsError(f"{path} is {found.format(size=fs.human_bytes(status.st_size))}", expected, remedy)
    return path


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a file of torch.save (of its entry "model", where there is one).

    Raises:
        WeightsError: no such file, damaged, or with objects other than tensors and plain values.
    """
    path = check_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = read_torch(path, ("model",))
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}", "a dictionary of tensors, or {'model': ...}", "check the path"
        )
    return tensors_of(content)


def tensors_of(values: Mapping) -> dict[str, Tensor]:
    """The entries that are tensors under a name."""
    return {name: value for name, value in values.items() if isinstance(name, str) and isinstance(value, Tensor)}


def read_torch(path: str | Path, wanted: Iterable[str] = ()) -> Any:
    """The content of a file of torch.save, without running anything in it; see `spear.torchfile.read`.

    Raises:
        WeightsError: no such file, damaged, or with objects of unknown classes.
    """
    path = check_file(path)
    try:
        return torchfile.read(path, wanted)
    except Foreign as error:
        raise WeightsError(
            f"{path} is not a checkpoint of tensors: it needs {shown(error.name)}",
            "a torch file of tensors and plain values; other objects are refused because they can run code",
            "save torch.load(...)['model'] alone with torch.save, on a machine that trusts the file",
        ) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # it raises a class of its own, and those of what it builds on
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path} cannot be read ({shown(str(error) or type(error).__name__)})",
        "a complete checkpoint",
        "copy or download it again: it may be cut off",
    )


def read_settings(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file beside weights, such as config.json.

    Raises:
        WeightsError: missing, huge, a pointer, not JSON, nested too deeply, or something other than an object.
    """
    expected, fix = "a JSON object with settings", "copy or download it again"
    path = check_file(path, expected)
    if path.stat().st_size > _LARGEST_SETTINGS_BYTES:
        raise WeightsError(f"{path} of {fs.human_bytes(path.stat().st_size)}", expected, fix)
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise WeightsError(f"{path} is not valid JSON ({shown(str(error))})", expected, fix) from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path} holds a {type(values).__name__}", expected, fix)
    return values


def check_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuses weights that are NaN or infinite, by name: whatever they compute would be NaN.

    Raises:
        WeightsError: names the first three of them.
    """
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        raise WeightsError(
            f"{path} with NaN or infinite values in {some(bad)}",
            "finite weights",
            "take an earlier checkpoint: this one was saved after training had diverged, or is damaged",
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    tensor = tensor.detach()
    if tensor.dtype.itemsize < 2:
        tensor = tensor.float()
    # The sum is several times faster than a look at each value; of finite values it is infinite at most by overflow.
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32))) or bool(torch.isfinite(tensor).all())


def some(names: Iterable[str]) -> str:
    """'a, b, c and 5 more'; 'nothing' when there are none."""
    names = [shown(str(name), 100) for name in names]
    if not names:
        return "nothing"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def shown(text: str, longest: int = 200) -> str:
    """The first line of a text from elsewhere without control characters, cut short, for a message."""
    text = next(iter(text.strip().splitlines()), "")
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= longest else text[:longest] + "..."
