"""Installs the package `spear` and the console script of the same name."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "spear" / "__init__.py").read_text()).group(1)

setup(
    name="spear",
    version=VERSION,
    description="Speech and audio representations by masked prediction of multi-codebook tokens (arXiv 2510.25955)",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["spear", "spear.*"]),
    package_data={"spear": ["**/*.yaml", "**/*.json", "**/*.md", "export/remote/*.txt"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "numpy>=1.26",
        "msgspec>=0.18",
        "lhotse>=1.29",
        "urllib3",  # lhotse imports it without requiring it
        "soundfile>=0.12",
        "soxr>=0.3.7",
        "safetensors>=0.4.3",
        "pyyaml>=6",
        "jsonargparse>=4.49",
        "tensorboard>=2.15",
        "sentencepiece>=0.2",
        "kaldialign>=0.9",
        "matplotlib>=3.8",
        "espeakng-loader>=0.2.4",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis>=6",
            "ruff>=0.8",
            "kaldi-native-fbank>=1.20,<1.23",
        ],
        "superb": ["flashlight-text"],  # decoding with a lexicon and a language model
        "bench": ["multi_quantization", "h5py", "faiss-cpu"],
        "mteb": ["mteb>=2"],  # spear.runners.MtebEncoder on its leaderboards
        "dask": ["distributed"],
        "slurm": ["submitit"],
        "k2": ["k2"],
        # WavLM, HuBERT, wav2vec 2.0, data2vec-audio, MERT, Whisper, USAD; the other teachers need nothing.
        "teachers": ["transformers>=4.46"],
        # Readers of what `spear export` writes; the command itself needs onnx and onnxruntime, for ONNX alone.
        "export": ["transformers>=4.46", "onnx>=1.17", "onnxruntime>=1.20"],
        "hdf5": ["h5py>=3"],  # to read tokens that were made elsewhere
    },
    entry_points={"console_scripts": ["spear=spear.bin.main:main"]},
)
