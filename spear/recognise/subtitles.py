"""Transcripts as files: plain text, JSON with every word, and the subtitles of SRT and WebVTT."""

import html
from collections.abc import Sequence

from spear import fs
from spear.recognise.words import TimedWord

PAUSE_SECONDS, MOST_SECONDS, MOST_CHARACTERS = 0.8, 6.0, 84


def segments(words: Sequence[TimedWord]) -> list[list[TimedWord]]:
    """Words that are shown together: up to a pause, so many seconds, or two lines of characters."""
    found: list[list[TimedWord]] = []
    for word in words:
        last = found[-1] if found else []
        text = sum(len(each.text) + 1 for each in last) + len(word.text)
        if (
            not last
            or word.start_seconds - last[-1].end_seconds > PAUSE_SECONDS
            or word.end_seconds - last[0].start_seconds > MOST_SECONDS
            or text > MOST_CHARACTERS
        ):
            found.append([])
        found[-1].append(word)
    return found


def written(words: Sequence[TimedWord], format: str, path: str = "") -> str:
    """A transcript as a file.

    Args:
        words: of a recording.
        format: `txt`, `json`, `srt` or `vtt`.
        path: of the recording, which JSON names.
    """
    text = " ".join(word.text for word in words)
    if format == "txt":
        return text + "\n"
    if format == "json":
        rows = [
            {
                "word": word.text,
                "start": round(word.start_seconds, 3),
                "end": round(word.end_seconds, 3),
                "confidence": round(word.confidence, 4),
            }
            for word in words
        ]
        return fs.json_text({"path": path, "text": text, "words": rows}) + "\n"
    blocks = ["WEBVTT"] if format == "vtt" else []
    for number, segment in enumerate(segments(words), 1):
        times = [_time(moment, "." if format == "vtt" else ",") for moment in _span(segment)]
        said = " ".join(word.text for word in segment)
        if format == "vtt":
            blocks.append(f"{times[0]} --> {times[1]}\n{html.escape(said, quote=False)}")
        else:
            blocks.append(f"{number}\n{times[0]} --> {times[1]}\n{said}")
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _span(segment: Sequence[TimedWord]) -> tuple[float, float]:
    return segment[0].start_seconds, segment[-1].end_seconds


def _time(seconds: float, point: str) -> str:
    """HH:MM:SS and milliseconds after a point or comma."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
