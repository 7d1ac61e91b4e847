"""Joint moves: exact where that is affordable, never worse than their start, and better than single changes."""

import pytest
import torch

from spear.quantize.joint import joint_move
from spear.quantize.search import search
from spear.quantize.tables import SearchTables


def random_case(num_codebooks, size, dim, num_vectors, seed=0):
    """Tables, vectors, their scores and random codes."""
    generator = torch.Generator().manual_seed(seed)
    tables = SearchTables(torch.randn(num_codebooks, size, dim, generator=generator))
    x = 2 * torch.randn(num_vectors, dim, generator=generator)
    codes = torch.randint(size, (num_vectors, num_codebooks), generator=generator, dtype=torch.int32)
    return tables, x, tables.scores(x).view(num_vectors, num_codebooks, size), codes


def best_single_change(tables, scores, x, codes):
    """Errors after the best change of one code, by trying all."""
    best = tables.errors(x, codes)
    for n in range(tables.num_codebooks):
        for code in range(tables.codebook_size):
            changed = codes.clone()
            changed[:, n] = code
            best = torch.minimum(best, tables.errors(x, changed))
    return best


@pytest.mark.parametrize("size, dim", [(8, 3), (16, 6), (32, 20)])
def test_two_codebooks_with_all_candidates_are_searched_exhaustively(size, dim):
    tables, x, scores, codes = random_case(2, size, dim, 100)
    every = torch.cartesian_prod(torch.arange(size), torch.arange(size)).int()
    best = torch.cdist(x, tables.decode(every)).square().amin(dim=1)
    found = tables.errors(x, joint_move(tables, scores, codes, size))
    torch.testing.assert_close(found, best, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_codebooks", [1, 2, 3, 4, 5, 8, 16])
@pytest.mark.parametrize("width", [1, 2, 5, 16])
def test_a_move_gains_at_least_what_the_best_single_change_does(num_codebooks, width):
    tables, x, scores, codes = random_case(num_codebooks, 16, 12, 60, seed=num_codebooks)
    before = tables.errors(x, codes)
    moved = joint_move(tables, scores, codes, width)
    after = tables.errors(x, moved)
    assert moved.dtype == torch.int32 and moved.shape == codes.shape and 0 <= moved.min() <= moved.max() < 16
    assert (after <= before * (1 + 1e-5)).all()
    if width > 1:
        assert (after <= best_single_change(tables, scores, x, codes) * (1 + 1e-5)).all()


def test_where_no_single_change_helps_a_joint_move_may():
    # Two codebooks that have to change together: the sum of unlike codes is far from all vectors.
    generator = torch.Generator().manual_seed(0)
    far = 20 * torch.randn(16, 8, generator=generator)
    near = torch.randn(16, 8, generator=generator)
    tables = SearchTables(torch.stack([far, near - far]))
    x = near[torch.arange(1, 16)] + 0.01
    codes = torch.zeros(15, 2, dtype=torch.int32)
    scores = tables.scores(x).view(15, 2, 16)
    before = tables.errors(x, codes)
    torch.testing.assert_close(best_single_change(tables, scores, x, codes), before)
    assert (tables.errors(x, joint_move(tables, scores, codes, 16)) < 0.01).all()


def test_the_best_combination_stays():
    tables, x, scores, codes = random_case(2, 16, 6, 50)
    best = joint_move(tables, scores, codes, 16)
    assert torch.equal(joint_move(tables, scores, best, 16), best)


def test_codebooks_that_shrink_count_as_trained_one_after_the_other(trained):
    assert trained[0].tables().staged
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor([0.3, 0.2, 1.0, 0.5])[:, None, None]
    tables = SearchTables(sizes * torch.randn(4, 16, 12, generator=generator))
    assert not tables.staged and tables.order == [2, 3, 0, 1]


def test_growing_begins_with_the_largest_codebook():
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(4, 16, 12, generator=generator) * torch.tensor([8.0, 4.0, 2.0, 1.0])[:, None, None]
    x = 8 * torch.randn(200, 12, generator=generator)
    order = torch.tensor([2, 0, 3, 1])
    straight, mixed = SearchTables(centers), SearchTables(centers[order])
    codes = search(mixed, x, 1, 4)
    torch.testing.assert_close(mixed.errors(x, codes), straight.errors(x, search(straight, x, 1, 4)))
    assert torch.equal(codes, search(straight, x, 1, 4)[:, order])


def test_codebooks_trained_together_are_searched_by_joint_moves():
    # Sweeps begin at the guess, too: only the moves can make the difference.
    generator = torch.Generator().manual_seed(2)
    tables = SearchTables(torch.randn(8, 32, 32, generator=generator))
    chosen = torch.randint(32, (400, 8), generator=generator, dtype=torch.int32)
    x = tables.decode(chosen) + 0.3 * torch.randn(400, 32, generator=generator)
    guess = tables.scores(x).view(400, 8, 32).argmin(dim=2).int()
    with_moves = tables.errors(x, search(tables, x, 5, 16, guess))
    tables.staged = True
    without = tables.errors(x, search(tables, x, 5, 16, guess))
    assert with_moves.mean() < 0.85 * without.mean()
    assert (with_moves <= without * (1 + 1e-5)).float().mean() > 0.9
