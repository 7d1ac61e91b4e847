"""ONNX files, in the layout and with the metadata that sherpa-onnx reads, checked by onnxruntime before they are done.

    encoder          encoder.onnx: x, x_lens -> encoder_out, encoder_out_lens [, hidden_00 ...]
    ctc              model.onnx: x, x_lens -> log_probs, log_probs_len; tokens.txt
    transducer       encoder.onnx, decoder.onnx, joiner.onnx; tokens.txt
    tags, classes    model.onnx: x, x_lens -> logits; labels.txt

x is (N, T, bins) log-mel features, padded with ln(1e-10), or with `audio` (N, samples); x_lens are int64.
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spear import fs
from spear.errors import ConfigError, DataError, require
from spear.export.card import model_card
from spear.export.graph import Decoder, Graph, Joiner
from spear.export.source import Source
from spear.manifest.vocabulary import PIECE_SPACE, SPACE
from spear.seeds import numpy_rng

PRECISIONS = ("float32", "float16", "int8")
_OPSET = 17
_LARGEST_BYTES = 1_900_000_000  # of weights in the file of a graph, which holds at most 2 GB
_NEED = "export to ONNX"
_TOLERANCE = 1e-4  # of float32, for values up to 1; of larger ones that share
_PROBE_SECONDS = (0.3, 3.0, 1.17)
_SMALLEST_HALF = 256  # numbers in a tensor that float16 makes smaller


def write_onnx(
    source: Source,
    directory: Path,
    precisions: tuple[str, ...] = ("float32",),
    audio: bool = False,
    hidden_states: bool = False,
    licence: str = "",
) -> list[str]:
    """Writes the files, a card and the measured differences.

    Args:
        source: what is exported.
        directory: an empty one.
        precisions: of `PRECISIONS`; the files of float32 are always there.
        audio, hidden_states: see `spear.export.graph.Graph`.
        licence: of the weights, for the card.

    Returns:
        lines that say what was measured.

    Raises:
        MissingPackageError: onnx or onnxruntime is not there.
        ConfigError: no such precision.
        DataError: the files do not give what the checkpoint gives.
    """
    for name in precisions:
        if name not in PRECISIONS:
            raise ConfigError(f"precision '{name}'", "some of " + ", ".join(PRECISIONS), "correct --precision")
    for module in ("onnx", "onnxruntime"):
        require(module, "spear[export]", _NEED)
    graph = Graph(source, audio, hidden_states).eval()
    main = "model" if source.kind in ("ctc", "tagging", "classification") else "encoder"
    kind = {"": "zipformer2", "ctc": "zipformer2_ctc", "transducer": "zipformer2"}.get(source.kind, "spear")
    metadata = {"model_type": kind, "version": "1", "model_author": "spear", "comment": source.config.encoder}
    probes = _probes(graph, source)
    _save(graph, probes[0], directory / f"{main}.onnx", metadata, ["x", "x_lens"], graph.outputs)
    names = [main]
    if source.kind == "transducer":
        names += _save_transducer(source, directory, metadata)
    lines = []
    for precision in ("float32", *(name for name in PRECISIONS[1:] if name in precisions)):
        for name in names if precision != "float32" else ():
            _convert(directory / f"{name}.onnx", directory / f"{name}.{precision}.onnx", precision)
        suffix = ".onnx" if precision == "float32" else f".{precision}.onnx"
        lines.append(f"{precision}: {_check(graph, source, directory / f'{main}{suffix}', probes, precision)}")
    _write_names(source, directory)
    usage = _usage(source, main, audio) + "\n\n" + "\n".join(f"- {line}" for line in lines)
    fs.write_text(directory / "README.md", model_card(source, usage, licence))
    return lines


def session(path: Path):
    """An onnxruntime session on the CPU with one thread."""
    runtime = require("onnxruntime", "spear[export]", _NEED)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _save(module: nn.Module, arguments: tuple, path: Path, metadata: dict, inputs: list, outputs: list) -> None:
    """Traces a module whose operations depend on no value, so that the example's lengths leave no trace.

    The exporter that builds on torch.export takes minutes for what this one does in seconds, and differs from one
    version of torch to the next.
    """
    onnx = require("onnx", "spear[export]", _NEED)
    axes = {name: {0: "N"} for name in (*inputs, *outputs)}
    for name in ("x", *(name for name in outputs if name.startswith(("encoder_out", "hidden", "log_probs")))):
        if name in axes and not name.endswith(("_lens", "_len")) and module.sequences:
            axes[name][1] = "T" if name == "x" else f"T_{name}"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            arguments,
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, metadata)
    large = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values()) > _LARGEST_BYTES
    onnx.save(model, str(path), save_as_external_data=large, location=path.name + ".data" if large else None)


def _save_transducer(source: Source, directory: Path, metadata: dict) -> list[str]:
    head = source.head
    spec = head.spec
    sizes = {"vocab_size": str(spec.num_outputs), "context_size": str(spec.context), "joiner_dim": str(spec.joiner_dim)}
    y = torch.zeros(2, spec.context, dtype=torch.int64)
    frames, states = torch.zeros(2, spec.joiner_dim), torch.zeros(2, spec.joiner_dim)
    decoder, joiner = Decoder(head).eval(), Joiner(head).eval()
    _save(decoder, (y,), directory / "decoder.onnx", metadata | sizes, ["y"], ["decoder_out"])
    inputs = ["encoder_out", "decoder_out"]
    _save(joiner, (frames, states), directory / "joiner.onnx", metadata | sizes, inputs, ["logit"])
    rng = numpy_rng(0, "transducer")
    units = rng.integers(0, spec.num_outputs, (3, spec.context))
    states = session(directory / "decoder.onnx").run(None, {"y": units})[0]
    logits = session(directory / "joiner.onnx").run(None, {"encoder_out": states[::-1].copy(), "decoder_out": states})[
        0
    ]
    with torch.no_grad():
        ours = head.from_prediction(head.prediction(torch.from_numpy(units)))[:, 0]
        expected = head.joined(ours.flip(0), ours)
    _compare([torch.from_numpy(states), torch.from_numpy(logits)], [ours, expected], "float32", directory)
    return ["decoder", "joiner"]


def _convert(path: Path, output: Path, precision: str) -> None:
    if precision == "int8":
        quantization = require("onnxruntime.quantization", "spear[export]", _NEED)
        quiet, level = logging.getLogger(), logging.getLogger().level
        quiet.setLevel(logging.ERROR)
        try:
            quantization.quantize_dynamic(
                str(path),
                str(output),
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            quiet.setLevel(level)
        return
    onnx = require("onnx", "spear[export]", _NEED)
    model = onnx.load(str(path))
    _store_in_halves(onnx, model.graph)
    large = path.with_suffix(path.suffix + ".data").exists()
    onnx.save(model, str(output), save_as_external_data=large, location=output.name + ".data" if large else None)


def _store_in_halves(onnx, graph) -> None:
    """Weights become float16, and float32 again when the file is loaded: half the size, and the speed of float32."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < _SMALLEST_HALF:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name + ".half"))
        casts.append(onnx.helper.make_node("Cast", [name + ".half"], [name], name + ".cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


# Checks --------------------------------------------------------------------------------------------------------------


def _probes(graph: Graph, source: Source) -> list[tuple[Tensor, Tensor]]:
    """Inputs: three padded recordings of noise that comes and goes, and the shortest of them alone."""
    rng = numpy_rng(0, "export probe")
    waves = []
    for seconds in _PROBE_SECONDS:
        times = np.arange(round(16000 * seconds)) / 16000
        tone = np.sin(2 * np.pi * (200 + 90 * times) * times) + 0.3 * rng.standard_normal(len(times))
        waves.append(torch.from_numpy((0.2 * tone * np.sin(2 * np.pi * 2 * times) ** 2).astype(np.float32)))
    lens_B = torch.tensor([len(wave) for wave in waves])
    waves_BS = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    pairs = [(waves_BS, lens_B), (waves[0][None], lens_B[:1])]
    return pairs if graph.fbank is not None else [source.model.fbank(*pair) for pair in pairs]


@torch.no_grad()
def expected_outputs(graph: Graph, source: Source, x: Tensor, x_lens: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What spear's own modules give for the inputs of a graph, and the valid frames of each; none for logits."""
    model = source.model
    if graph.fbank is not None:
        x, x_lens = model.fbank(x, x_lens)
    if not source.kind:
        found = model.encode(x, x_lens)
        layers = found.hidden_states if graph.hidden_states else []
        lens = [found.encoder_out_lens, *([found.hidden_lens] * len(layers))]
        return [found.encoder_out, *layers], lens
    encoded, head = model.encode_masked(x, x_lens), source.head
    if source.kind in ("tagging", "classification"):
        return [head.logits(encoded)], []
    hidden_BTD = head.read(encoded)
    return [head.log_probs(hidden_BTD) if source.kind == "ctc" else head.from_encoder(hidden_BTD)], [encoded.lens_B]


def _check(graph: Graph, source: Source, path: Path, probes: list, precision: str) -> str:
    running, found, wanted = session(path), [], []
    for x, x_lens in probes:
        values = running.run(None, {"x": x.numpy(), "x_lens": x_lens.numpy()})
        if len(values) > 1:
            values.pop(1)  # the lengths
        expected, lens = expected_outputs(graph, source, x, x_lens)
        for number, (one, other) in enumerate(zip(values, expected, strict=True)):
            counts = lens[number].tolist() if lens else [None] * len(one)
            found += [torch.from_numpy(row[:count]) for row, count in zip(one, counts)]
            wanted += [row[:count] for row, count in zip(other, counts)]
    return _compare(found, wanted, precision, path)


def _compare(found: list[Tensor], wanted: list[Tensor], precision: str, where: Path) -> str:
    largest = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    peak = max(float(b.abs().max()) for b in wanted)
    power = sum(float(b.double().square().sum()) for b in wanted)
    error = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(found, wanted))
    share = (error / max(power, 1e-30)) ** 0.5
    text = f"largest difference {largest:.2g} of values up to {peak:.3g}, error {100 * share:.2g} % of the signal"
    if not (largest <= _TOLERANCE * max(1.0, peak) if precision == "float32" else share < 0.5):
        raise DataError(
            f"{where.name} differs from the checkpoint: {text}",
            f"at most {_TOLERANCE:g} for float32, and less than half of the signal for the others",
            "leave this precision out, or report the versions of torch, onnx and onnxruntime",
        )
    return text


def _write_names(source: Source, directory: Path) -> None:
    if source.kind in ("ctc", "transducer"):
        units = [PIECE_SPACE if unit == SPACE else unit for unit in source.labels()]
        fs.write_text(directory / "tokens.txt", "".join(f"{unit} {number}\n" for number, unit in enumerate(units)))
    elif source.kind:
        fs.write_text(directory / "labels.txt", "".join(label + "\n" for label in source.labels()))


def _usage(source: Source, main: str, audio: bool) -> str:
    bins = source.config.num_mel_bins
    given = (
        "audio (N, samples) at 16 kHz in [-1, 1] and samples"
        if audio
        else f"log-mel features (N, T, {bins}) and frames"
    )
    text = f"`{main}.onnx` takes {given} (int64) of each recording, of any number and length from 85 ms on."
    call = {
        "ctc": 'from_zipformer_ctc(model="model.onnx"',
        "transducer": 'from_transducer(encoder="encoder.onnx", decoder="decoder.onnx", joiner="joiner.onnx"',
    }.get(source.kind)
    if call and not audio:
        text += (
            f'\n\n`sherpa_onnx.OfflineRecognizer.{call}, tokens="tokens.txt", feature_dim={bins})` decodes recordings.'
        )
    return text + "\n\nMeasured against the checkpoint when it was written:"
