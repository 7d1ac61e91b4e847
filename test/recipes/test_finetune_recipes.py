"""The recipes of fine-tuning, copied outside the repository."""

import shutil

import pytest
import torch
from test_superb_recipes import ROOT, succeed

from spear import SpearConfig, SpearModel, fs, save_model

pytestmark = pytest.mark.slow
SIZES = {"num_encoder_layers": "1,1,1,1,1,1,1", "encoder_dim": "32", "encoder_unmasked_dim": "24"}
SIZES |= {"feedforward_dim": "48", "num_heads": "2", "query_head_dim": "8", "value_head_dim": "8"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny encoder."""
    torch.manual_seed(0)
    model = SpearModel(SpearConfig(**SIZES, subsampling_channels="4,8,16"))
    return save_model(model, tmp_path_factory.mktemp("encoder") / "tiny")


def test_the_mini_recipe_compares_two_starts_and_skips_what_is_done(encoder, tmp_path):
    ignored = shutil.ignore_patterns("data*", "exp*", "__pycache__")
    for recipe in ("spear", "finetune"):
        shutil.copytree(ROOT / "egs/mini" / recipe, tmp_path / "my egs" / recipe, ignore=ignored)
    recipe = tmp_path / "my egs" / "finetune"
    words = ["bash", recipe / "run.sh", "--init-from", encoder, "--kinds", "classification", "--num-steps", "2"]
    words += ["--corpus-options=--speech-minutes 2 --audio-minutes 0.2", "--batch-seconds", "8", "--num-jobs", "1"]
    text = succeed(*words, "--finetune-options=--rehearsal-batches 0 --device cpu --num-workers 0")
    assert "| classification | keyword | random:tiny | accuracy | 1 |" in text
    assert "| classification | keyword | tiny |" in (recipe / "exp" / "RESULTS.md").read_text()
    assert fs.read_json(recipe / "exp" / "classification-42" / "score.json")["items"] > 1
    again = succeed(*words, "--finetune-options=--rehearsal-batches 0 --device cpu --num-workers 0")
    assert again.count("done before with the same settings") == 4
