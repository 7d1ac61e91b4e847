"""A task of mteb, the package itself, through `spear.runners.MtebEncoder`; its data are made here, nothing is fetched.

No part of the suite, since mteb brings pyarrow, polars and datasets. In an environment of its own:

    pip install mteb && HF_HUB_OFFLINE=1 python -m pytest test/parity/mteb_task.py
"""

import datasets
import mteb
import numpy as np
import pytest
import torch
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.task_metadata import TaskMetadata
from sklearn.linear_model import LogisticRegression

from spear.hear import get_scene_embeddings, load_model
from spear.runners import MtebEncoder

PITCHES = (300, 900, 2500)


def tone(pitch, seed):
    rng = np.random.default_rng(seed)
    times = np.arange(4800) / 16000
    return (0.2 * np.sin(2 * np.pi * pitch * times) + 0.05 * rng.standard_normal(4800)).astype(np.float32)


def items(waves):
    return [{"array": wave, "sampling_rate": 16000} for wave in waves]


def test_a_task_of_mteb_gives_its_number_through_the_wrapper(tmp_path, monkeypatch):
    """Eight samples a label, logistic regression: what scikit-learn makes of the embeddings that HEAR's door gives."""
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path))
    parts = {
        split: [(tone(PITCHES[n % 3] * (1 + 0.4 * np.sin(seed + n)), seed + n), n % 3) for n in range(count)]
        for split, count, seed in (("train", 24, 0), ("test", 30, 100))
    }

    class Tones(AbsTaskClassification):
        metadata = TaskMetadata(
            name="Tones", description="Pitches.", dataset={"path": "none", "revision": "1"}, type="AudioClassification",
            category="a2c", eval_splits=["test"], eval_langs=["zxx-Zxxx"], main_score="accuracy", modalities=["audio"],
        )  # fmt: skip
        input_column_name, n_experiments = "audio", 2

        def load_data(self, *args, **kwargs):
            self.dataset = datasets.DatasetDict({
                split: datasets.Dataset.from_dict({"audio": items([w for w, _ in rows]), "label": [y for _, y in rows]})
                for split, rows in parts.items()
            })  # fmt: skip
            self.data_loaded = True

    result = mteb.evaluate(MtebEncoder("fbank"), [Tones()], cache=None)
    (task_result,) = result.task_results
    model = load_model("fbank")
    x, y = {}, {}
    for split, rows in parts.items():
        x[split] = np.concatenate([get_scene_embeddings(torch.from_numpy(w)[None], model).numpy() for w, _ in rows])
        y[split] = [label for _, label in rows]
    # All 24 are eight of each label, so that every experiment trains on the same.
    expected = LogisticRegression(max_iter=100).fit(x["train"], y["train"]).score(x["test"], y["test"])
    assert 0.4 < expected and task_result.get_score() == pytest.approx(expected, abs=1e-6)
