"""Teachers whose rate goes into no student's: from audio through embeddings, quantizer and tokens to its frames."""

import pytest
import torch
from token_fakes import make_cuts, write_cuts
from weight_files import installed

from spear.bin import embed, extract_tokens, train_quantizer, verify_tokens
from spear.data import Cut, StreamConfig, TokenStream
from spear.teachers.aisfx import Aisfx
from spear.teachers.align import IGNORE, align_targets, expected_frames
from spear.teachers.musicnn import Musicnn

NETWORKS = {"musicnn": lambda: Musicnn(3, 2, 4, 5, 2), "aisfx": lambda: Aisfx(2)}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_from_audio_to_targets_of_a_student(name, tmp_path):
    cuts = make_cuts(tmp_path / "audio", 12)
    listed = str(write_cuts(tmp_path / "cuts.jsonl", cuts))
    spec = f"{name}:{installed(tmp_path / name, NETWORKS[name]())}"
    frames, quantizer, tokens = (str(tmp_path / part) for part in ("frames", "quantizer", "tokens"))
    common = ["--cuts", listed, "--num-workers", "1", "--device", "cpu"]
    assert embed.main([*common, "--teacher", spec, "--output", frames]) == 0
    few = ["--train.rounds", "1", "--train.start-frames", "100", "--train.logits-steps", "5"]
    words = ["--embeddings", frames, "--num-codebooks", "2", "--codebook-size", "4", "--output", quantizer]
    assert train_quantizer.main([*words, *few]) == 0
    stream = ["--stream", f"audio={spec}", "--quantizer", f"audio={quantizer}"]
    assert extract_tokens.main([*common, *stream, "--output", tokens]) == 0
    assert verify_tokens.main(["--tokens", tokens, "--cuts", listed]) == 0
    # A stream of a teacher that heard another sampling rate is trained on like any other.
    opened = TokenStream(StreamConfig("audio", f"{tokens}/audio"), [])
    assert opened.frame_rate_hz == pytest.approx({"musicnn": 62.5, "aisfx": 44100 / 8192}[name])
    for cut in cuts:
        rows_TN = torch.from_numpy(opened.read(Cut(cut.id, cut.path, 0.0, cut.duration_seconds, cut.domain, 0)))
        for student in ("zipformer-50hz", "zipformer-25hz"):
            rate_hz = int(student[-4:-2])
            length_B = torch.tensor([expected_frames(cut.num_samples, student)])
            targets = align_targets(rows_TN[None], opened.frame_rate_hz, rate_hz, length_B)
            assert targets.shape[1] == int(length_B[0])
            # Only what lies in the last frame of the teacher, which may begin after the last whole row, has no target.
            missing = int((targets == IGNORE).all(2).sum())
            assert missing <= max(1, rate_hz / opened.frame_rate_hz)
