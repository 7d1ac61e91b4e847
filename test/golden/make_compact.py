"""Makes the compact golden set, test/golden/data: parts of ../shared/golden, small enough for the repository.

    python test/golden/make_compact.py [LARGE_DIRECTORY]

Numbers are taken as they are, in float32, and compressed as NAME.safetensors.xz. Unless said otherwise below, a tensor
is the leading part of the large one along its first axis, and a test compares just as much of what it computes.

Of `spear_uniform`, whose weights alone are 4.5 MB: the short utterance's audio and features; the front end up to some
channels of its projection; the last two stacks, at 25 and at 50 Hz, whose input follows from the states of the layers
before them; loss and gradients of their small parameters. Values at padded frames are zeros.
"""

import json
import lzma
import sys
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
LARGE = HERE.parents[1].parent / "shared" / "golden"
SETS = {"compact": DATA, **({"large": LARGE} if LARGE.is_dir() else {})}
FRONT_END_CHANNELS = slice(0, 48, 12)
NUM_ADAM_STEPS = 152
MAX_GRADIENT_ENTRIES = 400
# Four-byte values: literals are modelled by their place in the word, since exponents alone can be compressed.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 2, "pb": 2}]

Tensors = dict[str, torch.Tensor]


def read_large(path: Path) -> tuple[Tensors, dict]:
    """Tensors by name, and the metadata."""
    with safetensors.safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})


def read_compact(path: Path) -> tuple[Tensors, dict]:
    """The same of a file that `write_compact` made."""
    data = lzma.decompress(path.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return safetensors.torch.load(data), header.get("__metadata__", {})


def write_compact(path: Path, tensors: Tensors, metadata: dict) -> int:
    """Writes a file; returns its size in bytes."""
    data = save({name: tensors[name].contiguous() for name in sorted(tensors)}, metadata or None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(data, format=lzma.FORMAT_XZ, filters=FILTERS))
    return path.stat().st_size


def spear_uniform(large: Tensors) -> Tensors:
    """See the module's docstring."""
    short = large["audio_lens"].argmin()
    num_samples, num_features = large["audio_lens"][short], large["fbank_lens"][short]
    num_frames = int(large["encoder_out_lens"][short])
    parts = {
        "audio": large["audio"][short : short + 1, :num_samples],
        "fbank": large["fbank"][short : short + 1, :num_features],
        "encoder_embed_out": large["encoder_embed_out"][short : short + 1, :num_frames, FRONT_END_CHANNELS],
        "encoder_out_lens": large["encoder_out_lens"],
        "loss": large["loss"],
    }
    padded = torch.arange(large["loss_weight"].shape[1]) >= large["encoder_out_lens"][:, None]
    for name in ["loss_weight", *(key for key in large if key.startswith("hidden_states."))]:
        parts[name] = large[name].masked_fill(padded[..., None], 0.0)
    for name, value in large.items():
        if name.startswith("param.encoder_embed.out."):
            parts[name] = value[FRONT_END_CHANNELS]
        elif name.startswith(("param.encoder_embed.conv", "param.encoder.encoders.5.", "param.encoder.encoders.6.")):
            parts[name] = value
        elif name.endswith("out_combiner.bypass_scale") and name.startswith("param."):
            parts[name] = value
        elif name.startswith(("grad.encoder.encoders.5.", "grad.encoder.encoders.6.")):
            if value.numel() <= MAX_GRADIENT_ENTRIES:
                parts[name] = value
    return parts


def mvq(large: Tensors) -> Tensors:
    """Quantizer, product and independent head."""
    rows = {"decoded.": 25, "product_in.x": 100, "product_in.indexes": 100, "product_out.centers": 1}
    rows |= {"product_out.to_logits.": 64, "independent.grad.linear2b_weight": 1}
    unused = ("joint.", "independent.param.codebook", "independent.param.linear1", "independent.param.linear2_weight")
    kept = {name: value for name, value in large.items() if not name.startswith(unused)}
    for name, value in kept.items():
        count = next((count for start, count in rows.items() if name.startswith(start)), None)
        kept[name] = value if count is None or not value.dim() else value[:count]
    return kept


def scaled_adam(large: Tensors) -> Tensors:
    """The first steps, to the two with exploding gradients."""
    steps = {name: int(name.partition(".")[0][4:]) for name in large if name.startswith("step")}
    return {
        name: value[:NUM_ADAM_STEPS] if name in ("x", "y", "lr", "loss_scale") else value
        for name, value in large.items()
        if steps.get(name, 0) <= NUM_ADAM_STEPS
    }


def transducer(large: Tensors) -> Tensors:
    """The two smaller batches."""
    return {name: value for name, value in large.items() if not name.startswith(("full.2.", "pruned.2."))}


PARTS = {"spear_uniform": spear_uniform, "mvq": mvq, "scaled_adam": scaled_adam, "transducer": transducer}


def main(large_directory: Path) -> None:
    """Writes all files and says how large they are."""
    total = 0
    for name, choose in PARTS.items():
        tensors, metadata = read_large(large_directory / f"{name}.safetensors")
        size = write_compact(DATA / f"{name}.safetensors.xz", choose(tensors), metadata)
        total += size
        print(f"{name}: {size:,} bytes")
    print(f"together {total:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else LARGE)
