"""Layers of a teacher side by side, from one pass; and what feed-forward modules add."""

import pytest
import torch
from miniatures import dasheng, wavlm
from tiny import SIZES

from spear import SpearConfig, SpearModel, save_model
from spear.errors import CardError, ConfigError
from spear.teachers import load_teacher
from spear.teachers.several import load_layers
from spear.tokens.card import check_teacher


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    torch.manual_seed(3)
    save_model(SpearModel(SpearConfig(**SIZES, output_downsampling_factor=2)), folder / "spear")
    return {"spear": folder / "spear", "wavlm": wavlm(folder / "wavlm"), "dasheng": dasheng(folder / "dasheng.pt")}


@pytest.fixture(scope="module")
def waves():
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(2, 8000, generator=generator), torch.tensor([8000, 5600])


CASES = {
    "spear": ["@1,frame_rate_hz=25", "@-1,frame_rate_hz=25", "@0,frame_rate_hz=25"],
    "wavlm": ["@2", "@0", "@-1", "@1"],
    "wavlm without the last": ["@1", "@0"],
    "dasheng": ["@1,part=ffn", "@2,part=ffn"],
}


@pytest.mark.parametrize("case", CASES)
def test_layers_of_one_pass_are_those_of_teachers_of_one_layer(folders, waves, case):
    name = case.split()[0]
    specs = [f"{name}:{folders[name]}{rest}" for rest in CASES[case]]
    [found] = load_layers(specs)
    assert found.places == list(range(len(specs)))
    passes = []
    body = found.teacher._model.encoder if name != "dasheng" else found.teacher._model
    body.register_forward_hook(lambda *_: passes.append(1))
    frames_BTW, lens_B = found.teacher.embed(*waves)
    assert len(passes) == 1 and frames_BTW.shape[2] == found.teacher.dim == sum(found.widths)
    for spec, part_BTD, print_ in zip(specs, frames_BTW.split(found.widths, dim=2), found.prints):
        alone = load_teacher(spec)
        expected_BTD, expected_lens_B = alone.embed(*waves)
        assert torch.equal(part_BTD, expected_BTD) and torch.equal(lens_B, expected_lens_B), spec
        assert print_ == alone.fingerprint()


def test_specs_with_other_settings_have_a_teacher_of_their_own(folders):
    path = folders["wavlm"]
    found = load_layers([f"wavlm:{path}@1", f"wavlm:{path}@1,part=ffn", f"wavlm:{path}@2", f"wavlm:{path}"])
    assert [of.places for of in found] == [[0, 2], [1], [3]]


def test_the_same_spec_without_a_layer_may_stand_twice(folders):
    found = load_layers([f"wavlm:{folders['wavlm']}"] * 2)
    assert [(of.places, of.teacher.layer) for of in found] == [([0], -1), ([1], -1)]


def test_the_feed_forward_part_is_what_a_block_adds_last(folders, waves):
    teacher = load_teacher(f"wavlm:{folders['wavlm']}@1,part=ffn")
    found, block = {}, teacher._model.encoder.layers[0]
    block.feed_forward.register_forward_hook(lambda _, inputs, output: found.update(added=output))
    block.final_layer_norm.register_forward_hook(lambda _, inputs, output: found.update(stream=inputs[0]))
    block.register_forward_hook(lambda _, inputs, output: found.update(left=output[0]))
    frames_BTD, lens_B = teacher.embed(*waves)
    assert torch.equal(frames_BTD[0, : lens_B[0]], found["added"][0, : lens_B[0]])
    torch.testing.assert_close(found["stream"] + found["added"], found["left"])
    print_ = teacher.fingerprint()
    assert print_["part"] == "ffn" and "part" not in load_teacher(f"wavlm:{folders['wavlm']}@1").fingerprint()
    with pytest.raises(CardError, match="part = 'ffn'"):
        check_teacher(print_, load_teacher(f"wavlm:{folders['wavlm']}@1").fingerprint(), "here", "there")
    for wrong in ("@-1,part=ffn", "@0,part=ffn", "@1,part=attention"):
        with pytest.raises(ConfigError, match="ffn"):
            load_teacher(f"wavlm:{folders['wavlm']}{wrong}")
