"""Speech corpora with transcripts beside the audio: LibriSpeech, GigaSpeech."""

from pathlib import Path

from spear import fs
from spear.errors import DataError
from spear.manifest.scan import Entry, Scan

_HELD_OUT = ("dev", "test")


def librispeech(raw: Path, kind: str) -> Scan:
    """LibriSpeech: every utterance of the parts that are there, from their transcripts; dev and test are held out.

    Takes the folder of the parts or the one above it. `lhotse.recipes.prepare_librispeech` gives the same utterances of
    a whole copy (a test compares them), but stops at a damaged file and does not list missing ones.

    Raises:
        DataError: no part in the folder.
    """
    root = raw / "LibriSpeech" if (raw / "LibriSpeech").is_dir() else raw
    parts = sorted(path for path in root.iterdir() if path.name.split("-")[0] in ("train", *_HELD_OUT))
    found = Scan([], [], has_manifest=True)
    for part in parts:
        for transcript in sorted(part.glob("*/*/*.trans.txt")):
            for line in transcript.read_text(encoding="utf-8").splitlines():
                item, _, text = line.partition(" ")
                if item:
                    path = (transcript.parent / f"{item}.flac").relative_to(raw).as_posix()
                    columns, heldout = {"part": part.name}, part.name.startswith(_HELD_OUT)
                    speaker = item.split("-")[0]
                    found.entries.append(
                        Entry(item, path, kind, speaker=speaker, text=text, columns=columns, heldout=heldout)
                    )
    if not found.entries:
        names = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        raise DataError(
            f"{root} with {names}", "parts such as train-clean-100/SPEAKER/CHAPTER/*.trans.txt", "correct the path"
        )
    return found


def gigaspeech(raw: Path, kind: str) -> Scan:
    """GigaSpeech: the segments of every recording in GigaSpeech.json; those of {DEV} and {TEST} are held out.

    Raises:
        DataError: no GigaSpeech.json, or not of its form.
    """
    path = raw / "GigaSpeech.json"
    listing = fs.read_json(path)
    found = Scan([], [], has_manifest=True)
    try:
        for audio in listing["audios"]:
            for segment in audio["segments"]:
                start, end = float(segment["begin_time"]), float(segment["end_time"])
                entry = Entry(
                    segment["sid"],
                    audio["path"],
                    kind,
                    duration_seconds=round(end - start, 6),
                    text=segment.get("text_tn"),
                    start_seconds=start,
                    recording=audio["aid"],
                    heldout=any(name in str(segment.get("subsets", [])) for name in ("{DEV}", "{TEST}")),
                )
                found.entries.append(entry)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} without what a segment has ({type(error).__name__}: {error})",
            "audios with aid, path and segments of sid, begin_time, end_time",
            "download GigaSpeech.json again",
        ) from error
    return found
