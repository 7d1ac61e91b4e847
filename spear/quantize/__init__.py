"""Multi-codebook vector quantisation of teacher embeddings, and simpler quantisers as controls."""

from spear.quantize.codec import Quantizer
from spear.quantize.controls import KMeans, RandomProjectionQuantizer
from spear.quantize.fit import channel_statistics, fit
from spear.quantize.metrics import bits_per_second, code_use, evenness, mutual_information, relative_error
from spear.quantize.report import write_quantizer_report
from spear.quantize.store import TrainedQuantizer, load_quantizer, save_authors_file, save_quantizer
from spear.quantize.stream import StreamSample, sample_stream
from spear.quantize.trainer import QuantizerTrainConfig, train_quantizer

__all__ = [
    "KMeans",
    "Quantizer",
    "QuantizerTrainConfig",
    "RandomProjectionQuantizer",
    "StreamSample",
    "TrainedQuantizer",
    "bits_per_second",
    "channel_statistics",
    "code_use",
    "evenness",
    "fit",
    "load_quantizer",
    "mutual_information",
    "relative_error",
    "sample_stream",
    "save_authors_file",
    "save_quantizer",
    "train_quantizer",
    "write_quantizer_report",
]
