"""The settings of fine-tuning that are shipped: published ones (ESC-50's are our own), and settings of the trainer."""

import re
from pathlib import Path

import pytest

from spear.config import parse
from spear.train.config import ALIASES, TrainConfig
from spear.train.objectives import names

CONF = Path(__file__).resolve().parents[3] / "shared" / "conf" / "finetune"


def read(name: str) -> TrainConfig:
    return parse(TrainConfig, ["--config", str(CONF / f"{name}.yaml")], ALIASES)


# By file: learning rate, factor of the encoder's, seconds a step over all GPUs, steps with a frozen encoder.
PUBLISHED = {
    "ctc_100h": (0.045, 0.05, 2000, 2000),
    "transducer_100h": (0.045, 0.05, 2000, 2000),
    "ctc_960h": (0.02, 0.1, 6000, 2000),
    "transducer_960h": (0.02, 0.1, 6000, 2000),
    "audioset_balanced": (0.045, 0.05, 2000, 2000),
    "audioset_full": (0.02, 0.1, 4800, 2000),
    "voxceleb": (0.001, 0.1, 6400, 7965),
    "esc50": (0.045, 0.05, 200, 400),
}


def test_every_file_is_known_here():
    assert {path.stem for path in CONF.glob("*.yaml")} == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_rates_steps_and_batches(name):
    config = read(name)
    optimizer = config.optimizer
    scales = set(optimizer.lr_scales.values())
    assert optimizer.lr_scales.keys() == {"encoder", "encoder_embed"} and len(scales) == 1
    found = (optimizer.base_lr, scales.pop(), config.plan.global_seconds, config.freeze_encoder_steps)
    assert found == PUBLISHED[name]
    assert (optimizer.lr_batches, optimizer.warmup_batches) == (100_000, 500)
    assert optimizer.first_batch_count >= 20_000  # the last point of any schedule


def test_what_makes_speech_harder():
    for name in ("ctc_100h", "transducer_100h", "ctc_960h", "transducer_960h"):
        config = read(name)
        mask, mixing = config.spec_augment, config.mixing
        assert (mask.frequency_masks, mask.frequency_bins, mask.time_masks) == (2, 27, 10)
        assert (mask.time_frames, mask.time_warp_frames, mask.probability) == (100, 80, 0.9)
        assert mixing.noise_share("speech") == 0.5 and mixing.noise_snr_db == (10, 20)
        assert mixing.noise_probability == 1 and not mixing.mixup_probability  # no second speaker
    settings = read("transducer_960h").streams["transducer"].settings
    assert (settings.prediction_dim, settings.joiner_dim, settings.units) == (768, 768, "bpe:500")


def test_what_makes_sounds_harder():
    for name, masks in (("balanced", (27, 100, 80)), ("full", (40, 192, 0))):
        config = read(f"audioset_{name}")
        mask, mixing = config.spec_augment, config.mixing
        assert (mask.frequency_bins, mask.time_frames, mask.time_warp_frames) == masks
        assert (mixing.mixup_probability, mixing.mixup_alpha, mixing.noise_share("audio")) == (0.5, 10, 0)
        assert config.average_by == "valid/map/tags"
    assert config.sampling.stream == "tags" and config.sampling.cuts_per_epoch == 200_000
    assert read("audioset_balanced").sources[0].weight == 3


def test_what_makes_speakers_harder():
    config = read("voxceleb")
    settings = config.streams["speaker"].settings
    assert (settings.margin, settings.scale, settings.layers) == (0.2, 30, "weighted")
    assert config.mixing.noise_share("speech") == 0.6 and config.mixing.reverb_probability == 0.5


def test_the_page_on_objectives_has_them_all():
    page = (CONF.parents[2] / "docs" / "objectives.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == names()


def test_the_help_explains_settings_that_several_objectives_share(capsys):
    with pytest.raises(SystemExit):
        parse(TrainConfig, ["--help"], ALIASES)
    text = capsys.readouterr().out
    for name, said in (("layers", "what the head reads"), ("vocabulary", "a file below"), ("case", "of transcripts")):
        assert re.search(rf"streams\.<name>\.{name} .*\n +{said}", text), name
