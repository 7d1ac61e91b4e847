"""k-means and the random-projection quantiser."""

import pytest
import torch

from spear.errors import ConfigError, DataError
from spear.quantize import KMeans, QuantizerTrainConfig, RandomProjectionQuantizer, relative_error, train_quantizer


def test_kmeans(frames):
    model = KMeans.train_on(frames, 100, iterations=10)
    codes = model.encode(frames.view(60, 100, 24))
    assert codes.shape == (60, 100, 1) and codes.dtype == torch.uint8
    decoded = model.decode(codes).view(-1, 24)
    nearest = torch.cdist(frames, model.centers).amin(dim=1)
    torch.testing.assert_close((frames - decoded).norm(dim=1), nearest, rtol=1e-3, atol=1e-3)
    assert relative_error(frames, decoded) < relative_error(
        frames, KMeans.train_on(frames, 10).decode(KMeans.train_on(frames, 10).encode(frames))
    )
    assert torch.equal(model.centers, KMeans.train_on(frames, 100, iterations=10).centers)
    assert KMeans(24, 8192).encode(frames[:3]).dtype == torch.int16
    with pytest.raises(DataError, match="1 of 1 rows"):
        model.encode(torch.full((24,), float("nan")))


def test_minibatch_kmeans_comes_near_the_full_one_with_many_centers(frames):
    errors = []
    for options in ({"iterations": 8}, {"iterations": 60, "batch_frames": 1000}, {"iterations": 0}):
        model = KMeans.train_on(frames, 512, **options)
        errors.append(relative_error(frames, model.decode(model.encode(frames))))
    full, minibatch, random_rows = errors
    assert full < minibatch * 1.05 and minibatch < 0.9 * random_rows


@pytest.mark.parametrize("method", ["residual", "product"])
def test_controls_in_the_format_of_the_quantizer(frames, trained, method):
    config = QuantizerTrainConfig(codebook_size=32, method=method, logits_epochs=1)
    quantizer, metrics = train_quantizer(frames, 4, config, lambda state: None)
    assert metrics["method"] == method and [r["round"] for r in metrics["rounds"]] == [0]
    assert trained[1]["relative_error"]["5"] < metrics["relative_error"]["5"] < 1
    if method == "product":
        used = quantizer.centers.detach().abs().amax(dim=1) > 0
        assert used.sum(dim=0).tolist() == [1] * 24 and used.sum(dim=1).tolist() == [6] * 4
        # Slices do not interact: each codebook's nearest row is the best code, whatever the others are.
        x = frames[:200]
        parts = [torch.cdist(x[:, 6 * n : 6 * n + 6], quantizer.centers[n, :, 6 * n : 6 * n + 6]) for n in range(4)]
        best = torch.stack([part.square().amin(dim=1) for part in parts]).sum(dim=0)
        torch.testing.assert_close((x - quantizer.decode(quantizer.encode(x))).square().sum(dim=1), best)


def test_unknown_methods_and_too_many_slices_are_refused(frames):
    with pytest.raises(ConfigError, match="joint, residual, product"):
        train_quantizer(frames, 4, QuantizerTrainConfig(codebook_size=32, method="lattice"))
    with pytest.raises(ConfigError, match="32 codebooks for 24 channels"):
        train_quantizer(frames, 32, QuantizerTrainConfig(codebook_size=4, method="product"))


def test_random_projection_follows_its_definition(frames):
    quantizer = RandomProjectionQuantizer(24, 50, 3, 8, seed=5)
    codes = quantizer.encode(frames[:500])
    projection = quantizer.projection_CD.view(3, 8, 24)
    bound = (6 / (24 + 8)) ** 0.5
    assert 0.9 * bound < projection.abs().max() <= bound
    for n in range(3):
        projected = torch.nn.functional.normalize(frames[:500] @ projection[n].T, dim=-1)
        directions = quantizer.codes_NPK[n].T
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(50))
        # With both of length one, nearest in distance is the largest cosine.
        assert torch.equal(codes[:, n].long(), torch.cdist(projected, directions).argmin(dim=1))


def test_random_projection_depends_on_seed_and_sizes_alone(frames):
    torch.manual_seed(0)
    first = RandomProjectionQuantizer(24, 256, 4, 16, 7)
    torch.manual_seed(1)
    second = RandomProjectionQuantizer(24, 256, 4, 16, 7)
    x = frames.view(60, 100, 24)
    assert torch.equal(first.encode(x), second.encode(x)) and first.encode(x).shape == (60, 100, 4)
    assert first.fingerprint() == second.fingerprint() and first.fingerprint()["seed"] == 7
    assert first.fingerprint() != RandomProjectionQuantizer(24, 256, 4, 16, 8).fingerprint()
    assert not first.state_dict()
    # Codebooks do not depend on how many there are.
    assert torch.equal(RandomProjectionQuantizer(24, 256, 2, 16, 7).encode(x), first.encode(x)[..., :2])


def test_random_projection_details(frames):
    quantizer = RandomProjectionQuantizer(24, 256, 2, 16, 7)
    x = frames[:64]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.encode(x), quantizer.encode(x))
        under = quantizer.encode(x)
    assert torch.equal(under, quantizer.encode(x)) and torch.equal(quantizer.encode(1000 * x), quantizer.encode(x))
    assert quantizer.encode(torch.zeros(0, 24)).shape == (0, 2)
    assert RandomProjectionQuantizer(24, 8192, 1).encode(x).max() > 255
    with pytest.raises(DataError):
        quantizer.encode(torch.zeros(3, 23))
    with pytest.raises(ConfigError):
        RandomProjectionQuantizer(24, 0)


def test_random_projection_uses_its_codes(frames):
    x = (frames - frames.mean(dim=0)) / frames.std(dim=0)
    codes = RandomProjectionQuantizer(24, 64, 2, 16, 7).encode(x)
    assert min(len(column.unique()) for column in codes.T) > 50
