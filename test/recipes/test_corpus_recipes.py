"""Each recipe on corpora, copied outside the repository: stages 0-5 and two ranks of training on miniature corpora.

The corpora have the real directory layouts and real recordings (where shared data are there), the teachers are a small
WavLM and a small Dasheng with random weights. Then the same with 30 % of the files missing and 3 damaged.
"""

import shutil
import sys
from pathlib import Path

import miniatures
import pytest
from test_mini_recipe import call, succeed

from spear import fs
from spear.shards import ShardStore

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

EGS = Path(__file__).resolve().parents[2] / "egs"
SMALL = (
    "--model.num_encoder_layers 1,1,1,1,1,1,1 --model.encoder_dim 32 --model.encoder_unmasked_dim 24 "
    "--model.feedforward_dim 48 --model.num_heads 2 --model.query_head_dim 8 --model.value_head_dim 8 "
    "--model.subsampling_channels 4,8,16 --num-steps 3 --log-every-steps 1 --valid-every-steps 3 "
    "--checkpoint-every-steps 3 --average-every-steps 1 --average-last-steps 2 --tensorboard false --num-workers 0 "
    "--max-duration 30"
)
QUICK = ["--max-frames", "1500", "--num-jobs", "1", "--speech-codebooks", "2", "--audio-codebooks", "2"]
RECIPES = {"librispeech": ("speech",), "audioset": ("audio",), "speech_audio": ("speech", "audio")}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    wavlm, dasheng = miniatures.wavlm(folder / "wavlm"), miniatures.dasheng(folder / "dasheng_small.pt")
    return {"speech": f"wavlm:{wavlm}@1", "audio": f"dasheng:{dasheng}@-1"}


def options(recipe, raw, teachers):
    """The words for prepare.sh."""
    streams = RECIPES[recipe]
    words = [word for word in QUICK]
    for stream in ("speech", "audio"):
        if stream in streams:
            words += [f"--{stream}-teacher", teachers[stream]]
        else:
            at = words.index(f"--{stream}-codebooks")
            del words[at : at + 2]
    for corpus in {"librispeech", "audioset"} & ({recipe} if recipe != "speech_audio" else {"librispeech", "audioset"}):
        words += [f"--{corpus}-dir", raw / corpus]
    return words


def copy(recipe, folder):
    """The recipe alone, with what its link to shared/ leads to."""
    ignored = shutil.ignore_patterns("data", "data_*", "exp", "exp_*", "__pycache__")
    return Path(shutil.copytree(EGS / recipe / "spear", folder / "my copy", ignore=ignored))


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_prepare_and_two_ranks(recipe, damaged, teachers, tmp_path):
    raw = tmp_path / "raw"
    for corpus in ("librispeech", "audioset"):
        getattr(miniatures, corpus)(raw / corpus, 20)
        if damaged:
            assert miniatures.damage(raw / corpus) == (6, 3)
    here = copy(recipe, tmp_path)
    words = options(recipe, raw, teachers)
    text = succeed("bash", here / "prepare.sh", *words, cwd="/")
    data = here / "data"
    assert fs.read_json(data / "READY")["streams"].keys() == set(RECIPES[recipe])
    for corpus in [path.name for path in sorted((data / "raw").iterdir())]:
        coverage = fs.read_json(data / "manifests" / f"summary_{corpus}.json")["coverage"]
        expected = (11, 6, 3) if damaged else (20, 0, 0)
        assert (coverage["usable"], coverage["missing"], coverage["bad"]) == expected
        if damaged:
            assert "6 x missing file" in text
    for stream in RECIPES[recipe]:
        store = ShardStore(data / "tokens" / stream)
        assert store.width == 2 and len(store) > 5
    trained = succeed(
        *(Path(sys.executable).parent / "torchrun", "--standalone", "--nproc_per_node", "2", here / "train.py"),
        *SMALL.split(),
        cwd=tmp_path,
    )
    assert "final model" in trained and (here / "exp/student/final/checkpoint.json").exists()
    if not damaged:
        again = succeed("bash", here / "prepare.sh", *words, cwd=here)
        assert again.count("done before with the same settings") == 6


def test_a_corpus_may_be_added_later(teachers, tmp_path):
    """Tokens that are there stay as they are: extraction takes weeks, and a mix grows."""
    raw = {name: getattr(miniatures, name)(tmp_path / name, 8) for name in ("librispeech", "audioset")}
    here = copy("speech_audio", tmp_path)
    words = ["--speech-teacher", teachers["speech"], "--audio-teacher", teachers["audio"], *QUICK]
    succeed("bash", here / "prepare.sh", *words, "--audioset-dir", raw["audioset"], cwd="/")
    before = miniatures.snapshot(here / "data/tokens")
    text = succeed("bash", here / "prepare.sh", *words, "--librispeech-dir", raw["librispeech"], cwd="/")
    assert text.count("the quantizer is there and is kept") == 4
    after = miniatures.snapshot(here / "data/tokens")
    shards = [name for name in before if not name.endswith("quarantine.jsonl")]
    assert [name for name in shards if after[name] != before[name]] == []
    assert len(after) > len(before)


def test_another_teacher_is_refused_before_anything_is_lost(teachers, tmp_path):
    raw = miniatures.audioset(tmp_path / "raw", 6)
    here = copy("audioset", tmp_path)
    words = ["--audioset-dir", raw, "--audio-codebooks", "2", "--max-frames", "600", "--num-jobs", "1"]
    succeed("bash", here / "prepare.sh", *words, "--audio-teacher", teachers["audio"], cwd="/")
    other = teachers["audio"].replace("@-1", "@1")
    done = call("bash", here / "prepare.sh", *words, "--audio-teacher", other, cwd="/")
    assert done.returncode != 0 and "layer = -1" in done.stdout + done.stderr
    assert (here / "data/tokens/audio/card.json").exists()


def test_what_is_absent_is_said_in_three_parts(tmp_path):
    here = copy("librispeech", tmp_path)
    dry = succeed("bash", here / "prepare.sh", "--dry-run", "--librispeech-dir", tmp_path, cwd="/")
    assert dry.count("dry run: nothing is done") == 6 and not (here / "data").exists()
    done = call("bash", here / "prepare.sh", cwd="/")
    text = done.stdout + done.stderr
    assert done.returncode == 1 and "expected: the corpus librispeech" in text and "--librispeech-dir DIR" in text
    done = call("bash", here / "prepare.sh", "--librispeech-dir", tmp_path / "nowhere", cwd="/")
    assert done.returncode == 1 and "nowhere" in done.stdout + done.stderr
