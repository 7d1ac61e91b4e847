"""Teachers by name and their text form."""

import pytest
import torch

from spear.errors import ConfigError
from spear.teachers import TeacherSpec, load_teacher, register, weights_sha256


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("spear:exp/a@-1", ("spear", "exp/a", -1, {})),
        ("spear:/data/run@2/final@5,frame_rate_hz=25,dtype=bfloat16",
         ("spear", "/data/run@2/final", 5, {"frame_rate_hz": "25", "dtype": "bfloat16"})),
        ("fbank", ("fbank", "", None, {})),
        ("spear:/mnt/a,b=c/run@-1,dtype=bfloat16", ("spear", "/mnt/a,b=c/run", -1, {"dtype": "bfloat16"})),
        ("wavlm-large:hub/x.pt", ("wavlm-large", "hub/x.pt", None, {})),
    ],
)  # fmt: skip
def test_specs_are_read_and_written(text, parts):
    spec = TeacherSpec.parse(text)
    assert (spec.name, spec.path, spec.layer, spec.options) == parts
    assert str(spec) == text


@pytest.mark.parametrize("text", ["", ":path", "spear:exp,25", "spear:exp@1,rate"])
def test_other_texts_are_refused(text):
    with pytest.raises(ConfigError, match="NAME:PATH@LAYER"):
        TeacherSpec.parse(text)


def test_own_teachers_can_be_registered():
    register("mine", lambda path, device, layer=3, flavour="sweet": (str(path), layer, flavour))
    assert load_teacher("mine:somewhere@4,flavour=sour") == ("somewhere", 4, "sour")
    assert load_teacher("mine") == ("", 3, "sweet")
    with pytest.raises(ConfigError, match="flavour"):
        load_teacher("mine", flavor="sour")


def test_weights_hash_sees_names_values_and_shapes():
    weights = {"a": torch.arange(4.0), "b": torch.tensor(1)}
    same = weights_sha256({"b": torch.tensor(1), "a": torch.arange(4.0)})
    assert weights_sha256(weights) == same
    for other in ({"a": torch.arange(4.0)}, {**weights, "a": torch.arange(4.0).view(2, 2)},
                  {**weights, "a": torch.arange(4.0).bfloat16()}, {**weights, "b": torch.tensor(2)}):  # fmt: skip
        assert weights_sha256(other) != same
