"""Words while they are said: those of the whole audio in the same chunks, whatever the packets."""

import pytest
import torch
from tiny import TWO_WIDTHS

from spear import SpearConfig
from spear.errors import ConfigError
from spear.manifest.vocabulary import Vocabulary
from spear.models.ctc_head import CtcHead, CtcHeadSpec
from spear.models.greedy import ctc_greedy, transducer_greedy
from spear.models.pretrain import SpearPretrainModel
from spear.models.transducer_head import TransducerHeadSpec
from spear.nn import ChunkSize
from spear.recognise.live import LiveRecogniser
from spear.recognise.words import timed_words
from spear.seeds import torch_rng

SIZE = ChunkSize(16, 32)
CHARACTERS = Vocabulary.of_characters(["AB CD"])
KINDS = ("ctc", "transducer")


@pytest.fixture(scope="module")
def samples():
    """Three seconds, of which the middle is silent."""
    noise = torch.randn(48000, generator=torch_rng(0, "live"))
    noise[16000:32000] *= 1e-4
    return 0.3 * noise * (1 + torch.sin(torch.arange(48000) / 900))


@pytest.fixture(scope="module")
def model(samples):
    """A causal encoder whose heads say different things at different times, and often nothing."""
    torch.manual_seed(0)
    config = SpearConfig(**TWO_WIDTHS, causal=True, exact_padding=True)
    heads = {"ctc": CtcHeadSpec(CHARACTERS.size), "transducer": TransducerHeadSpec(CHARACTERS.size, 16, 16)}
    model = SpearPretrainModel(config, {**heads, "weighted": CtcHeadSpec(CHARACTERS.size, layers="weighted")}).eval()
    with torch.no_grad():
        out_TD = model.encode(*model.fbank(samples[None]), chunk_size=SIZE).encoder_out[0]
        for layer in (model.heads["ctc"].output, model.heads["transducer"].from_encoder):
            layer.weight.normal_().div_(out_TD.std(dim=0)).mul_(0.5)
            layer.bias.copy_(-layer.weight @ out_TD.mean(dim=0))
        model.heads["transducer"].output.weight.normal_()
        model.heads["ctc"].output.bias[0] += 2.0
        model.heads["transducer"].output.bias.zero_()[0] += 7.0
    return model.requires_grad_(False)


def whole(model, kind, samples):
    """What is said when the audio is heard at once, in the same chunks."""
    encoded = model.encode(*model.fbank(samples[None]), chunk_size=SIZE)
    head, lens_B = model.heads[kind], encoded.encoder_out_lens
    if isinstance(head, CtcHead):
        return ctc_greedy(head.log_probs(encoded.encoder_out), lens_B)[0]
    return transducer_greedy(head, encoded.encoder_out, lens_B)[0]


def listen(recogniser, samples, length):
    """The state before the end, and all segments that ended."""
    heard, ended = recogniser.start(), []
    for part in samples.split(length):
        heard = recogniser.accept(heard, part)
        ended += heard.ended
    return heard, [*ended, *recogniser.finish(heard).ended]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [160, 4801, 48000])
def test_words_are_those_of_the_whole_in_the_same_chunks(model, samples, kind, length):
    expected = whole(model, kind, samples)
    assert len(set(expected.units)) > 1 and 5 < len(expected.units) < 300
    heard, ended = listen(LiveRecogniser(model, model.heads[kind], CHARACTERS, SIZE), samples, length)
    (found,) = ended
    words = timed_words(expected, CHARACTERS, 50.0)
    assert [(w.text, w.start_seconds, w.end_seconds) for w in found] == [
        (w.text, w.start_seconds, w.end_seconds) for w in words
    ]
    assert [w.confidence for w in found] == pytest.approx([w.confidence for w in words], abs=1e-4)
    assert heard.found.units == expected.units[: len(heard.found.units)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pause_ends_a_segment_and_times_go_on(model, samples, kind):
    units = whole(model, kind, samples)
    gaps = [later - earlier - 1 for earlier, later in zip(units.ends, units.starts[1:])]
    pause = max(2, sorted(gaps)[len(gaps) // 2])
    recogniser = LiveRecogniser(model, model.heads[kind], CHARACTERS, SIZE, endpoint_seconds=pause / 50)
    _, ended = listen(recogniser, samples, 1600)
    assert len(ended) > 1 and all(ended)
    starts = [word.start_seconds for segment in ended for word in segment]
    assert starts == sorted(starts) and starts[-1] < 3
    for before, after in zip(ended, ended[1:]):
        assert after[0].start_seconds - before[-1].end_seconds >= pause / 50 - 1e-6
    if kind == "ctc":  # a transducer remembers what was said before the pause, its new segment does not
        assert sum(gap >= pause for gap in gaps) == len(ended) - 1


def test_a_state_is_not_changed_by_what_comes_after_it(model, samples):
    recogniser = LiveRecogniser(model, model.heads["ctc"], CHARACTERS, SIZE)
    first = recogniser.accept(recogniser.start(), samples[:30000])
    units = list(first.found.units)
    again = [recogniser.finish(recogniser.accept(first, samples[30000:])).ended for _ in range(2)]
    assert units and first.found.units == units and again[0] == again[1]
    assert recogniser.finish(recogniser.start()).ended == ()


def test_heads_and_pauses_that_cannot_be_are_refused(model):
    for head, match in ((model.heads["weighted"], "several layers"), (torch.nn.Identity(), "without words")):
        with pytest.raises(ConfigError, match=match):
            LiveRecogniser(model, head, CHARACTERS, SIZE)
    with pytest.raises(ConfigError, match="endpoint_seconds"):
        LiveRecogniser(model, model.heads["ctc"], CHARACTERS, SIZE, endpoint_seconds=-1)
