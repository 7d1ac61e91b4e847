"""What this program runs on: hardware, versions, commit; and `doctor`, which names the first thing to repair.

Result rows carry `describe_hardware` and `git_commit`. `doctor` imports nothing heavy (a broken driver or package can
hang an import), so that it answers at once and always.
"""

import atexit
import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from spear import __version__, fs

PACKAGE_DIR = Path(__file__).resolve().parent
MIN_FREE_DISK_BYTES = 2_000_000_000
MIN_MEMORY_BYTES = 4_000_000_000


def provide_home() -> None:
    """Gives this process and its children a home directory, empty and for as long as it runs, where there is none.

    Containers run as users without an entry and without HOME; libraries that look for their caches then fail.
    """
    try:
        Path.home()
    except (RuntimeError, KeyError):
        os.environ["HOME"] = home = tempfile.mkdtemp(prefix="spear-home-")
        owner = os.getpid()
        atexit.register(lambda: shutil.rmtree(home, ignore_errors=True) if os.getpid() == owner else None)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory that this process may use: that of the machine, or less under a container's limit; 0 when unknown."""
    sizes = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path).strip()
        if text.isdigit():
            sizes.append(int(text))
    return min(sizes, default=0)


@functools.cache
def _cpu() -> tuple[str, frozenset[str]]:
    """Model name and feature flags."""
    text = _read("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    model = name.group(1).strip() if name else platform.processor() or platform.machine()
    return model, frozenset(flags.group(1).split() if flags else ())


def fast_bf16(device) -> bool:
    """Whether bfloat16 makes matrix products several times faster than float32 on a torch device.

    On CPUs only AMX counts: AVX-512 bf16 gains too little to pay for the casts.
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and "amx_bf16" in _cpu()[1]


def hardware() -> dict:
    """CPU model, cores, memory, GPUs and the versions that numbers depend on."""
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "cpu": _cpu()[0],
        "cores": num_cores(),
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "gpu": gpus,
        "bf16": fast_bf16("cuda" if gpus else "cpu"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_hardware() -> str:
    """One line such as ``2 cores AMD EPYC, 25 GB, torch 2.13.0+cpu``."""
    facts = hardware()
    names = sorted(set(facts["gpu"]))
    gpus = "".join(f"{facts['gpu'].count(name)} x {name}, " for name in names)
    return f"{gpus}{facts['cores']} cores {facts['cpu']}, {facts['memory_gb']:.0f} GB, torch {facts['torch']}"


def git_commit() -> str:
    """Short hash of the checkout that the package runs from, or 'unknown' where it does not run from one.

    '-dirty' follows when tracked files differ, '-unchecked' when git is absent or too slow to say.
    """
    root = PACKAGE_DIR.parent
    # A package installed below somebody else's repository must not report that repository's commit.
    if not (root / ".git").exists():
        return "unknown"
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        head = _head(root / ".git")
        return f"{head[:12]}-unchecked" if head else "unknown"


def _head(git: Path) -> str:
    """The commit that HEAD names, read from the repository's files."""
    if git.is_file():  # a worktree's names its folder in the repository
        git = git.parent / _read(str(git)).strip().removeprefix("gitdir: ")
    head = _read(str(git / "HEAD")).strip()
    if not head.startswith("ref: "):
        return head
    name = head.removeprefix("ref: ")
    common = git / (_read(str(git / "commondir")).strip() or ".")
    packed = re.search(rf"^(\w+) {re.escape(name)}$", _read(str(common / "packed-refs")), re.MULTILINE)
    return _read(str(common / name)).strip() or (packed.group(1) if packed else "")


def package_versions() -> dict[str, str | None]:
    """Versions of spear and of every package it requires; None for those not installed."""
    versions: dict[str, str | None] = {"spear": __version__}
    for name in required_packages():
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def required_packages() -> list[str]:
    """Names of the packages that spear does not run without."""
    try:
        lines = importlib.metadata.requires("spear") or []
    except importlib.metadata.PackageNotFoundError:
        lines = ["torch", "numpy", "lhotse", "soundfile", "soxr", "safetensors", "pyyaml", "jsonargparse"]
    return [re.match(r"[\w.-]+", line).group(0) for line in lines if "extra ==" not in line]


@dataclass
class Diagnosis:
    """What `doctor` found.

    Attributes:
        facts: lines to print, as (name, value).
        problems: (what is wrong, what to do) that stop a run, the first to repair first.
        notes: (what may surprise, what to do) that do not.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def doctor(directory: str | Path = ".") -> Diagnosis:
    """Looks at versions, devices, memory, and the disk that holds `directory`; imports and starts nothing heavy."""
    found = Diagnosis()
    versions = package_versions()
    found.facts.append(("python", f"{platform.python_version()} ({sys.executable})"))
    found.facts += [(name, version or "not installed") for name, version in versions.items()]
    found.facts.append(("commit", git_commit()))
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        found.problems.append((f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}"))
    _look_at_devices(found, versions.get("torch") or "")
    _look_at_limits(found, Path(directory))
    return found


def _look_at_devices(found: Diagnosis, torch_version: str) -> None:
    model, flags = _cpu()
    found.facts.append(("cpu", f"{num_cores()} cores {model}" + (", AMX bf16" if "amx_bf16" in flags else "")))
    gpus = _gpu_names()
    found.facts.append(("gpu", "; ".join(gpus) or "none"))
    if gpus and "+cpu" in torch_version:
        found.notes.append((f"torch {torch_version} cannot use the {gpus[0]}", "install a CUDA build of torch"))


def _gpu_names() -> list[str]:
    """NVIDIA devices as the driver lists them; asking torch would take seconds and may hang on a broken driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=1.0)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _look_at_limits(found: Diagnosis, directory: Path) -> None:
    memory, free = memory_bytes(), fs.free_bytes(directory)
    found.facts.append(("memory", fs.human_bytes(memory) if memory else "unknown"))
    found.facts.append(("free disk", f"{fs.human_bytes(free)} at {directory.resolve()}"))
    if free < MIN_FREE_DISK_BYTES:
        found.problems.append(
            (
                f"only {fs.human_bytes(free)} free at {directory.resolve()}",
                "free some, or pass --data-dir and --exp-dir",
            )
        )
    if 0 < memory < MIN_MEMORY_BYTES:
        found.notes.append((f"only {fs.human_bytes(memory)} of memory", "pass a smaller --max-duration"))
    try:
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError):  # not on Windows
        return
    found.facts.append(("open files", "unlimited" if files == resource.RLIM_INFINITY else str(files)))
    if 0 < files < 1024:
        found.notes.append((f"a process may open only {files} files", "ulimit -n 4096"))


def _git(root: Path, *arguments: str) -> str:
    # A checkout of another user (a container, a shared disk) is ours to read; GIT_DIR and its kin, which git sets for
    # its hooks, would name another repository.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    words = ["git", "-c", f"safe.directory={root}", "-C", str(root), "--no-optional-locks", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True, env=surroundings)
    return done.stdout.strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
