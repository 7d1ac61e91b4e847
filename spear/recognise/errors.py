"""Word and character error rates with everything behind them, in the files that icefall writes.

`recogs-NAME.txt` has two lines for each utterance, its reference and its hypothesis; `errs-NAME.txt` has the counts, a
table of speakers, the worst utterances, every utterance aligned, and every substitution, deletion and insertion with
how often it happened.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spear import fs
from spear.errors import DataError

GAP = "*"  # stands for no word in an alignment
_WORST = 20


@dataclass(frozen=True)
class Utterance:
    """What was said and what was found.

    Attributes:
        id: of the cut.
        reference, hypothesis: texts, normalised alike.
        speaker: who says it; empty where that is not known.
    """

    id: str
    reference: str
    hypothesis: str
    speaker: str = ""


@dataclass(frozen=True)
class Counts:
    """Edits that turn references into hypotheses, and the length of the references."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    length: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.length + other.length,
        )

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Edits for each unit of the references; nan when there are none."""
        return self.errors / self.length if self.length else float("nan")

    def __str__(self) -> str:
        return (
            f"{self.rate:.2%} ({self.errors} errors over {self.length}: {self.insertions} insertions, "
            f"{self.deletions} deletions, {self.substitutions} substitutions)"
        )


def count(reference: Sequence[str], hypothesis: Sequence[str]) -> Counts:
    """The least edits between two sequences of words or characters."""
    if not reference or not hypothesis:
        return Counts(0, len(hypothesis), len(reference), len(reference))
    import kaldialign

    found = kaldialign.edit_distance(list(reference), list(hypothesis))
    return Counts(found["sub"], found["ins"], found["del"], len(reference))


def word_counts(utterances: Sequence[Utterance]) -> Counts:
    """Of words, over all utterances."""
    return sum((count(each.reference.split(), each.hypothesis.split()) for each in utterances), Counts())


def character_counts(utterances: Sequence[Utterance]) -> Counts:
    """Of characters, spaces included, over all utterances."""
    return sum((count(each.reference, each.hypothesis) for each in utterances), Counts())


def write_report(directory: str | Path, name: str, utterances: Sequence[Utterance]) -> dict:
    """Writes `recogs-NAME.txt`, `errs-NAME.txt` and `wer-NAME.json`.

    Args:
        directory: where they go.
        name: of what was decoded and how, such as `test-clean-greedy`.
        utterances: in any order; they are written by id.

    Returns:
        what `wer-NAME.json` holds: counts and rates of words and characters, and words by speaker.

    Raises:
        DataError: there are no utterances.
    """
    if not utterances:
        raise DataError(f"no utterance in {name}", "at least one", "check the manifest that was decoded")
    utterances, directory = sorted(utterances, key=lambda each: each.id), Path(directory)
    lines = []
    for each in utterances:
        lines += [f"{each.id}:\tref={each.reference.split()}", f"{each.id}:\thyp={each.hypothesis.split()}"]
    fs.write_text(directory / f"recogs-{name}.txt", "\n".join(lines) + "\n")
    fs.write_text(directory / f"errs-{name}.txt", errors_text(utterances))
    found = {
        "words": _as_dict(word_counts(utterances)),
        "characters": _as_dict(character_counts(utterances)),
        "speakers": {
            speaker: _as_dict(word_counts(group)) for speaker, group in sorted(_by_speaker(utterances).items())
        },
        "utterances": len(utterances),
    }
    fs.write_json(directory / f"wer-{name}.json", found)
    return found


def _as_dict(counts: Counts) -> dict:
    rate = counts.rate if counts.length else None
    return {
        "rate": rate,
        "substitutions": counts.substitutions,
        "insertions": counts.insertions,
        "deletions": counts.deletions,
        "length": counts.length,
    }


def errors_text(utterances: Sequence[Utterance]) -> str:
    """What `errs-NAME.txt` holds."""
    words, details, pairs = word_counts(utterances), [], Counter()
    for each in utterances:
        aligned = _aligned(each.reference.split(), each.hypothesis.split())
        pairs.update(aligned)
        details.append(f"{each.id}:\t" + " ".join(_shown(*pair) for pair in aligned))
    correct = sum(times for (expected, found), times in pairs.items() if expected == found)
    lines = [
        f"%WER = {100 * words.rate:.2f}",
        f"Errors: {words.insertions} insertions, {words.deletions} deletions, {words.substitutions} substitutions, "
        f"over {words.length} reference words ({correct} correct)",
        f"%CER = {100 * character_counts(utterances).rate:.2f}",
        "Search below for sections starting with SPEAKERS:, WORST UTTERANCES:, PER-UTT DETAILS:, SUBSTITUTIONS:, "
        "DELETIONS:, INSERTIONS:, PER-WORD STATS:",
    ]
    lines += ["", "SPEAKERS: WER, errors, words, utterances", *_speakers(utterances)]
    lines += ["", "WORST UTTERANCES: errors, words, id", *_worst(utterances)]
    lines += ["", "PER-UTT DETAILS: corr or (ref->hyp)", *details]
    titles = {"SUBSTITUTIONS: count ref -> hyp": [], "DELETIONS: count ref": [], "INSERTIONS: count hyp": []}
    substitutions, deletions, insertions = titles.values()
    for (expected, found), times in sorted(pairs.items(), key=lambda entry: (-entry[1], entry[0])):
        if expected == GAP:
            insertions.append(f"{times}   {found}")
        elif found == GAP:
            deletions.append(f"{times}   {expected}")
        elif expected != found:
            substitutions.append(f"{times}   {expected} -> {found}")
    for title, entries in titles.items():
        lines += ["", title, *entries]
    lines += ["", "PER-WORD STATS: word  corr  tot_errs  count_in_ref  count_in_hyp", *_by_word(pairs)]
    return "\n".join(lines) + "\n"


def _aligned(reference: list[str], hypothesis: list[str]) -> list[tuple[str, str]]:
    if not reference or not hypothesis:
        return [(word, GAP) for word in reference] + [(GAP, word) for word in hypothesis]
    import kaldialign

    return [tuple(pair) for pair in kaldialign.align(reference, hypothesis, GAP)]


def _shown(expected: str, found: str) -> str:
    return expected if expected == found else f"({expected}->{found})"


def _by_speaker(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    groups: dict[str, list[Utterance]] = {}
    for each in utterances:
        groups.setdefault(each.speaker, []).append(each)
    return groups


def _speakers(utterances: Sequence[Utterance]) -> list[str]:
    groups = _by_speaker(utterances)
    rows = [(word_counts(group), len(group), speaker or "(unknown)") for speaker, group in groups.items()]
    rows.sort(key=lambda row: (-row[0].errors / max(1, row[0].length), row[2]))
    return [
        f"{100 * counts.errors / max(1, counts.length):6.2f}  {counts.errors}  {counts.length}  {number}  {speaker}"
        for counts, number, speaker in rows
    ]


def _worst(utterances: Sequence[Utterance]) -> list[str]:
    rows = [(count(each.reference.split(), each.hypothesis.split()), each.id) for each in utterances]
    rows = sorted((row for row in rows if row[0].errors), key=lambda row: (-row[0].errors, row[1]))
    return [f"{counts.errors}  {counts.length}  {name}" for counts, name in rows[:_WORST]]


def _by_word(pairs: Counter) -> list[str]:
    words: dict[str, list[int]] = {}
    for (expected, found), times in pairs.items():
        for word in {expected, found} - {GAP}:
            row = words.setdefault(word, [0, 0, 0, 0])
            row[0 if expected == found else 1] += times
            row[2] += times * (word == expected)
            row[3] += times * (word == found)
    ordered = sorted(words.items(), key=lambda entry: (-entry[1][1], entry[0]))
    return [f"{word}   " + "  ".join(map(str, numbers)) for word, numbers in ordered]
