"""The three commands, with a small random-weight encoder as teacher and real recordings where there are any."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from token_fakes import Cut, make_cuts, write_cuts

import spear
from spear.audio import probe
from spear.bin import embed, extract_tokens, verify_tokens
from spear.errors import CardError, ConfigError
from spear.quantize import Quantizer, save_quantizer
from spear.shards import ShardStore
from spear.teachers import load_teacher
from spear.tokens import command as shared
from spear.tokens import open_stream
from spear.tokens.streams import parse_streams

ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared" / "data" / "real-mini" / "audio"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data folder with cuts files, a teacher and two quantizers (random weights)."""
    data = tmp_path_factory.mktemp("data")
    if REAL.is_dir():
        cuts = []
        for kind, domain in (("fsdd", "speech"), ("esc10", "audio")):
            for path in sorted((REAL / kind).glob("*.flac"))[:12]:
                info = probe(path)
                cuts.append(Cut(path.stem, path, info.duration_seconds, round(info.duration_seconds * 16000), domain))
    else:
        cuts = make_cuts(data / "corpus", 24)
    for domain in ("speech", "audio"):
        write_cuts(data / "manifests" / f"cuts_{domain}.jsonl", [cut for cut in cuts if cut.domain == domain])
    torch.manual_seed(0)
    small = {"encoder_dim": "32", "encoder_unmasked_dim": "24", "feedforward_dim": "48", "num_heads": "2"}
    model = spear.SpearModel(
        spear.SpearConfig(num_encoder_layers="1,1,1,1,1,1,1", subsampling_channels="4,8,16", **small)
    )
    spear.save_model(model, data / "teacher")
    for name, options in (("speech", {}), ("audio", {"frame_rate_hz": 25})):
        teacher = load_teacher("spear", data / "teacher", **options)
        quantizer = Quantizer(teacher.dim, 4)
        save_quantizer(data / "quantizer" / name, quantizer, None, None, teacher.fingerprint(), {})
    return data


def _cuts(place):
    return ["--cuts", *map(str, sorted((place / "manifests").glob("*.jsonl")))]


def _extract_arguments(place, output, *more):
    teacher = f"spear:{place / 'teacher'}@-1"
    streams = [
        "--stream",
        f"speech={teacher},{place / 'quantizer' / 'speech'}",
        "--stream",
        f"audio={teacher},frame_rate_hz=25,{place / 'quantizer' / 'audio'}",
    ]
    limits = ["--stream-domains", "audio=audio", "--unit-seconds", "4", "--max-duration", "20", "--device", "cpu"]
    return [*_cuts(place), *streams, *limits, "--output", str(output), *more]


def _bytes(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_extract_then_verify(place, tmp_path, capsys):
    tokens = tmp_path / "tokens"
    assert extract_tokens.main(_extract_arguments(place, tokens)) == 0
    assert verify_tokens.main(["--tokens", str(tokens), *_cuts(place)]) == 0
    assert json.loads((tmp_path / "READY").read_text())["streams"]["speech"]["items"] == 24
    store, card = open_stream(tokens / "speech")
    assert card.frame_rate_hz == 50 and card.num_codebooks == store.width == 4
    slow, slow_card = open_stream(tokens / "audio")
    assert slow_card.frame_rate_hz == 25 and set(slow.ids) < set(store.ids)
    for item in slow.ids:
        assert slow.rows(item) == (store.rows(item) + 1) // 2


def test_a_search_in_bfloat16_gives_other_tokens_and_the_card_says_so(place, tmp_path):
    plain, low = tmp_path / "plain", tmp_path / "low"
    assert extract_tokens.main(_extract_arguments(place, plain)) == 0
    assert extract_tokens.main(_extract_arguments(place, low, "--bfloat16-search", "true")) == 0
    (store, card), (low_store, low_card) = open_stream(plain / "speech"), open_stream(low / "speech")
    assert "bfloat16" not in card.quantizer and low_card.quantizer["bfloat16"] is True
    same = [(store.read(item) == low_store.read(item)).mean() for item in store.ids]
    assert 0.5 < sum(same) / len(same) < 1


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(place, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert extract_tokens.main(_extract_arguments(place, one)) == 0
    processes = []
    for rank in "01":
        code = "import sys; from spear.bin.extract_tokens import main; sys.exit(main())"
        environment = {**os.environ, "RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
        arguments = [sys.executable, "-c", code, *_extract_arguments(place, two)]
        processes.append(subprocess.Popen(arguments, env=environment, cwd=tmp_path))
    assert [process.wait(120) for process in processes] == [0, 0]
    assert _bytes(one) == _bytes(two)


def test_dry_run_estimates_and_writes_nothing(place, tmp_path, caplog):
    caplog.set_level("INFO")
    assert extract_tokens.main(_extract_arguments(place, tmp_path / "tokens", "--dry-run")) == 0
    arguments = [*_cuts(place), "--teacher", f"spear:{place / 'teacher'}", "--output", str(tmp_path / "e")]
    assert embed.main([*arguments, "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_dry_run_before_the_stages_it_needs(tmp_path, capsys):
    arguments = ["--cuts", str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "x"), "--dry-run"]
    assert embed.main([*arguments, "--teacher", "spear:later"]) == 0
    assert extract_tokens.main([*arguments, "--stream", "speech=spear:later,data/q"]) == 0
    assert capsys.readouterr().out.count("no estimate yet") == 2


def test_embed_is_capped_and_says_whose_frames(place, tmp_path):
    arguments = [*_cuts(place), "--teacher", f"spear:{place / 'teacher'}@2", "--output", str(tmp_path / "e")]
    assert embed.main([*arguments, "--max-frames", "300"]) == 0
    store = ShardStore(tmp_path / "e")
    assert 0 < store.num_rows <= 300 and store.dtype == "float16"
    assert store.meta["teacher"]["layer"] == 2 and store.meta["teacher"]["dim"] == store.width == 32
    first = set(store.ids)
    assert embed.main([*arguments, "--max-frames", "600"]) == 0
    assert first < set(ShardStore(tmp_path / "e").ids)
    other = [*_cuts(place), "--teacher", f"spear:{place / 'teacher'}@1", "--output", str(tmp_path / "e")]
    with pytest.raises(CardError, match="layer = 2"):
        embed.main(other)
    assert embed.main([*other, "--overwrite"]) == 0
    assert ShardStore(tmp_path / "e").meta["teacher"]["layer"] == 1


def test_swapped_quantizers_are_refused(place, tmp_path):
    swapped = f"speech=spear:{place / 'teacher'}@-1,{place / 'quantizer' / 'audio'}"
    with pytest.raises(CardError, match="(?s)frame_rate_hz = 25.*frame_rate_hz = 50"):
        extract_tokens.main([*_cuts(place), "--stream", swapped, "--output", str(tmp_path / "t")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x"], "--cuts"),
        (["--cuts", "a.jsonl"], "--output"),
        (["--cuts", "a.jsonl", "--output", "x"], "--stream"),
        (["--cuts", "a.jsonl", "--output", "x", "--stream", "speech"], "NAME=VALUE"),
        (["--cuts", "a.jsonl", "--output", "x", "--stream", "speech=spear:y@1"], "QUANTIZER_DIR"),
        (["--cuts", "a.jsonl", "--output", "x", "--stream", "s=spear:y,q", "--stream-domains", "z=audio"], "'z'"),
        (["--cuts", "a.jsonl", "--output", "x", "--max-second", "3"], "max-seconds"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(ConfigError, match=message):
        extract_tokens.main(arguments)


def test_arguments_are_normalised():
    words = ["--cuts", "a", "b,c", "--stream", "x=y,z", "w=v", "--dry-run", "--output=o"]
    assert shared.normalise(words, {"--stream": "streams"}) == [
        *("--cuts", '["a", "b", "c"]', "--streams.x", "y,z", "--streams.w", "v", "--dry-run", "--output=o")
    ]


def test_paths_may_hold_commas_and_equals_signs(tmp_path):
    cuts = tmp_path / "a,b=c" / "cuts.jsonl"
    cuts.parent.mkdir()
    cuts.touch()
    assert shared.normalise(["--cuts", str(cuts), "x,y"]) == ["--cuts", json.dumps([str(cuts), "x", "y"])]
    quantizer = str(tmp_path / "a,b=c")
    parsed = parse_streams([f"s=spear:{tmp_path}/a,b=c@-1,dtype=bfloat16"], [], [f"s={quantizer}"])
    assert parsed == [("s", f"spear:{tmp_path}/a,b=c@-1,dtype=bfloat16", quantizer, ())]
    with pytest.raises(ConfigError, match="a quantizer for 't'"):
        parse_streams(["s=wavlm@1,q"], [], ["t=q"])
