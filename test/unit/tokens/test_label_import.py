"""Label files of HuBERT's tools: found by recording, cut like the cuts, stored in two bytes, verified like tokens."""

import json

import numpy as np
import pytest
from token_fakes import make_cuts, write_cuts

from spear.bin import import_labels, verify_tokens
from spear.errors import CardError, ConfigError, DataError
from spear.fs import read_json
from spear.teachers.align import expected_frames
from spear.tokens import open_stream

CLASSES = 500


@pytest.fixture
def place(tmp_path):
    """Six recordings, their cuts, and labels from 0 to 499 in another order of the recordings."""
    cuts = make_cuts(tmp_path, 6)
    manifest = write_cuts(tmp_path / "manifests" / "cuts.jsonl", cuts)
    rows, lines, labels = ["/somewhere/else"], [], {}
    for number, cut in reversed(list(enumerate(cuts))):
        count = expected_frames(cut.num_samples, "wav2vec2-50hz")
        labels[cut.id] = (np.arange(count) * 7 + number * 31 + 250) % CLASSES
        rows.append(f"deep/{cut.path.stem}.flac\t{cut.num_samples}")
        lines.append(" ".join(map(str, labels[cut.id])))
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "train.km").write_text("\n".join(lines) + "\n")
    return tmp_path, manifest, cuts, labels


def words(folder, manifest, *more) -> list[str]:
    files = ["--labels", str(folder / "train.km"), "--recordings", str(folder / "train.tsv"), "--cuts", str(manifest)]
    return [*files, "--output", str(folder / "tokens" / "hubert"), *more]


def change_line(path, number: int, line: str) -> None:
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines) + "\n")


def test_labels_come_to_the_cuts_of_their_recordings_and_are_verified(place, capsys):
    folder, manifest, cuts, labels = place
    assert import_labels.main(words(folder, manifest)) == 0
    store, card = open_stream(folder / "tokens" / "hubert")
    assert store.dtype == np.uint16 and (card.num_codebooks, card.codebook_size) == (1, CLASSES)
    assert set(store.ids) == {cut.id for cut in cuts}
    for cut in cuts:
        np.testing.assert_array_equal(store.read(cut.id)[:, 0], labels[cut.id])
    assert max(values.max() for values in labels.values()) > 255
    assert verify_tokens.main(["--tokens", str(folder / "tokens"), "--cuts", str(manifest)]) == 0
    assert read_json(folder / "READY")["streams"]["hubert"]["items"] == 6
    assert "labels of 6 of 6 cuts" in capsys.readouterr().out


def test_a_part_of_a_recording_gets_its_part_of_the_labels(place):
    folder, manifest, cuts, labels = place
    longest = max(cuts, key=lambda cut: cut.num_samples)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    [row] = [row for row in rows if row["id"] == longest.id]
    row.update(start=0.2, duration=0.5)
    manifest.write_text(json.dumps(row) + "\n")
    import_labels.main(words(folder, manifest))
    store, _ = open_stream(folder / "tokens" / "hubert")
    count = expected_frames(8000, "wav2vec2-50hz")
    np.testing.assert_array_equal(store.read(longest.id)[:, 0], labels[longest.id][10 : 10 + count])


@pytest.mark.parametrize("line, reason", [("7 x 9", "no whole number"), ("1 2", "2 labels"), ("500", "codes from")])
def test_bad_lines_are_listed_and_the_others_go_on(place, line, reason, capsys):
    folder, manifest, cuts, labels = place
    count = len(labels[cuts[-1].id])
    line = " ".join([line] * (1 if line == "1 2" else count))
    line = " ".join(line.split()[:count])
    change_line(folder / "train.km", 0, line)
    assert import_labels.main(words(folder, manifest)) == 0
    out = capsys.readouterr().out
    assert f"left out {cuts[-1].id}: " in out and reason in out and "labels of 5 of 6 cuts" in out


def test_files_that_do_not_belong_together_are_refused_before_anything_is_written(place):
    folder, manifest, _, _ = place
    with open(folder / "train.km", "a") as handle:
        handle.write("1 2 3\n")
    with pytest.raises(DataError, match="7 lines in .* for 6 recordings"):
        import_labels.main(words(folder, manifest))
    (folder / "train.km").write_text("1\n")
    (folder / "train.tsv").write_text("/x\nother.wav\t16000\n")
    with pytest.raises(DataError, match="no recording of 6 cuts"):
        import_labels.main(words(folder, manifest))
    assert not (folder / "tokens" / "hubert" / "card.json").exists()


def test_equal_names_in_other_folders_are_told_apart(tmp_path):
    cuts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        [cut] = make_cuts(tmp_path / name, 1)
        cuts.append(type(cut)(f"{name}-0", cut.path, cut.duration_seconds, cut.num_samples))
    manifest = write_cuts(tmp_path / "manifests" / "cuts.jsonl", cuts)
    count = expected_frames(cuts[0].num_samples, "wav2vec2-50hz")
    rows = [f"{name}/000.flac\t{cuts[0].num_samples}" for name in ("b", "a")]
    (tmp_path / "train.tsv").write_text("/x\n" + "\n".join(rows) + "\n")
    (tmp_path / "train.km").write_text(" ".join(["2"] * count) + "\n" + " ".join(["1"] * count) + "\n")
    assert import_labels.main(words(tmp_path, manifest)) == 0
    store, _ = open_stream(tmp_path / "tokens" / "hubert")
    assert {item: int(store.read(item)[0, 0]) for item in store.ids} == {"a-0": 1, "b-0": 2}


def test_the_number_of_classes_and_the_rate_are_of_the_card(place):
    folder, manifest, _, _ = place
    with pytest.raises(ConfigError, match="65537"):
        import_labels.main(words(folder, manifest, "--num-classes", "65537"))
    with pytest.raises(ConfigError, match="50 or 100"):
        import_labels.main(words(folder, manifest, "--frame-rate-hz", "75"))
    import_labels.main(words(folder, manifest))
    with pytest.raises(CardError, match="codebook_size = 500"):
        import_labels.main(words(folder, manifest, "--num-classes", "600"))
    card = json.loads((folder / "tokens" / "hubert" / "card.json").read_text())
    assert (card["frame_rate_hz"], card["teacher"]["frame_rule"]) == (50.0, "wav2vec2-50hz")
