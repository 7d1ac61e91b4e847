"""Parts of SUPERB's tasks by values worked out by hand: warping, losses, symbols, heads, augmentation, selection."""

import math

import numpy as np
import pytest
import superb_corpus
import torch

from spear.errors import DataError
from spear.evaluate.banks import ModuleBank
from spear.evaluate.cache import FeatureCache
from spear.evaluate.ctc import Symbols
from spear.evaluate.engine import Grid, best_variant, select
from spear.evaluate.lexicon_beam import LexiconBeam
from spear.evaluate.modules import RecurrentHead, SpeakerHead, additive_margin_loss, spec_augment
from spear.evaluate.protocol import settings_of
from spear.evaluate.table import read_table
from spear.evaluate.tasks import TASKS
from spear.evaluate.tasks.diarization import frame_labels, permutation_free_loss, read_segments
from spear.evaluate.tasks.query_by_example import subsequence_costs
from spear.evaluate.tasks.slot_filling import read_slots, spell_slots
from spear.evaluate.tasks.speech_recognition import read_text, spell_text
from spear.evaluate.upstream import FbankUpstream


def test_subsequence_costs_by_hand():
    # Document 0 holds the query in frames 1-2; document 1 only as 0, x, 0 (a frame may be skipped); 2 not at all.
    distances_QD = np.asarray([[9, 0, 5, 0, 7, 9, 4.0], [9, 9, 0, 9, 7, 0, 6.0]])
    assert subsequence_costs(distances_QD, np.asarray([0, 3, 6])).tolist() == [0, 0, 5]


def test_warping_never_crosses_documents():
    distances_QD = np.asarray([[0, 9, 9.0], [9, 9, 0.0]])
    assert subsequence_costs(distances_QD, np.asarray([0, 2])).tolist() == [4.5, 4.5]
    assert subsequence_costs(distances_QD, np.asarray([0])).tolist() == [0]  # in one document, one frame is skipped


def test_subsequence_costs_against_dtw_python():
    dtw = pytest.importorskip("dtw")
    rng = np.random.default_rng(0)
    documents = [rng.random((6, count)) for count in (9, 14, 7)]
    starts = np.cumsum([0, 9, 14])
    found = subsequence_costs(np.concatenate(documents, axis=1), starts)
    for cost, distances in zip(found, documents):
        result = dtw.dtw(distances, step_pattern=dtw.asymmetric, open_begin=True, open_end=True, distance_only=True)
        assert cost == pytest.approx(result.normalizedDistance)


def test_permutation_free_loss_takes_the_better_order_of_each_item():
    labels_BTS = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    logits_BTS = torch.tensor([[[5.0, -5.0]], [[5.0, -5.0]]])
    expected = math.log1p(math.exp(-5))
    assert float(permutation_free_loss(logits_BTS, labels_BTS, torch.tensor([1, 1]))) == pytest.approx(
        expected, rel=1e-4
    )
    both = torch.ones(1, 1, 2)
    assert float(permutation_free_loss(logits_BTS[:1], both, torch.tensor([1]))) == pytest.approx(2.5067, rel=1e-3)


def test_labels_and_segments_of_diarization():
    labels = frame_labels([["b", 0.0, 0.04], ["a", 0.035, 0.2]], 10, 50.0)
    assert labels[:, 1].tolist() == [1, 1] + [0] * 8 and labels[:, 0].tolist() == [0, 0] + [1] * 8
    assert frame_labels([["a", 0.0, 9.0]], 3, 50.0).tolist() == [[1], [1], [1]]  # covers the whole chunk
    posteriors_TS = np.asarray([[0.9, 0.1], [0.2, 0.1], [0.9, 0.1], [0.9, 0.8]])
    assert read_segments(posteriors_TS, 0.5, 1, 50.0) == [["0", 0.0, 0.02], ["0", 0.04, 0.08], ["1", 0.06, 0.08]]
    assert read_segments(posteriors_TS, 0.5, 3, 50.0) == [["0", 0.02, 0.08]]


def test_additive_margin_loss_by_hand():
    cosines_BS = torch.tensor([[0.5, 0.2]])
    expected = -math.log(math.exp(30 * 0.1) / (math.exp(30 * 0.1) + math.exp(30 * 0.2)))
    assert float(additive_margin_loss(cosines_BS, torch.tensor([0]))) == pytest.approx(expected, rel=1e-5)


def test_the_speaker_head_ignores_padding_and_takes_short_utterances():
    torch.manual_seed(0)
    head = SpeakerHead(6, 8, 12, 3).eval()
    wave_BTD = torch.randn(1, 20, 6)
    alone, _ = head(wave_BTD, torch.tensor([20]))
    padded, cosines = head(torch.cat([wave_BTD, torch.zeros(1, 9, 6)], dim=1), torch.tensor([20]))
    torch.testing.assert_close(alone, padded)
    assert cosines.abs().max() <= 1 + 1e-6
    short, _ = head(torch.randn(1, 1, 6), torch.tensor([1]))
    assert torch.isfinite(short).all() and len(head.tdnn) == 5


@pytest.mark.parametrize("join", [1, 2, 3])
def test_the_recurrent_head_ignores_padding(join):
    torch.manual_seed(0)
    head = RecurrentHead(5, 4, 6, 2, 3, join=join).eval()
    wave_BTD = torch.randn(1, 7, 5)
    alone = head(wave_BTD, torch.tensor([7]))
    both = head(
        torch.cat([torch.cat([wave_BTD, torch.ones(1, 4, 5)], dim=1), torch.randn(1, 11, 5)]), torch.tensor([7, 11])
    )
    frames = -(-7 // join)
    assert alone.shape == (1, frames, 3)
    torch.testing.assert_close(alone[0], both[0, :frames])


def test_spec_augment_masks_and_leaves_padding_alone():
    torch.manual_seed(0)
    features_BTD = torch.ones(2, 120, 64)
    features_BTD[1, 60:] = 7
    augmented = spec_augment(features_BTD, torch.tensor([120, 60]))
    assert (augmented[1, 60:] == 7).all() and set(augmented[0].round(decimals=4).unique().tolist()) == {0.0, 1.0}
    assert (features_BTD[0] == 1).all()


@pytest.mark.parametrize(
    ("seed", "zeros", "sums"),
    [(0, [3034, 564, 280], [515.831, 130.339, 25.03]), (10, [3502, 348, 215], [217.489, 264.362, 67.025])],
)
def test_spec_augment_is_the_published_one_on_short_utterances(seed, zeros, sums):
    """Values that the published implementation gives on the same draws: 60, 12 and 5 frames of 64 channels."""
    lens_B = torch.tensor([60, 12, 5])
    features_BTD = torch.sin(torch.arange(3 * 60 * 64, dtype=torch.float64)).float().view(3, 60, 64)
    torch.manual_seed(seed)
    augmented = spec_augment(features_BTD, lens_B)
    found = [augmented[row, :length] for row, length in enumerate(lens_B)]
    assert [int((values == 0).sum()) for values in found] == zeros
    assert [float(values.abs().sum()) for values in found] == pytest.approx(sums, abs=2e-3)


def test_masks_may_cover_all_of_few_channels_and_frames():
    """As published: no share of them bounds a mask."""
    torch.manual_seed(0)
    covered = [not spec_augment(torch.ones(1, 10, 16), torch.tensor([10])).any() for _ in range(50)]
    assert sum(covered) > 40


@pytest.mark.parametrize("task", ["PR", "ASR", "SF"])
def test_every_target_ends_with_an_end_symbol(task, tmp_path):
    table = read_table(superb_corpus.make_superb_corpus(tmp_path, (6, 3, 3)), task, TASKS[task].refuse)
    store = FeatureCache(tmp_path / "cache", FbankUpstream())
    store.ensure([row.item for row in table.rows], {row.key for row in table.rows})
    (problem,) = TASKS[task].problems(table, store, settings_of("mini", task)).values()
    symbols = problem.symbols
    assert symbols.names[-1] == symbols.end == "</s>"
    assert all(numbers[-1] == symbols.size - 1 and len(numbers) > 1 for numbers in problem._numbers["train"])
    assert "</s>" not in symbols.decode(problem._numbers["train"][0])


def test_symbols_append_and_drop_the_end():
    symbols = Symbols([["A", "B"], ["B"]], end="</s>")
    assert symbols.size == 4 and symbols.encode(["B", "unknown"]) == [2, 3]
    assert symbols.decode([1, 2, 3]) == ["A", "B"]
    with pytest.raises(DataError):
        Symbols([[]], end="</s>")


def test_spelling_of_texts_and_slots_is_undone_by_reading():
    assert spell_text("A CAT") == ["A", "|", "C", "A", "T", "|"]
    assert read_text(["A", "|", "|", "C", "A", "T"]) == "A CAT"
    target = {"parts": [[None, "TURN ON THE"], ["object", "LIGHTS"], [None, "NOW"]]}
    symbols = spell_slots(target)
    assert symbols[symbols.index("B-object") - 1] == " " and "E-object" in symbols
    found = [["object", "LIGHTS"]]
    assert read_slots(symbols) == {"text": "TURN ON THE LIGHTS NOW", "slots": found, "lenient_slots": found}


@pytest.mark.parametrize(
    ("symbols", "published", "lenient"),
    [
        (["B-a", "X", "B-b", "Y"], [], [["a", "X"], ["b", "Y"]]),  # never closed
        (["E-a", "X"], [], []),
        (["B-a", "E-a", "X"], [], [["a", ""]]),  # empty
        (["B-a", "X", "E-b", "Y"], [], [["a", "X"]]),  # closed as another type
        (["B-a", "X", "E-b", " ", "B-a", "Y", "E-a"], [["a", "X Y"]], [["a", "X"], ["a", "Y"]]),
        (
            ["B-a", "X", "B-b", "Y", "E-b", "Z", "E-a"],
            [["a", "XY"]],
            [["a", "X"], ["b", "Y"]],
        ),  # with what touches the tag
        (["B-a", "X", "E-a", "B-a", "Y", "E-a"], [["a", "X"], ["a", "Y"]], [["a", "X"], ["a", "Y"]]),
        (["B-a", " ", "X", " ", "E-a"], [["a", "X"]], [["a", "X"]]),
    ],
)
def test_malformed_slot_tags_are_no_slots(symbols, published, lenient):
    found = read_slots(symbols)
    assert (found["slots"], found["lenient_slots"]) == (published, lenient)


def test_a_step_with_a_broken_gradient_leaves_that_head_alone_and_is_counted():
    settings = settings_of("mini", "SF", {"learning_rates": (1e-2, 1e-3)})
    bank = ModuleBank(2, lambda: RecurrentHead(4, 0, 3, 1, 2), settings)
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in bank.modules]
    outputs = list(bank.outputs(torch.randn(2, 3, 5, 4), torch.tensor([5, 4, 2])))
    (outputs[0].sum() * float("nan") + outputs[1].sum()).backward()
    bank.step(1.0)
    assert bank.skipped_steps() == [1, 0]
    assert all(torch.equal(before[0][k], v) for k, v in bank.modules[0].state_dict().items())
    assert not torch.equal(before[1]["head.out.weight"], bank.modules[1].state_dict()["head.out.weight"])


def grid(scores, count=100):
    """Heads whose dev hypotheses are right on so many percent of the items."""
    heads = [{"learning_rate": rate, "seed": 0} for rate in scores]
    rights = [round(count * percent / 100) for percent in scores.values()]
    hypotheses = [{"": ["a"] * right + ["b"] * (count - right)} for right in rights]
    rows = [{"id": str(n), "reference": "a"} for n in range(count)]
    return Grid("", heads, {"dev": hypotheses, "test": hypotheses}, {"dev": rows, "test": rows}, 1)


def test_selection_takes_the_default_rate_unless_dev_tells_it_from_the_best():
    assert select([grid({1e-4: 80, 1e-3: 82})], "accuracy", 1e-4).learning_rate == 1e-4
    assert select([grid({1e-4: 80, 1e-3: 95})], "accuracy", 1e-4).learning_rate == 1e-3
    assert select([grid({1e-4: 80, 1e-3: 82})], "accuracy", None).learning_rate == 1e-3
    assert best_variant([grid({1e-4: 80, 1e-3: 95})], "accuracy", 1e-4)[:2] == ("", 0.8)


def test_the_published_protocol_takes_the_best_rate_on_dev():
    """HuBERT-Base's published scores of SID; within one standard error the rule of small dev sets would take 1e-2."""
    settings = settings_of("superb", "SID")
    published = grid({1e-1: 81.42, 1e-2: 81.01, 1e-3: 70.09, 1e-4: 67.37}, count=6904)
    assert settings.default_rate is None
    assert select([published], "accuracy", settings.default_rate).learning_rate == 1e-1
    assert select([published], "accuracy", 1e-2).learning_rate == 1e-2
    assert settings_of("mini", "SID").default_rate


@pytest.mark.parametrize(
    ("task", "rates"), [("SID", (5e-3, 5e-2, 1e-1)), ("PR", (5e-4, 1e-3, 1e-2)), ("SD", (5e-4,)), ("ASV", (5e-5,))]
)
def test_the_grids_hold_the_rates_of_published_rows(task, rates):
    assert set(rates) <= set(settings_of("superb", task).learning_rates)


def test_heads_that_took_no_step_are_no_candidates():
    broken = grid({1e-4: 80, 1e-3: 95})
    for head, skipped in zip(broken.heads, (0, 1)):
        head["skipped_steps"] = skipped
    assert select([broken], "accuracy", None).learning_rate == 1e-4


def test_the_lexicon_beam_spells_words_of_its_lexicon(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder")
    (tmp_path / "words.txt").write_text("CAT K AE T\nACT\n\ncab\n")
    symbols = ["A", "B", "C", "T", "|"]
    log_probs_TC = np.full((8, 6), -8.0)
    for frame, symbol in enumerate((3, 1, 1, 4, 5, 0, 0, 0)):  # C A A T |
        log_probs_TC[frame, symbol] = -0.01
    beam = LexiconBeam(symbols, tmp_path / "words.txt")
    assert beam(log_probs_TC) == "CAT"
    log_probs_TC[3] = [-8, -8, -1.5, -8, -1.6, -8]  # B a little better than T at the end: CAB is a word too
    assert beam(log_probs_TC) == "CAB"
    (tmp_path / "words.txt").write_text("CAT\nACT\n")
    assert LexiconBeam(symbols, tmp_path / "words.txt")(log_probs_TC) == "CAT"
    (tmp_path / "words.txt").write_text("DOG\n")
    with pytest.raises(DataError, match="no word can be spelled"):
        LexiconBeam(symbols, tmp_path / "words.txt")
