"""Golden numbers of the reference implementations: files beside the checkout, absent for most users."""

from pathlib import Path

import pytest

GOLDEN_DIRECTORY = Path(__file__).resolve().parents[2].parent / "shared" / "golden"


@pytest.fixture(scope="session")
def golden_path():
    """Returns a function: file name -> path inside ../shared/golden; skips the test when the file is absent."""

    def path(name: str) -> Path:
        file = GOLDEN_DIRECTORY / name
        if not file.is_file():
            pytest.skip(f"no golden numbers: {file} is absent (they are not part of the repository)")
        return file

    return path


@pytest.fixture(scope="session")
def golden(golden_path, device):
    """Returns a function: file name -> (tensors by name, metadata by name); skips when the file is absent."""

    def load(name: str) -> tuple[dict, dict]:
        safetensors = pytest.importorskip("safetensors")
        with safetensors.safe_open(golden_path(name), framework="pt") as file:
            return {key: file.get_tensor(key).to(device) for key in file.keys()}, file.metadata() or {}

    return load
