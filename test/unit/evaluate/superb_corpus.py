"""A tiny corpus with all ten SUPERB tasks, made of tones: words are pitches, speakers and moods are timbres."""

import json
from pathlib import Path

import numpy as np

from spear.audio import save_audio

WORDS_HZ = {"do": 300, "re": 500, "mi": 800, "fa": 1300}
SPEAKERS = ("ann", "bob", "cat", "dan", "eve", "fay")
PHONES = {"do": "D", "re": "R", "mi": "M", "fa": "F"}


def say(words, speaker: str, rng) -> np.ndarray:
    """0.25 s for each word, 0.5 s for the first: the word's pitch with the speaker's overtones and noise."""
    times = np.arange(4000) / 16000
    weights = np.random.default_rng(SPEAKERS.index(speaker)).uniform(0.1, 1, 5)
    parts = []
    for word in [words[0], *words]:  # the first word is twice as long: a time mean can tell which it is
        tone = sum(w * np.sin(2 * np.pi * WORDS_HZ[word] * (n + 1) * times) for n, w in enumerate(weights))
        parts.append(0.1 * tone * np.hanning(4000))
    wave = np.concatenate(parts)
    return (wave + 0.003 * rng.standard_normal(len(wave))).astype(np.float32)


def write(data_dir: Path, task: str, rows: list[dict]) -> None:
    """Writes one manifest."""
    path = data_dir / "superb" / f"{task}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_superb_corpus(data_dir: Path, counts=(60, 12, 18)) -> Path:
    """Audio and manifests of all ten tasks."""
    rng = np.random.default_rng(0)
    spoken = []
    for split, count in zip(("train", "dev", "test"), counts):
        for number in range(count):
            words = [str(word) for word in rng.choice(list(WORDS_HZ), size=int(rng.integers(3, 6)))]
            speaker = SPEAKERS[number % len(SPEAKERS)]
            row = {"id": f"{split}-{number:02d}", "path": f"audio/{split}-{number:02d}.wav", "split": split}
            wave = say(words, speaker, rng)
            save_audio(data_dir / row["path"], wave, 16000)
            spoken.append({**row, "duration": len(wave) / 16000, "speaker": speaker, "words": words})

    def rows(target):
        return [{**{k: v for k, v in row.items() if k != "words"}, "target": target(row)} for row in spoken]

    write(data_dir, "KS", rows(lambda row: row["words"][0]))
    write(data_dir, "SID", rows(lambda row: row["speaker"]))
    write(data_dir, "IC", rows(lambda row: {"first": row["words"][0], "last": row["words"][-1]}))
    write(data_dir, "PR", rows(lambda row: [PHONES[word] for word in row["words"]]))
    write(data_dir, "ASR", rows(lambda row: " ".join(row["words"])))
    write(data_dir, "SF", rows(_slots))
    write(data_dir, "ER", [{**row, "split": "all", "session": f"s{n % 3}"} for n, row in enumerate(rows(_mood))])
    verification, trials = _verification(spoken)
    write(data_dir, "ASV", verification)
    write(data_dir, "ASV_trials", trials)
    write(data_dir, "QbE", _queries(data_dir, spoken, rng))
    write(data_dir, "SD", _dialogues(data_dir, rng))
    write(data_dir, "SS", _pairs(data_dir, rng))
    return data_dir


def _mood(row) -> str:
    return "low" if WORDS_HZ[row["words"][0]] < 600 else "high"


def _slots(row) -> list:
    first, *rest = row["words"]
    return [["start", first], [None, " ".join(rest)]]


def _verification(spoken) -> tuple[list, list]:
    rows = [{**row, "target": row["speaker"]} for row in spoken]
    trials = []
    for split in ("dev", "test"):
        mine = [row for row in rows if row["split"] == split]
        trials += [
            {"split": split, "first": a["id"], "second": b["id"], "same": a["target"] == b["target"]}
            for n, a in enumerate(mine)
            for b in mine[n + 1 :]
        ]
    return rows, trials


def _queries(data_dir, spoken, rng) -> list:
    rows = []
    for split in ("dev", "test"):
        for word in WORDS_HZ:
            row = {"id": f"query-{split}-{word}", "path": f"audio/query-{split}-{word}.wav", "split": split}
            save_audio(data_dir / row["path"], say([word], "ann" if split == "dev" else "bob", rng), 16000)
            rows.append({**row, "duration": 0.5, "role": "query", "target": word})
    documents = [row for row in spoken if row["split"] != "train"]
    return rows + [{**row, "role": "document", "split": "all", "target": row["words"]} for row in documents]


def _pairs(data_dir, rng) -> list:
    """Two at once: one says do, the other fa, which a mask can tell apart by pitch."""
    rows = []
    for split, count in (("train", 16), ("dev", 4), ("test", 4)):
        for number in range(count):
            name = f"pair-{split}-{number}"
            waves = [0.5 * say([word] * 3, str(rng.choice(SPEAKERS)), rng) for word in ("do", "fa")]
            files = [f"{name}.wav", f"{name}-s1.wav", f"{name}-s2.wav"]
            for file, wave in zip(files, (sum(waves), *waves)):
                save_audio(data_dir / "audio" / file, wave, 16000)
            row = {"id": name, "path": f"audio/{files[0]}", "split": split, "duration": len(waves[0]) / 16000}
            rows.append({**row, "target": files[1:]})
    return rows


def _dialogues(data_dir, rng) -> list:
    rows = []
    for split, count in (("train", 16), ("dev", 4), ("test", 4)):
        for number in range(count):
            first, second = rng.choice(SPEAKERS, size=2, replace=False)
            one = say(rng.choice(list(WORDS_HZ), size=6), str(first), rng)
            two = say(rng.choice(list(WORDS_HZ), size=6), str(second), rng)
            offset = int(rng.integers(8000, 24000))
            wave = np.zeros(offset + len(two), dtype=np.float32)
            wave[: len(one)] += one
            wave[offset:] += two
            name = f"dialogue-{split}-{number}"
            save_audio(data_dir / f"audio/{name}.wav", wave, 16000)
            segments = [[str(first), 0.0, len(one) / 16000], [str(second), offset / 16000, len(wave) / 16000]]
            row = {"id": name, "path": f"audio/{name}.wav", "split": split, "duration": len(wave) / 16000}
            rows.append({**row, "target": segments})
    return rows
