"""The whole package imports without any optional or fragile dependency, and the top of it imports fast."""

import subprocess
import sys

import repository

ABSENT = (
    "k2 torchaudio torchvision transformers h5py lilcom fairseq s3prl dasheng kaldifeat faiss pesq sacrebleu "
    "multi_quantization kaldi_native_fbank distributed dask submitit sklearn pytest hypothesis "
    "onnx onnxruntime sherpa_onnx"
).split()


def test_every_module_imports_without_optional_packages():
    modules = []
    for path in repository.python_files("spear"):
        parts = path.relative_to(repository.ROOT).with_suffix("").parts
        modules.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    code = (
        f"import importlib, sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        f"for name in {sorted(modules)!r}:\n    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names():
    import spear

    assert spear.__version__
    for name in ("load_model", "SpearConfig", "SpearModel"):
        assert hasattr(spear, name), name
    from spear.optim import Eden, ScaledAdam
    from spear.quantize import Quantizer

    assert all((Eden, ScaledAdam, Quantizer))


def test_a_model_without_numbers_is_made_without_the_compiler_of_torch():
    # `load_model` makes the parameters on the meta device; torch's compiler takes 4 s to import.
    code = (
        "import sys, spear\nfrom spear.compat import parameters_only\n"
        "two = dict.fromkeys(('encoder_dim', 'encoder_unmasked_dim', 'feedforward_dim'), '16,16')\n"
        "two |= {'num_encoder_layers': '1,1', 'downsampling_factor': '1,2', 'cnn_module_kernel': '15,15'}\n"
        "with parameters_only():\n    spear.SpearModel(spear.SpearConfig(**two, num_heads='2,2'))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
