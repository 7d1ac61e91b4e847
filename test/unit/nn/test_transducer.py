"""Transducer losses: against an enumeration of all paths, against each other, and in memory."""

import itertools

import pytest
import torch

from spear.nn import transducer


def random_batch(frame_lens, target_lens, num_outputs, seed=0):
    """am (B, T, V), lm (B, U + 1, V), targets (B, U) and lengths."""
    generator = torch.Generator().manual_seed(seed)
    batch, frames, units = len(frame_lens), max(frame_lens), max(target_lens)
    am = torch.randn(batch, frames, num_outputs, generator=generator)
    lm = torch.randn(batch, units + 1, num_outputs, generator=generator)
    targets = torch.randint(1, num_outputs, (batch, units), generator=generator)
    return am, lm, targets, (torch.tensor(frame_lens), torch.tensor(target_lens))


def enumerated(logits_TUV, targets, num_frames, keeps=lambda frame, state: True):
    """Minus the log of the sum over all orders of units and blanks that end with a blank; in float64."""
    scores = logits_TUV.double().log_softmax(-1)
    total = []
    for places in itertools.combinations(range(num_frames - 1 + len(targets)), len(targets)):
        frame = state = 0
        score = torch.zeros((), dtype=torch.float64)
        visited = [(0, 0)]
        for arc in range(num_frames - 1 + len(targets)):
            if arc in places:
                score = score + scores[frame, state, targets[state]]
                state += 1
            else:
                score = score + scores[frame, state, 0]
                frame += 1
            visited.append((frame, state))
        if all(keeps(*place) for place in visited):
            total.append(score + scores[frame, state, 0])
    return -torch.stack(total).logsumexp(0)


@pytest.mark.parametrize("num_frames, num_units", [(1, 0), (1, 2), (4, 0), (3, 2), (5, 3), (2, 4)])
def test_the_full_loss_sums_over_all_paths(num_frames, num_units):
    # Padded frames and units do not count, whatever they hold.
    am, lm, targets, lens = random_batch([num_frames, 6], [num_units, 4], 5)
    logits = (am[:, :, None] * lm[:, None]).requires_grad_()
    losses = transducer.full_loss(logits, targets, *lens)
    alone = logits.detach()[0, :num_frames, : num_units + 1].clone().requires_grad_()
    expected = enumerated(alone, targets[0, :num_units].tolist(), num_frames)
    assert float(losses[0].detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    losses.sum().backward()
    expected.backward()
    torch.testing.assert_close(logits.grad[0, :num_frames, : num_units + 1], alone.grad, atol=1e-5, rtol=0)
    assert not logits.grad[0, num_frames:].any() and not logits.grad[0, :, num_units + 1 :].any()


def test_the_pruned_loss_sums_over_the_paths_inside_its_ranges():
    am, lm, targets, lens = random_batch([5], [4], 6)
    simple = transducer.simple_loss(am, lm, targets, *lens)
    ranges = transducer.prune_ranges(simple.unit_BTU, simple.blank_BTU1, *lens, 3)
    logits = torch.sin(am[:, :, None] + 2 * lm[:, None])
    inside = [set(row.tolist()) for row in ranges[0]]
    expected = enumerated(logits[0], targets[0].tolist(), 5, lambda frame, state: state in inside[frame])
    pruned = logits.gather(2, ranges[..., None].expand(-1, -1, -1, 6))
    loss = transducer.pruned_loss(pruned, ranges, targets, *lens)
    assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-5)


def test_the_simple_loss_is_the_full_one_of_sums_and_its_posteriors_are_gradients():
    am, lm, targets, lens = random_batch([7, 4], [3, 2], 6)
    simple = transducer.simple_loss(am, lm, targets, *lens)
    full = transducer.full_loss(am[:, :, None] + lm[:, None], targets, *lens)
    torch.testing.assert_close(simple.loss_B, full, atol=1e-5, rtol=0)
    # Each unit is said once, each frame is left once.
    torch.testing.assert_close(simple.unit_BTU.sum(1), torch.tensor([[1.0, 1, 1], [1, 1, 0]]), atol=1e-5, rtol=0)
    left = torch.tensor([[1.0] * 7, [1.0] * 4 + [0.0] * 3])
    torch.testing.assert_close(simple.blank_BTU1.sum(2), left, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scales", [(0.25, 0.0), (0.0, 0.3), (0.25, 0.25)])
def test_smoothing_weighs_what_frames_and_states_say_alone(scales):
    am, lm, targets, lens = random_batch([4], [2], 5)
    lm_scale, am_scale = scales
    both = (am[:, :, None] + lm[:, None]).log_softmax(-1)
    prior = lm.softmax(-1).mean(1)[:, None, None]
    alone = (am[:, :, None] + prior.log()).log_softmax(-1)
    arcs = (1 - lm_scale - am_scale) * both + lm_scale * lm.log_softmax(-1)[:, None] + am_scale * alone
    total = []
    for places in itertools.combinations(range(5), 2):
        frame = state = 0
        score = arcs[0, 3, 2, 0]
        for arc in range(5):
            unit = arc in places
            score = score + arcs[0, frame, state, targets[0, state] if unit else 0]
            frame, state = frame + (not unit), state + unit
        total.append(score)
    loss = transducer.simple_loss(am, lm, targets, *lens, lm_only_scale=lm_scale, am_only_scale=am_scale).loss_B
    assert float(loss) == pytest.approx(float(-torch.stack(total).logsumexp(0)), abs=1e-5)


def test_an_utterance_has_the_same_loss_alone_and_in_a_batch():
    am, lm, targets, lens = random_batch([9, 6, 7], [4, 2, 3], 8)
    together = transducer.simple_loss(am, lm, targets, *lens, lm_only_scale=0.2, am_only_scale=0.2).loss_B
    for row, (frames, units) in enumerate(zip(*(length.tolist() for length in lens))):
        part = am[row : row + 1, :frames], lm[row : row + 1, : units + 1], targets[row : row + 1, :units]
        one = [length[row : row + 1] for length in lens]
        alone = transducer.simple_loss(*part, *one, lm_only_scale=0.2, am_only_scale=0.2).loss_B
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


def test_the_pruned_loss_falls_to_the_full_one_as_ranges_grow():
    am, lm, targets, lens = random_batch([30, 24, 12], [12, 9, 10], 15)
    joiner = torch.randn(15, 15, generator=torch.Generator().manual_seed(1))
    full = transducer.full_loss(torch.tanh(am[:, :, None] + lm[:, None]) @ joiner, targets, *lens)
    simple = transducer.simple_loss(am, lm, targets, *lens, lm_only_scale=0.25)
    losses = []
    for num_states in (2, 3, 5, 8, 11, 13):
        ranges = transducer.prune_ranges(simple.unit_BTU, simple.blank_BTU1, *lens, num_states)
        logits = torch.tanh(am[:, :, None] + transducer.at_ranges(lm, ranges)) @ joiner
        losses.append(transducer.pruned_loss(logits, ranges, targets, *lens))
    excess = torch.stack(losses) - full
    assert (excess > -1e-4).all() and excess[-1].abs().max() < 1e-4
    assert (excess.sum(1).diff() < 1e-4).all() and excess[0].min() > 1  # two states a frame leave a lot out


@pytest.mark.parametrize("num_states", [2, 3, 5])
def test_ranges_begin_with_the_first_state_end_with_the_last_and_can_be_followed(num_states):
    am, lm, targets, lens = random_batch([20, 11, 3], [10, 3, 1], 9)
    simple = transducer.simple_loss(4 * am, 4 * lm, targets, *lens)
    ranges = transducer.prune_ranges(simple.unit_BTU, simple.blank_BTU1, *lens, num_states)
    rises = ranges[:, :, 0].diff(dim=1)
    assert (ranges[:, 0, 0] == 0).all() and (rises >= 0).all() and (rises < num_states).all()
    for row, (frames, units) in enumerate(zip(*(length.tolist() for length in lens))):
        assert units in ranges[row, frames - 1]
    logits = transducer.at_ranges(lm, ranges) + am[:, :, None]
    assert transducer.pruned_loss(logits, ranges, targets, *lens).isfinite().all()


def test_no_path_gives_an_infinite_loss_without_a_gradient():
    # 6 units in 2 frames of 2 states each: at most 3 can be said.
    am, lm, targets, lens = random_batch([2], [6], 5)
    simple = transducer.simple_loss(am, lm, targets, *lens)
    ranges = transducer.prune_ranges(simple.unit_BTU, simple.blank_BTU1, *lens, 2)
    logits = (transducer.at_ranges(lm, ranges) + am[:, :, None]).requires_grad_()
    loss = transducer.pruned_loss(logits, ranges, targets, *lens)
    assert loss.isinf().all()
    torch.where(loss.isfinite(), loss, 0.0).sum().backward()
    assert not logits.grad.any()


def test_rows_at_ranges_pass_gradients_to_their_states():
    lm = torch.randn(2, 4, 3, requires_grad=True)
    ranges = torch.tensor([[[0, 1], [1, 2]], [[2, 3], [2, 3]]])
    rows = transducer.at_ranges(lm, ranges)
    assert torch.equal(rows[1, 1, 0], lm[1, 2]) and rows.shape == (2, 2, 2, 3)
    rows.sum().backward()
    assert lm.grad[:, :, 0].tolist() == [[1, 2, 1, 0], [0, 0, 2, 2]]


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return result


def test_no_tensor_of_the_pruned_loss_grows_with_frames_times_units_times_outputs():
    batch, frames, units, outputs, num_states = 2, 40, 30, 50, 5
    am, lm, targets, lens = random_batch([frames] * batch, [units] * batch, outputs)
    am, lm = am.requires_grad_(), lm.requires_grad_()
    with Largest() as largest:
        simple = transducer.simple_loss(am, lm, targets, *lens, 0.25)
        ranges = transducer.prune_ranges(simple.unit_BTU, simple.blank_BTU1, *lens, num_states)
        logits = torch.tanh(am[:, :, None] + transducer.at_ranges(lm, ranges))
        pruned = transducer.pruned_loss(logits, ranges, targets, *lens)
        (simple.loss_B.sum() + pruned.sum()).backward()
    assert largest.elements == batch * frames * num_states * outputs
