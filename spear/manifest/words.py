"""Words in names of files, folders and columns that say what is for training and what is held out."""

import itertools
import re
import unicodedata

_SPLIT_OF_WORD = {
    **dict.fromkeys(("train", "training", "trainset", "trn"), "train"),
    **dict.fromkeys(("dev", "devel", "development", "valid", "validation", "val", "devset", "validset"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "tests", "testset", "evalset", "tst"), "test"),
}
_LETTERS = re.compile(r"[^\W\d_]+")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # wordsLikeThese, in ASCII


def split_of(name: str) -> str:
    """The split that a table or column names: train, dev or test, in other spellings too; empty for anything else."""
    return _SPLIT_OF_WORD.get(name.strip().lower(), "")


def is_held_out(name: str) -> bool:
    """Whether the name of a file, folder or part says that it is for development or test, or held out.

    Whole words count: dev-clean, cuts_test2.jsonl and ValidSet do; validated, latest, device1 and prétest do not.
    """
    runs = _LETTERS.findall(unicodedata.normalize("NFC", name))
    words = [word.lower() for run in runs for word in (_WORDS.findall(run) if run.isascii() else [run])]
    if any(pair in (("held", "out"), ("hold", "out")) for pair in itertools.pairwise(words)):
        return True
    return any(split_of(word) in ("dev", "test") or word in ("heldout", "holdout") for word in words)
