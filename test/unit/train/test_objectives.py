"""Random-projection targets: as long as the student's frames, unaffected by the other cuts of the batch."""

import pytest
import torch

from spear.audio.fbank import LOG_FLOOR
from spear.data.collate import Batch
from spear.errors import ConfigError
from spear.models.heads import IGNORE
from spear.train.objectives import Context
from spear.train.objectives.random_projection import RandomProjectionObjective, RandomProjectionSettings

DOWNSAMPLING, NUM_MEL_BINS = 2, 24


def make(name: str = "test", **settings) -> RandomProjectionObjective:
    chosen = RandomProjectionSettings(num_codebooks=3, codebook_size=32, **settings)
    return RandomProjectionObjective(Context(name, chosen, 100 / DOWNSAMPLING, NUM_MEL_BINS, seed=42))


def batch_of(cuts: list[torch.Tensor], num_frames: int = 0) -> Batch:
    lens_B = torch.tensor([len(cut) for cut in cuts])
    features_BTF = torch.full((len(cuts), max(num_frames, int(lens_B.max())), NUM_MEL_BINS), LOG_FLOOR)
    for row, cut in zip(features_BTF, cuts):
        row[: len(cut)] = cut
    names = [str(number) for number in range(len(cuts))]
    return Batch(names, features_BTF, lens_B, ["audio"] * len(cuts), {}, ["none"] * len(cuts), 0.0)


def student_lens(batch: Batch) -> torch.Tensor:
    return (batch.feature_lens_B - 7) // DOWNSAMPLING


@pytest.fixture
def cuts() -> list[torch.Tensor]:
    """Features of three cuts of different loudness and spectrum."""
    rng = torch.Generator().manual_seed(3)
    slope_F = torch.linspace(0, -6, NUM_MEL_BINS)
    return [
        torch.randn(frames, NUM_MEL_BINS, generator=rng) + slope_F - level for level, frames in enumerate((90, 61, 40))
    ]


@pytest.mark.parametrize("normalise", ["utterance", "level", "harmonics"])
@pytest.mark.parametrize("stacked", [1, 2, 4, 8])
def test_targets_fill_the_students_frames_and_no_others(cuts, normalise, stacked):
    objective, batch = make(normalise=normalise, stacked_frames=stacked), batch_of(cuts)
    lens_B = student_lens(batch)
    targets_BTC = objective.targets(batch, lens_B)
    assert targets_BTC.shape == (3, int(lens_B.max()), 3) and targets_BTC.dtype == torch.int64
    for row, length in zip(targets_BTC, lens_B):
        assert ((row[:length] >= 0) & (row[:length] < 32)).all() and (row[length:] == IGNORE).all()
    assert len(targets_BTC[0].unique()) > 8  # they tell frames apart


@pytest.mark.parametrize("smoothed", [1, 9])
@pytest.mark.parametrize("normalise", ["utterance", "level", "harmonics"])
def test_other_cuts_and_padding_change_nothing(cuts, normalise, smoothed):
    objective, batch = make(normalise=normalise, smoothed_frames=smoothed), batch_of(cuts, num_frames=130)
    together = objective.targets(batch, student_lens(batch))
    for number, cut in enumerate(cuts):
        alone = batch_of([cut])
        length = int(student_lens(alone))
        assert (objective.targets(alone, student_lens(alone))[0] == together[number, :length]).all()


def test_all_forget_the_gain_and_utterance_the_spectrum_too(cuts):
    tilt_F = torch.linspace(-3, 3, NUM_MEL_BINS)  # another microphone
    plain, louder, tilted = (batch_of([cuts[0] + change]) for change in (torch.zeros(1), torch.full((1,), 2.3), tilt_F))
    lens_B = student_lens(plain)
    share = {}
    for how in ("level", "utterance", "harmonics"):
        objective = make(normalise=how)
        targets = objective.targets(plain, lens_B)
        # Rounding may turn a near tie between two codes; nothing else may differ.
        assert (objective.targets(louder, lens_B) == targets).float().mean() > 0.99
        share[how] = (objective.targets(tilted, lens_B) == targets).float().mean()
    assert share["utterance"] > 0.99 and share["level"] < 0.9


def test_smoothed_targets_last_and_are_those_of_the_average(cuts):
    """Noise around a spectrum that stays: its targets, averaged over 15 rows, change less often than single frames'."""
    batch = batch_of(cuts)
    lens_B = student_lens(batch)
    plain, smoothed = (make(normalise="level", smoothed_frames=count) for count in (1, 15))

    def changes(objective) -> float:
        targets_TC = objective.targets(batch, lens_B)[0, : int(lens_B[0])]
        return float((targets_TC[1:] != targets_TC[:-1]).float().mean())

    assert changes(smoothed) < 0.7 * changes(plain)
    level_TF = cuts[0] - cuts[0].mean()
    averaged_TF = torch.stack([level_TF[max(0, t - 7) : t + 8].mean(0) for t in range(len(level_TF))])
    # Codes are compared by angle, and the mean that `level` takes away again is no longer zero: a few near ties turn.
    same = plain.targets(batch_of([averaged_TF]), lens_B[:1])[0] == smoothed.targets(batch_of([cuts[0]]), lens_B[:1])[0]
    assert same.float().mean() > 0.95


def test_an_even_number_of_smoothed_frames_is_refused():
    with pytest.raises(ConfigError, match="odd number"):
        make(smoothed_frames=4)


def test_targets_follow_from_the_seed_and_the_name(cuts):
    batch = batch_of(cuts)
    lens_B = student_lens(batch)
    assert (make().targets(batch, lens_B) == make().targets(batch, lens_B)).all()
    assert (make("other").targets(batch, lens_B) != make().targets(batch, lens_B)).float().mean() > 0.5


def test_a_target_sees_the_frames_that_it_stands_for():
    """A click in feature rows 40 and 41, of student frame 20, changes the target of that frame with 2 stacked rows."""
    quiet = torch.randn(80, NUM_MEL_BINS, generator=torch.Generator().manual_seed(0)) * 0.1
    click = quiet.clone()
    click[40:42, :12] += 20
    click[40:42, 12:] -= 20  # the mean over bins and the mean over time of the others stay nearly as they are
    objective = make(normalise="level", stacked_frames=2)
    found = [objective.targets(batch, student_lens(batch)) for batch in (batch_of([quiet]), batch_of([click]))]
    changed = (found[0] != found[1]).any(dim=2)[0].nonzero().flatten().tolist()
    assert changed == [20]
