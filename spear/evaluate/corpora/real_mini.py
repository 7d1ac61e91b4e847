"""All ten tasks from a small folder of real recordings with `manifest.tsv`, by the names of its sources.

KS: wake words (split at random) and digits (unseen speakers). SID: readers of LibriSpeech and digits, each speaker's
recordings divided. ASV: trained on learners of English, tested on readers and VCTK. ASR and PR: transcribed speech,
unseen speakers; phones by espeak-ng. ER: acted emotions, a speaker a fold. IC and SF: coffee orders; they have no
transcript, so SF's targets are the slot values alone, in the order of the labels. SD: two-talker mixtures and meeting
excerpts. QbE: wake words as queries, other recordings of wake words and read speech as documents.
"""

from pathlib import Path

from spear import fs
from spear.audio.synthesis.espeak import speak, speakers
from spear.errors import DataError
from spear.evaluate.corpora.writing import Rows, random_trials, read_entries, share, write_task, write_trials
from spear.evaluate.units import normalise_text
from spear.names import file_name

_DIGITS = "zero one two three four five six seven eight nine".split()
_DIGIT_TEST, _DIGIT_DEV = ("fsdd-theo", "fsdd-yweweler"), ("fsdd-george",)
_READ = ("librispeech-test-other", "speechocean762", "ljspeech", "an4", "sphinx-librivox")
_SLOTS = ("coffeeDrink", "milkAmount", "numberOfShots", "roast", "size", "sugarAmount")
_INTENT = ("coffeeDrink", "size")
_SD_SPLIT = {"ami_trn01": "train", "ami_trn04": "dev", "ami_trn05": "test"}
_QUERIES_PER_WORD, _OTHER_DOCUMENTS = 2, 40


def prepare(raw: Path, data_dir: Path) -> dict[str, dict[str, int]]:
    """Writes the manifests of all ten tasks; returns the number of rows by task and split.

    Raises:
        DataError: no manifest.tsv with the sources that the tasks need.
    """
    entries = read_entries(raw, "a folder of recordings", "correct --raw")
    for entry in entries:
        entry["source"] = Path(entry["path"]).parent.name
    of = {source: [e for e in entries if e["source"] == source] for source in {e["source"] for e in entries}}
    needed = {"wakeword", "fsdd", "intent", "emodb", "librispeechmix", "ami", "vctk", *_READ}
    if not needed <= set(of):
        raise DataError(
            f"{raw} without {', '.join(sorted(needed - set(of)))}", f"recordings of {', '.join(sorted(needed))}",
            "give the folder with all its sources",
        )  # fmt: skip
    said = [e for source in _READ for e in of[source] if normalise_text(e["text"])]
    readers = of["librispeech-test-other"] + of["fsdd"]
    counts = {
        "KS": write_task(data_dir, "KS", _keywords(of["wakeword"], of["fsdd"])),
        "SID": write_task(data_dir, "SID", (_row(e, e["speaker"], _by_hash(e["id"], 0.3)) for e in readers)),
        "IC": write_task(data_dir, "IC", (_row(e, _intent(e), s) for e, s in _orders(of["intent"]))),
        "SF": write_task(data_dir, "SF", (_row(e, _slots(e), s) for e, s in _orders(of["intent"]))),
        "ER": write_task(data_dir, "ER", (_emotion(e) for e in of["emodb"])),
        "ASR": write_task(data_dir, "ASR", (_row(e, e["text"], _by_hash(e["speaker"], 0.35)) for e in said)),
        "PR": write_task(data_dir, "PR", _phones(said)),
        "QbE": write_task(data_dir, "QbE", _query_rows(of["wakeword"], of["librispeech-test-other"])),
        "SD": write_task(data_dir, "SD", _conversations(raw, of["librispeechmix"], of["ami"])),
    }
    counts["ASV"] = _verification(data_dir, of["speechocean762"], of["librispeech-test-other"] + of["vctk"])
    return counts


def _row(entry: dict, target, split: str) -> dict:
    row = {"id": entry["id"], "path": entry["path"], "split": split, "duration": entry["duration"]}
    return row | {"speaker": entry["speaker"], "target": target}


def _by_hash(name: str, test: float, dev: float = 0.15) -> str:
    place = share(name, "real-mini")
    return "test" if place < test else "dev" if place < test + dev else "train"


def _keywords(wake: list[dict], digits: list[dict]) -> Rows:
    rows = [_row(e, e["labels"]["keyword"], _by_hash(e["id"], 0.4)) for e in wake]
    for entry in digits:
        split = "test" if entry["speaker"] in _DIGIT_TEST else "dev" if entry["speaker"] in _DIGIT_DEV else "train"
        digit = entry["labels"]["digit"]
        if digit not in list("0123456789"):
            raise DataError(f"{entry['labels'].where}, field label: digit={digit}", "0 to 9", "correct that line")
        rows.append(_row(entry, _DIGITS[int(digit)], split))
    return rows


def _orders(orders: list[dict]) -> list[tuple[dict, str]]:
    """Half for training, a sixth for dev, a third for test, in the order of a hash."""
    ordered = sorted(orders, key=lambda e: share(e["id"], "orders"))
    return [(e, ("train", "train", "test", "train", "test", "dev")[n % 6]) for n, e in enumerate(ordered)]


def _intent(entry: dict) -> dict[str, str]:
    return {slot: entry["labels"].get(slot, "none") for slot in _INTENT}


def _slots(entry: dict) -> list[list]:
    return [[slot, entry["labels"][slot]] for slot in _SLOTS if slot in entry["labels"]]


def _emotion(entry: dict) -> dict:
    return _row(entry, entry["labels"]["emotion"], "all") | {"session": entry["speaker"]}


def _phones(said: list[dict]) -> Rows:
    (voice,) = speakers(1, 0)
    spoken = speak([(voice, normalise_text(e["text"]).lower()) for e in said])
    return [_row(e, list(s.phones), _by_hash(e["speaker"], 0.35)) for e, s in zip(said, spoken)]


def _query_rows(wake: list[dict], read: list[dict]) -> Rows:
    rows, seen = [], {}
    for entry in sorted(wake, key=lambda e: share(e["id"], "query")):
        word = entry["labels"]["keyword"]
        number = seen[word] = seen.get(word, 0) + 1
        if number <= 2 * _QUERIES_PER_WORD:
            split = "dev" if number <= _QUERIES_PER_WORD else "test"
            rows.append(_row(entry, word, split) | {"role": "query"})
        else:
            rows.append(_row(entry, [word], "all") | {"role": "document"})
    others = sorted(read, key=lambda e: share(e["id"], "document"))[:_OTHER_DOCUMENTS]
    return rows + [_row(entry, [], "all") | {"role": "document"} for entry in others]


def _conversations(raw: Path, mixtures: list[dict], meetings: list[dict]) -> Rows:
    rows = []
    for number, entry in enumerate(sorted(mixtures, key=lambda e: share(e["id"], "mixtures"))):
        try:
            turns = entry["label"].split(";")[1].split("/")
            segments = [[name, *map(float, span.split("-"))] for name, span in (turn.split(":") for turn in turns)]
        except (IndexError, ValueError) as error:
            where = f"{entry['labels'].where}, field label: {entry['label'][:60]}"
            raise DataError(where, "...;NAME:START-END/NAME:START-END", "correct that line") from error
        split = ("train", "test", "train", "dev", "train", "test", "train", "test")[number % 8]
        rows.append(_row(entry, segments, split))
    for entry in meetings:
        segments = _read_rttm(raw / "rttm" / file_name(entry["id"], ".rttm"))
        rows.append(_row(entry, segments, _SD_SPLIT.get(entry["id"], "train")))
    return rows


def _read_rttm(path: Path) -> list[list]:
    """[speaker, start, end] of the lines of a file."""
    segments = []
    for number, line in fs.iter_lines(path):
        words = line.split()
        if words[:1] != ["SPEAKER"]:
            continue
        try:
            segments.append([words[7], float(words[3]), round(float(words[3]) + float(words[4]), 3)])
        except (IndexError, ValueError) as error:
            where = f"line {number} of {path}: {line[:80]}"
            raise DataError(where, "SPEAKER FILE 1 START DURATION <NA> <NA> NAME <NA> <NA>", "correct it") from error
    return segments


def _verification(data_dir: Path, training: list[dict], tested: list[dict]) -> dict[str, int]:
    rows = [_row(e, e["speaker"], "dev" if share(e["speaker"], "asv") < 0.25 else "train") for e in training]
    rows += [_row(e, e["speaker"], "test") for e in tested]
    trials = []
    for split in ("dev", "test"):
        trials += random_trials({row["id"]: row["target"] for row in rows if row["split"] == split}, split, 300)
    return write_task(data_dir, "ASV", rows) | write_trials(data_dir, trials)
