"""Files that evaluation reads, mutated: what is found is told in three parts, never as a traceback."""

import random

import pytest
import yaml

from spear import fs
from spear.errors import SpearError
from spear.evaluate import results
from spear.evaluate.corpora.librispeech import read_lexicons
from spear.evaluate.corpora.writing import read_entries
from spear.evaluate.runs import rescore
from spear.evaluate.suites import RecipeTasks
from spear.evaluate.table import read_table
from spear.evaluate.tasks import TASKS

PIECES = [b"", b"\x00", b"\xff\xfe", b"\n", b"\t", b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'"', b"\\udce9"]
PIECES += ["\u2028".encode(), b"9" * 400, b"[" * 300, b": ", b"- ", b"&a [*a]", b"2001-01-01", b"true", b"../"]
NUM_MUTATIONS = 250


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three places cut, doubled, replaced or exchanged."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.choice([0, 1, 1, 4, 20]))
        kind = rng.randrange(4)
        middle = rng.choice(PIECES) if kind < 2 else data[start:stop] * 2 if kind == 2 else bytes([rng.randrange(256)])
        data = data[:start] + middle + data[stop:]
    return data


def superb_table(folder):
    rows = [
        {"id": f"u{n}", "path": "a.wav", "split": split, "duration": 1.0, "start": 0.5, "speaker": "s", "target": "s"}
        | {"kept": [[0, 10]], "session": "x"}
        for n, split in enumerate(("train", "dev", "test"))
    ]
    fs.write_jsonl(folder / "superb" / "ASV.jsonl", rows)
    trials = [{"split": "test", "first": "u1", "second": "u2", "same": True}] * 2
    fs.write_jsonl(folder / "superb" / "ASV_trials.jsonl", trials)
    (folder / "superb" / "a.wav").touch()
    return [folder / "superb" / "ASV.jsonl", folder / "superb" / "ASV_trials.jsonl"], lambda: read_table(
        folder, "ASV", TASKS["ASV"].refuse
    ).content_hash()


def task_list(folder):
    tasks = [{"name": f"t{n}", "head": "ctc", "target": "text", "metric": "wer", "title": "T"} for n in range(2)]
    fs.write_text(folder / "manifests" / "tasks.yaml", yaml.safe_dump({"tasks": tasks}))
    return [folder / "manifests" / "tasks.yaml"], lambda: RecipeTasks(folder).find(["all"], lambda *_: None)


def entries(folder):
    lines = ["id\tpath\tduration\tspeaker\ttext\tlabel", "a\ta.wav\t1.5\tann\thello\tset=x;digit=1"]
    fs.write_text(folder / "manifest.tsv", "\n".join([*lines, *lines[1:]]) + "\n")
    return [folder / "manifest.tsv"], lambda: read_entries(folder, "a corpus", "correct it")


def lexicon(folder):
    fs.write_text(folder / "lexicon.txt", "HELLO 1.0 HH AH\n\nWORLD 0.5 W ER\n")
    return [folder / "lexicon.txt"], lambda: read_lexicons([folder / "lexicon.txt"])


def run_files(folder):
    place = folder / "evaluate/mini/two/fbank.json"
    rows = [
        {"id": "a", "reference": "x y", "hypotheses": ["x", "y"]},
        {"id": "b", "reference": "x", "hypotheses": ["x"]},
    ]
    run = {"suite": "mini", "task": "two", "protocol": "mini", "scores": {"wer": 0.5}, "num_predictions": 2}
    run |= {"metric": "wer", "score": 0.5, "interval": [0.1, 0.9], "num_items": {"test": 2, "train": 2}}
    run |= {"num_items": {"train": 1, "dev": 1, "test": 2}, "skipped": [], "learning_rate": 0.1, "seeds": [0]}
    run |= {"command": "", "commit": "", "hardware": "", "inputs_sha256": "", "predictions": "fbank.predictions.jsonl"}
    fs.write_json(place, run | {"upstream": {"name": "fbank", "kind": "fbank", "hash": ""}})
    fs.write_jsonl(place.parent / run["predictions"], rows)

    def read():
        runs = results.load_runs(folder)
        if runs:
            results.terminal_table(runs), results.results_markdown(runs, "title")
        rescore(place)

    return [place, place.parent / run["predictions"]], read


def superb_run_files(folder):
    place = folder / "evaluate/superb/KS/fbank.json"
    fs.write_json(place, {"scores": {"accuracy": 1.0}, "num_predictions": 2, "predictions": "p.jsonl"})
    rows = [{"id": n, "fold": "", "reference": ["yes"], "hypotheses": [["yes"]]} for n in "ab"]
    fs.write_jsonl(place.parent / "p.jsonl", rows)
    return [place, place.parent / "p.jsonl"], lambda: rescore(place)


@pytest.mark.parametrize("make", [superb_table, task_list, entries, lexicon, run_files, superb_run_files])
def test_what_is_mutated_is_told_in_three_parts(tmp_path, make):
    paths, read = make(tmp_path)
    read()
    rng, told = random.Random(0), 0
    for path in paths:
        whole = path.read_bytes()
        for number in range(NUM_MUTATIONS):
            path.write_bytes(mutated(whole, rng))
            try:
                read()
            except SpearError as error:
                told += 1
                assert error.found and error.expected and error.fix
            except Exception as error:
                pytest.fail(f"{path.name}, mutation {number}: {type(error).__name__}: {error}\n{path.read_bytes()!r}")
        path.write_bytes(whole)
    assert told > 10 or make is lexicon
