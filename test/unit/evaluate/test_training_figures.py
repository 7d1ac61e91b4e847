"""Figures of trainings and targets of every kind: two-byte labels, vectors, measures that are no accuracy."""

import numpy as np

from spear.evaluate.figures import codebook_figure, codebook_use, to_svg, training_figure
from spear.shards import ShardWriter


def test_the_use_of_many_classes_is_counted_and_vectors_are_left_out(tmp_path):
    labels = np.arange(600, dtype=np.uint16)[:, None]
    for name, rows in (("labels", labels), ("frames", np.ones((5, 3), dtype=np.float16))):
        with ShardWriter(tmp_path / name, "part", rows.dtype, rows.shape[1]) as writer:
            writer.add("x", rows)
    uses = {name: codebook_use(tmp_path / name) for name in ("labels", "frames")}
    assert round(uses["labels"]["perplexity"][0]) == 600 and uses["frames"]["perplexity"] == []
    assert len(codebook_figure(uses).axes) == 1


def test_a_training_by_regression_shows_its_cosine():
    rows = [
        {"step": n, "lr": 0.1, "loss/live/unmasked": 2.0, "l1/live/unmasked": 0.5, "cosine/live/unmasked": 0.1}
        for n in range(3)
    ]
    text = to_svg(training_figure(rows, "run"))
    assert "cosine" in text and "chance" not in text and "nats" not in text
    rows = [{"step": n, "lr": 0.1, "loss/speech/masked": 2.0, "accuracy/speech/masked": 0.1} for n in range(3)]
    text = to_svg(training_figure(rows, "run"))
    assert "accuracy" in text and "chance" in text and "nats per codebook" in text
