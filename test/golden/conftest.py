"""Golden numbers of the reference implementations.

Two sets: the compact one is part of the repository (`data`, made by make_compact.py), so that every clone proves
parity; the large one lies beside some checkouts (../shared/golden) and is used as well where it does. A tensor of the
compact set may be the leading part of the large one's.
"""

import pytest
from make_compact import DATA, LARGE, SETS, read_compact, read_large

# Whole encoders are in the large set alone; the last lines of a run say so.
collect_ignore = [] if "large" in SETS else ["test_golden_causal.py", "test_golden_student.py"]


@pytest.fixture(scope="session")
def read_golden(device):
    """Returns a function: (set, name of a file) -> (tensors by name, metadata by name)."""

    def read(which: str, name: str) -> tuple[dict, dict]:
        if which == "compact":
            tensors, metadata = read_compact(DATA / f"{name}.safetensors.xz")
        else:
            tensors, metadata = read_large(LARGE / f"{name}.safetensors")
        return {key: value.to(device) for key, value in tensors.items()}, metadata

    return read


@pytest.fixture(scope="session", params=SETS)
def golden(request, read_golden):
    """The same of a name alone; a test that asks for it runs once with each set that is there."""
    return lambda name: read_golden(request.param, name)


@pytest.fixture(scope="session")
def golden_large(read_golden):
    """The same of the large set."""
    return lambda name: read_golden("large", name)
