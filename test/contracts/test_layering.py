"""Who may import whom: downwards only, and some packages only in their places."""

import ast

import repository

LAYERS = [
    {
        "errors",
        "fs",
        "names",
        "records",
        "seal",
        "locks",
        "ranges",
        "choices",
        "plugins",
        "settings_text",
        "config",
        "log",
        "dist",
        "env",
        "compat",
    }
    | {"seeds", "shards", "executor", "memory", "pickles", "torchfile", "weights"},
    {"nn", "optim", "quantize", "audio", "manifest"},
    {"teachers", "tokens", "data", "models", "streaming"},
    {"train", "evaluate", "recognise", "recipe", "finetuning", "export"},
    {"bench", "hear", "runners"},
    {"bin"},
]
# Neighbours in one layer that may use each other, in this direction only.
NEIGHBOURS = {
    ("manifest", "audio"),
    ("data", "tokens"),
    ("data", "models"),
    ("tokens", "teachers"),
    ("teachers", "models"),
    ("streaming", "models"),
}
NEIGHBOURS |= {("models", "nn"), ("recipe", "train"), ("recipe", "evaluate"), ("train", "evaluate")}
NEIGHBOURS |= {("finetuning", "train"), ("finetuning", "evaluate"), ("recognise", "evaluate")}
NEIGHBOURS |= {("finetuning", "recognise"), ("runners", "hear"), ("export", "train"), ("export", "evaluate")}
# Third-party modules that only some parts may import.
PLACES = {
    "lhotse": {"manifest", "data"},
    "soundfile": {"audio"},
    "soxr": {"audio"},
    "matplotlib": {"evaluate", "train", "quantize"},
    "sentencepiece": {"manifest"},
    "distributed": {"executor"},
    "submitit": {"executor"},
}
NOWHERE = ("torchaudio", "librosa", "h5py", "lilcom", "fairseq", "s3prl", "egs", "test", "pandas")
ONLY_IN_COMPAT = ("torch.cuda.amp", "torch.amp", "torch.load", "custom_fwd", "custom_bwd", "set_audio_backend")


def part(module: str) -> str:
    """'spear.audio.fbank' -> 'audio'."""
    return (module.split(".") + [""])[1]


def layer(of: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if of in names)


def test_every_part_of_the_package_has_a_layer():
    parts = {p.relative_to(repository.PACKAGE).parts[0].removesuffix(".py") for p in repository.python_files("spear")}
    assert parts - {"__init__"} <= set().union(*LAYERS)


def test_imports_go_downwards():
    wrong = []
    for path in repository.python_files("spear"):
        here = path.relative_to(repository.PACKAGE).parts[0].removesuffix(".py")
        if here == "__init__":
            continue  # the public names of the package come from several layers
        for module in repository.imports(path):
            there = part(module) if module.split(".")[0] == "spear" else ""
            if not there or there == here or there not in set().union(*LAYERS):
                continue
            allowed = layer(there) < layer(here) or layer(here) == 0 == layer(there) or (here, there) in NEIGHBOURS
            if not allowed:
                wrong.append(f"{repository.name(path)} (layer {layer(here)}) imports {module} (layer {layer(there)})")
    assert not wrong, "\n".join(wrong)


def test_third_party_packages_stay_in_their_places():
    wrong = []
    for path in repository.python_files("spear"):
        here = path.relative_to(repository.PACKAGE).parts[0].removesuffix(".py")
        for module in repository.imports(path):
            top = module.split(".")[0]
            if here not in PLACES.get(top, {here}) or top in NOWHERE:
                wrong.append(f"{repository.name(path)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_differences_between_torch_versions_live_in_compat():
    wrong = []
    for path in repository.python_files("spear", "egs", "local"):
        if path.name == "compat.py":
            continue
        used = {ast.unparse(node) for node in ast.walk(repository.tree(path)) if isinstance(node, ast.Attribute)}
        used |= repository.imports(path)
        wrong += [f"{repository.name(path)}: {use}" for use in used if _is_compat(use)]
    assert not wrong, "\n".join(wrong)


def _is_compat(name: str) -> bool:
    return any(
        name == word or name.startswith(word + ".") or (word[:5] != "torch" and name.endswith("." + word))
        for word in ONLY_IN_COMPAT
    )


def test_no_random_numbers_from_process_state():
    wrong = []
    for path in repository.python_files("spear"):
        text = path.read_text()
        found = [word for word in ("np.random.seed", "np.random.rand", "random.seed(", "import random") if word in text]
        wrong += [f"{repository.name(path)}: {word}" for word in found]
    assert not wrong, "\n".join(wrong)
