"""One file from several modules: only what is needed, under names of its own."""

import types

import pytest
import torch

from spear.export.bundle import bundle
from spear.nn import Subsampling
from spear.nn.activations import swoosh_r


@pytest.fixture(scope="module")
def text():
    return bundle([("spear.nn.subsampling", "Subsampling"), ("spear.nn.activations", "swoosh_r")], "# header\n")


@pytest.fixture(scope="module")
def made(text):
    module = types.ModuleType("bundled")
    exec(compile(text, "bundled", "exec"), module.__dict__)
    return module


def test_it_computes_the_same(made):
    x = torch.linspace(-5, 5, 100)
    assert torch.equal(made.swoosh_r(x), swoosh_r(x))
    torch.manual_seed(0)
    ours = Subsampling(20, 8, (2, 3, 4), 0.1, exact_padding=True).eval()
    theirs = made.Subsampling(20, 8, (2, 3, 4), 0.1, exact_padding=True).eval()
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(2, 30, 20)
    with torch.no_grad():
        assert torch.equal(ours(features, None), theirs(features, None))


def test_names_that_two_modules_define_are_kept_apart(made):
    # spear.nn.activations and spear.nn.fused both have a function `swoosh`.
    assert made.activations_swoosh is not made.fused_swoosh and not hasattr(made, "swoosh")


def test_only_what_is_needed_is_there(text, made):
    assert text.startswith("# header\n") and "import spear" not in text and "from spear" not in text
    assert not hasattr(made, "AttentionWeights") and not hasattr(made, "DistributedDataParallel")
    assert "# Seen as an image" not in text and "# The projection's weights count channels first" in text


def test_a_name_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="defines no Nothing"):
        bundle([("spear.nn", "Nothing")])
