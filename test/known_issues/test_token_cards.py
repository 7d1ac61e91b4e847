"""Labels and quantizers of unknown origin (../shared/reference/user-pains.md, 4): what does not fit is refused.

fairseq HuBERT users met class counts of another k-means, labels of another length, and indexes of another iteration of
the model, all of them silently. Here every such swap is a `CardError` that names both values.
"""

import dataclasses
import json

import numpy as np
import pytest

from spear.errors import CardError
from spear.shards import ShardWriter
from spear.tokens import TokenCard, check_teacher, open_stream

TEACHER = {
    "teacher": "spear",
    "weights_sha256": "1" * 64,
    "layer": -1,
    "frame_rate_hz": 50.0,
    "sample_rate_hz": 16000,
    "dim": 192,
    "frame_rule": "zipformer-50hz",
}
QUANTIZER = {"content_sha256": "2" * 64, "num_codebooks": 4, "codebook_size": 256}
CARD = TokenCard("speech", TEACHER, QUANTIZER, 50.0, 16000, "3" * 64, (), "0.1.0")


def _other(**changes):
    return dataclasses.replace(CARD, **changes)


@pytest.mark.parametrize(
    ("other", "key", "values"),
    [
        (_other(quantizer={**QUANTIZER, "content_sha256": "9" * 64}), "quantizer.content_sha256", ("2222", "9999")),
        (_other(quantizer={**QUANTIZER, "num_codebooks": 8}), "quantizer.num_codebooks", ("4", "8")),
        (_other(teacher={**TEACHER, "layer": 5}), "teacher.layer", ("-1", "5")),
        (_other(teacher={**TEACHER, "weights_sha256": "8" * 64}), "teacher.weights_sha256", ("1111", "8888")),
        (_other(frame_rate_hz=25.0), "frame_rate_hz", ("50.0", "25.0")),
        (_other(sample_rate_hz=24000), "sample_rate_hz", ("16000", "24000")),
        (_other(fbank_sha256="7" * 64), "fbank_sha256", ("3333", "7777")),
        (_other(stream="audio"), "stream", ("speech", "audio")),
    ],
)
def test_swaps_are_refused_naming_both_values(other, key, values):
    with pytest.raises(CardError) as caught:
        CARD.check_compatible(other, "the checkpoint")
    message = str(caught.value)
    assert key in message and "the checkpoint" in message and all(value in message for value in values)
    assert CARD.sha256 != other.sha256


def test_version_place_and_key_order_do_not_matter():
    CARD.check_compatible(_other(spear_version="9.9"))
    CARD.check_compatible({"teacher": {"layer": -1}, "sample_rate_hz": 16000})
    again = TokenCard.from_dict(json.loads(json.dumps(CARD.to_dict())))
    assert again == CARD and again.sha256 == CARD.sha256 == _other(spear_version="9.9").sha256


def test_quantizer_of_another_teacher_is_refused():
    check_teacher(TEACHER, {**TEACHER, "dtype": "bfloat16"}, "a", "b")
    with pytest.raises(CardError, match="(?s)layer = -1.*layer = 3"):
        check_teacher(TEACHER, {**TEACHER, "layer": 3}, "data/quantizer/speech", "teacher of 'speech'")


def _tokens(directory, width=4, dtype=np.uint8):
    with ShardWriter(directory, "unit-00000", dtype, width) as writer:
        writer.add("a", np.zeros((3, width), dtype))


def test_tokens_without_a_card_or_with_another_are_refused(tmp_path):
    _tokens(tmp_path / "none")
    with pytest.raises(CardError, match="card.json"):
        open_stream(tmp_path / "none")
    _tokens(tmp_path / "foreign")
    (tmp_path / "foreign" / "card.json").write_text('{"km": 500}')
    with pytest.raises(CardError, match="not a token card"):
        open_stream(tmp_path / "foreign")
    _tokens(tmp_path / "part")
    part = {key: value for key, value in CARD.to_dict().items() if key != "quantizer"}
    (tmp_path / "part" / "card.json").write_text(json.dumps(part))
    with pytest.raises(CardError, match="quantizer"):
        open_stream(tmp_path / "part")
    _tokens(tmp_path / "width", width=3)
    CARD.save(tmp_path / "width")
    with pytest.raises(CardError, match="4 x uint8"):
        open_stream(tmp_path / "width")


def test_tokens_that_fit_open(tmp_path):
    _tokens(tmp_path)
    CARD.save(tmp_path)
    store, card = open_stream(tmp_path, {"fbank_sha256": "3" * 64})
    assert card == CARD and store.rows("a") == 3
