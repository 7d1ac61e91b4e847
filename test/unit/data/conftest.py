"""Real corpora in small: recordings (of ../shared where present, else generated), token shards with cards."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from spear.audio import FbankConfig, load_audio, probe, save_audio
from spear.data import StreamConfig
from spear.shards import ShardWriter
from spear.tokens.card import TokenCard

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "real-mini"


@dataclass(frozen=True)
class Item:
    """What the data package needs of `spear.manifest.Item`."""

    id: str
    path: Path
    start_seconds: float
    duration_seconds: float
    domain: str


def generated(directory: Path, domain: str, count: int, rng: np.random.Generator) -> list[Item]:
    """Noise bursts of 0.5 to 3 s."""
    items = []
    for number in range(count):
        path = directory / f"{domain}-{number}.wav"
        samples = 0.1 * rng.standard_normal(int(rng.uniform(0.5, 3.0) * 16000))
        save_audio(path, samples, 16000)
        items.append(Item(path.stem, path, 0.0, len(samples) / 16000, domain))
    return items


def real(domain: str, count: int) -> list[Item]:
    """Recordings of ../shared, spread over its corpora."""
    lines = [line.split("\t") for line in (REAL / "manifest.tsv").read_text().splitlines()[1:]]
    chosen = [line for line in lines if (line[3] == "speech") == (domain == "speech") and float(line[2]) > 0.4]
    chosen = chosen[:: max(len(chosen) // count, 1)][:count]
    paths = [REAL / line[1] for line in chosen]
    return [Item(line[0], p, 0.0, probe(p).duration_seconds, domain) for line, p in zip(chosen, paths)]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> list[Item]:
    """36 speech and 24 audio cuts, longer ones cut to at most 4 s."""
    items = []
    for domain, count in (("speech", 36), ("audio", 24)):
        if (REAL / "manifest.tsv").exists():
            found = real(domain, count)
        else:
            found = generated(tmp_path_factory.mktemp(domain), domain, count, np.random.default_rng(len(domain)))
        items += [Item(i.id, i.path, 0.0, min(i.duration_seconds, 4.0), domain) for i in found]
    return items


@pytest.fixture(scope="session")
def write_stream():
    """Returns a function that writes tokens of a stream and gives its `StreamConfig`."""

    def write(directory, items, name="speech", rate_hz=50.0, codebooks=4, quantizer="q1", constant=None, **config):
        rng = np.random.default_rng(len(name))
        path = Path(directory) / name
        with ShardWriter(path, "part-0", np.uint8, codebooks) as writer:
            for number, item in enumerate(items):
                rows = int(item.duration_seconds * rate_hz)
                tokens = rng.integers(0, 256, (rows, codebooks), dtype=np.uint8)
                writer.add(item.id, np.full_like(tokens, number % 256) if constant else tokens)
        teacher = {"teacher": "test", "weights_sha256": "w1", "layer": 1, "frame_rate_hz": rate_hz, "dim": 8}
        teacher |= {"sample_rate_hz": 16000, "frame_rule": "floor"}
        TokenCard(
            stream=name,
            teacher=teacher,
            quantizer={"content_sha256": quantizer, "num_codebooks": codebooks, "codebook_size": 256},
            frame_rate_hz=rate_hz,
            sample_rate_hz=16000,
            fbank_sha256=FbankConfig().definition_hash(),
        ).save(path)
        return StreamConfig(name, str(path), **config)

    return write


@pytest.fixture(scope="session")
def waves(corpus) -> dict[str, np.ndarray]:
    """Samples of every cut."""
    return {item.id: load_audio(item.path, duration_seconds=item.duration_seconds) for item in corpus}
