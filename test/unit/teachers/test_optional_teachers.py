"""Teachers whose packages are absent, and those that bring their own code."""

import json
import subprocess
import sys

import pytest
import torch

from spear.errors import ConfigError, DataError, MissingPackageError
from spear.teachers import load_teacher, teacher_names
from spear.teachers.frozen import FrozenTeacher, plan_windows

REMOTE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel


class SmallConfig(PretrainedConfig):
    model_type = "usad"


class SmallModel(PreTrainedModel):
    config_class = SmallConfig

    def __init__(self, config):
        super().__init__(config)
        self.proj = torch.nn.Linear(320, 6)
        self.post_init()

    def forward(self, wavs):
        x = self.proj(wavs[:, : wavs.shape[1] // 320 * 320].unflatten(1, (-1, 320)))
        return {"x": x, "hidden_states": [x * 2, x * 3]}
"""


@pytest.mark.parametrize("name", ["wavlm", "hubert", "wav2vec2", "data2vec", "mert", "whisper", "usad", "hf"])
def test_an_absent_package_is_one_line_with_the_command(name, monkeypatch):
    assert name in teacher_names()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingPackageError, match="pip install 'transformers") as caught:
        load_teacher(f"{name}:somewhere@1")
    assert caught.value.fix.count("\n") == 0


def test_dasheng_needs_no_package(tmp_path):
    code = (
        "import sys\n"
        "for name in ('dasheng', 'torchaudio', 'transformers', 'einops'): sys.modules[name] = None\n"
        "from spear.teachers import load_teacher\n"
        f"load_teacher('dasheng:{tmp_path}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "DataError" in done.stderr and "nothing in it" in done.stderr


@pytest.mark.parametrize(
    ("frames", "window", "overlap"), [(10, 10, 2), (11, 10, 2), (100, 10, 2), (99, 10, 0), (7, 3, 1)]
)
def test_windows_keep_every_frame_once(frames, window, overlap):
    windows = plan_windows(frames, window, overlap)
    assert [f for w in windows for f in range(w.keep_start, w.keep_stop)] == list(range(frames))
    for w in windows:
        assert w.stop - w.start <= window
        assert w.start == 0 or w.keep_start - w.start >= overlap
        assert w.stop == frames or w.stop - w.keep_stop >= overlap


@pytest.mark.parametrize(("window", "overlap"), [(0.1, 0), (0.4, 0.19), ("inf", 1), ("nan", 0)])
def test_windows_that_would_never_end_are_refused(window, overlap):
    class Slow(FrozenTeacher):
        name, samples_per_frame = "slow", 2560

    with pytest.raises(ConfigError, match="window_seconds") as caught:
        Slow(window_seconds=window, overlap_seconds=overlap)
    assert "0.16 s" in caught.value.expected
    assert Slow(window_seconds=0.5, overlap_seconds=0.16).settings() == {"window_frames": 3, "overlap_frames": 1}


def test_a_model_of_images_is_refused_before_it_is_built(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match="ViTModel"):
        load_teacher(f"hf:{tmp_path},hop_samples=320")


def test_nobody_is_asked_whether_code_beside_a_model_may_run(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    (tmp_path / "config.json").write_text('{"model_type": "hubert"}')
    code = {"auto_map": {"AutoFeatureExtractor": "theirs.Extractor"}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(code))
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Extractor: pass\n")
    with pytest.raises(DataError, match="custom code"):
        load_teacher(f"hf:{tmp_path},hop_samples=320")
    assert not asked and not (tmp_path / "ran").exists()


@pytest.fixture
def remote(tmp_path):
    """A folder with weights and their own code, of the interface that USAD documents."""
    pytest.importorskip("transformers")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    (tmp_path / "modeling_small.py").write_text(REMOTE)
    code = {"AutoConfig": "modeling_small.SmallConfig", "AutoModel": "modeling_small.SmallModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "usad", "auto_map": code}))
    weights = {"proj.weight": torch.randn(6, 320), "proj.bias": torch.randn(6)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_usad_runs_its_own_code_only_when_told(remote, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="trust_remote_code=true"):
        load_teacher(f"usad:{remote}@1")
    teacher = load_teacher(f"usad:{remote}@1,trust_remote_code=true")
    assert teacher.dim == 6 and teacher.frame_rate == 50
    waves_BS = torch.randn(3, 16000)
    x_BTD, lens_B = teacher.embed(waves_BS, torch.tensor([16000, 3300, 100]))
    assert lens_B.tolist() == [50, 10, 0]
    output = load_teacher(f"usad:{remote},trust_remote_code=true").embed(waves_BS, torch.tensor([16000, 3300, 100]))[0]
    torch.testing.assert_close(x_BTD, output * 3)
    with pytest.raises(ConfigError, match="2 layers"):
        load_teacher(f"usad:{remote}@7,trust_remote_code=true")
