"""ER: one of a few emotions, leave one session out; accuracy, mean over the folds. `target` is the label.

Rows carry `session`; their `split` is not used. Of each fold's training sessions the published protocol takes 20 % at
random as dev, whose speakers are also in training (the near-legacy number); the clean number takes one whole session.
"""

import torch

from spear.errors import DataError
from spear.evaluate.cache import FeatureStore
from spear.evaluate.problems import LabelProblem, Splits
from spear.evaluate.protocol import Settings
from spear.evaluate.table import Row, Table
from spear.evaluate.task import Task
from spear.evaluate.tasks.labels import with_lists

_TRAIN_FRACTION = 0.8


def _session(row: Row) -> str:
    session = row.extra.get("session")
    return "" if session is None else str(session)


class EmotionRecognition(Task):
    """See the module's docstring."""

    name, title, metrics = "ER", "Emotion recognition", ("accuracy",)
    needs_frames, legacy, legacy_rule = False, "dev", "dev shares speakers with training"
    legacy_differences = ("dev is drawn as published, but from the rows in the order of the manifest",)

    def folds(self, table: Table, legacy: bool = False) -> dict[str, Splits]:
        """A fold for each session; dev is the next session, or a random part of training."""
        table.leave_out({row.id: "no session" for row in table.rows if not _session(row)})
        sessions = sorted({_session(row) for row in table.rows})
        if len(sessions) < 3:
            raise DataError(f"sessions {sessions} of ER", "at least three, one on every row", "run stage 1 again")
        found = {}
        for number, session in enumerate(sessions):
            test = [row for row in table.rows if _session(row) == session]
            rest = [row for row in table.rows if _session(row) != session]
            if legacy:
                # As torch's random_split divides them after manual_seed(0), the rest of int(0.8 n) being dev.
                order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0)).tolist()
                dev = [rest[place] for place in order[int(_TRAIN_FRACTION * len(rest)) :]]
            else:
                dev = [row for row in rest if _session(row) == sessions[(number + 1) % len(sessions)]]
            held = {row.id for row in dev}
            found[session] = {"train": [row for row in rest if row.id not in held], "dev": dev, "test": test}
        return found

    def problem(self, splits: Splits, table: Table, store: FeatureStore, settings: Settings) -> LabelProblem:
        """See `Task`."""
        return LabelProblem(with_lists(splits), store, settings)
