"""A GPU gives the numbers of the CPU; skipped where there is none. The golden numbers: test/run.sh --device cuda."""

import datetime

import pytest
import torch
import torch.distributed as torch_dist

from spear import compat, dist
from spear.audio import Fbank
from spear.models.config import SpearConfig
from spear.models.pretrain import HeadSpec, SpearPretrainModel
from spear.nn import set_activation_checkpointing, set_batch_count
from spear.optim import ScaledAdam, parameter_groups
from spear.quantize import Quantizer, QuantizerTrainConfig, relative_error, train_quantizer
from spear.seeds import torch_rng
from spear.train import sharding

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

SIZES = {"encoder_dim": 64, "encoder_unmasked_dim": 48, "feedforward_dim": 96, "num_heads": 4, "query_head_dim": 16}
CONFIG = SpearConfig(num_encoder_layers="1,1,2,1,1,1,1", subsampling_channels="4,8,16", exact_padding=True, **SIZES)
LENGTHS = torch.tensor([300, 211, 120])


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """Torch's default rounds inputs of convolutions to ten bits (TF32), on a GPU alone."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def make_model(device: str = "cuda") -> SpearPretrainModel:
    torch.manual_seed(0)
    return SpearPretrainModel(CONFIG, {"speech": HeadSpec(8), "audio": HeadSpec(4)}).to(device)


def batch(model: SpearPretrainModel, device: str = "cuda") -> tuple:
    rng = torch_rng(0, "batch")
    features_BTF = torch.randn(3, 300, 128, generator=rng) * 2 - 6
    frames = int(model.output_lengths(LENGTHS).max())
    targets = {name: torch.randint(0, 256, (3, frames, count), generator=rng) for name, count in HEADS.items()}
    weights = {"speech": torch.tensor([1.0, 1.0, 0.0]), "audio": torch.tensor([0.1, 0.1, 1.0])}
    masks = torch.rand(3, 300, generator=rng) < 0.5, torch.rand(3, 128, generator=rng) < 0.2
    on_device = [{name: value.to(device) for name, value in mapping.items()} for mapping in (targets, weights)]
    return features_BTF.to(device), LENGTHS.to(device), *on_device, *(mask.to(device) for mask in masks)


HEADS = {"speech": 8, "audio": 4}


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.cpu().double()
    return float((found.cpu().double() - expected).norm() / expected.norm().clamp(min=1e-12))


def gradients(model, device: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    with compat.autocast(device, dtype):
        loss = model(*batch(model, device)).loss
    loss.backward()
    found = {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def test_loss_and_gradients_are_those_of_the_cpu():
    expected = gradients(make_model("cpu").eval(), "cpu")
    found = gradients(make_model().eval(), "cuda")
    assert found.keys() == expected.keys() and len(found) > 200
    for name, value in expected.items():
        assert relative(found[name], value) < 1e-3, name


def test_bfloat16_is_close_to_float32():
    model = make_model().eval()
    exact, rounded = gradients(model, "cuda"), gradients(model, "cuda", torch.bfloat16)
    assert relative(rounded["loss"], exact["loss"]) < 1e-2
    names = [name for name in exact if name != "loss"]
    whole = [torch.cat([values[name].flatten() for name in names]) for values in (rounded, exact)]
    assert relative(*whole) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_regularisers_at_work_and_activation_checkpointing_changes_nothing(dtype):
    model = make_model().train()
    set_batch_count(model, 100.0)
    plain = gradients(model, "cuda", dtype)
    set_activation_checkpointing(model, True)
    recomputed = gradients(model, "cuda", dtype)
    assert all(torch.isfinite(value).all() for value in plain.values())
    for name, value in plain.items():
        assert relative(recomputed[name], value) < 1e-3, name


def test_training_learns_a_batch_by_heart():
    model = make_model().train()
    set_batch_count(model, 50_000.0)
    optimizer = ScaledAdam(parameter_groups(model, 0.02))
    losses = []
    for _ in range(60):
        with compat.autocast("cuda", torch.bfloat16):
            output = model(*batch(model))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(output.loss.detach()))
    assert losses[-1] < 0.9 * losses[0] and optimizer.num_nonfinite == 0


@pytest.fixture
def nccl_group(free_port):
    """A process group with the backends of a run on GPUs, of this process alone."""
    store = torch_dist.TCPStore("127.0.0.1", free_port(), 1, is_master=True)
    timeout = datetime.timedelta(minutes=2)
    torch_dist.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1, timeout=timeout)
    yield dist.World(0, 1, torch.device("cuda", 0))
    torch_dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_gradients_through_nccl_are_those_of_one_process(nccl_group, kind):
    expected = gradients(make_model().eval(), "cuda")
    assert dist.any_(True) and not dist.any_(False)
    model = make_model().eval()
    if kind == "ddp":
        wrapped = compat.distributed_data_parallel(model, nccl_group.device)
    else:
        sharding.shard(model, nccl_group)
        wrapped = model
    wrapped(*batch(model)).loss.backward()
    if kind == "fsdp":
        sharding.average_gradients(model)
    for name, param in model.named_parameters():
        if param.grad is not None:
            assert relative(dist.whole(param.grad), expected[name]) < 1e-4, name
            assert param.grad.stride() == param.stride(), name  # or DDP copies each of them
    optimizer = ScaledAdam(parameter_groups(model, 0.02))
    optimizer.step()
    assert optimizer.num_nonfinite == 0


def test_fbank():
    rng = torch_rng(0, "waves")
    waves_BS, lens_B = torch.randn(3, 40_000, generator=rng) * 0.1, torch.tensor([40_000, 23_456, 401])
    expected, expected_lens_B = Fbank()(waves_BS, lens_B)
    found, found_lens_B = Fbank()(waves_BS.cuda(), lens_B.cuda())
    assert torch.equal(found_lens_B.cpu(), expected_lens_B)
    assert (found.cpu() - expected).abs().max() < 1e-3


def frames(count: int, dim: int = 64) -> torch.Tensor:
    rng = torch_rng(0, "frames")
    mixing = torch.randn(16, dim, generator=rng)
    latent = torch.tanh(torch.randn(count, 16, generator=rng)) @ mixing
    return latent + 0.1 * torch.randn(count, dim, generator=rng)


@pytest.fixture(scope="module")
def quantizer() -> Quantizer:
    """8 codebooks of 64, trained on the CPU."""
    settings = QuantizerTrainConfig(codebook_size=64, rounds=3)
    return train_quantizer(frames(8000), 8, settings, progress=lambda state: None)[0]


@pytest.mark.parametrize("staged", [True, False])
@pytest.mark.parametrize("passes", [0, 1, 5])
@torch.no_grad()
def test_codes(quantizer, passes, staged):
    x_MD = frames(2000)
    if not staged:  # as codebooks that were trained together: in another order their sizes do not fall
        state = {key: value.clone() for key, value in quantizer.state_dict().items()}
        order = torch.tensor([3, 1, 7, 0, 5, 2, 6, 4])
        state = {key: value[order] if key == "centers" else value for key, value in state.items()}
        quantizer = Quantizer.from_state_dict(state)
        passes = max(passes, 1)
    expected = quantizer.encode(x_MD, passes)
    found = Quantizer.from_state_dict(quantizer.state_dict()).cuda().encode(x_MD.cuda(), passes)
    assert found.is_cuda and found.dtype == expected.dtype
    # Ties and near ties fall differently, at equal error.
    assert (found.cpu() == expected).all(dim=1).float().mean() > 0.98
    errors = [float(relative_error(x_MD, quantizer.decode(codes.cpu()))) for codes in (found, expected)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_codebooks_trained_on_the_gpu_are_as_good():
    x_MD, settings = frames(8000), QuantizerTrainConfig(codebook_size=64, rounds=3)
    errors = []
    for place in ("cpu", "cuda"):
        trained, metrics = train_quantizer(x_MD.to(place), 8, settings, progress=lambda state: None)
        errors.append(metrics["relative_error"]["5"])
    assert errors[1] == pytest.approx(errors[0], rel=0.05)
