"""`spear export`: a trained model in the format of others: Hugging Face folder, ONNX, icefall checkpoint.

    spear export exp/student --format hf --output student-hf --licence apache-2.0
    spear export exp/asr --format onnx --output asr-onnx --precision float32,int8

A fine-tuned run is exported with its head; --encoder-only leaves it out. What is written is compared with the
checkpoint before the folder gets its name.
"""

import argparse
from pathlib import Path

from spear.errors import ConfigError

FORMATS = ("hf", "onnx", "icefall")
INPUTS = ("features", "audio")


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and exports."""
    arguments = _parser().parse_args(argv)
    from spear import log
    from spear.export.source import read_source
    from spear.export.write import write

    log.setup()
    if arguments.output.exists() and (not arguments.output.is_dir() or any(arguments.output.iterdir())):
        raise ConfigError(
            f"{arguments.output} is there", "a folder that is empty or not there", "name another --output"
        )
    if arguments.format != "onnx" and (arguments.precision or arguments.input or arguments.hidden_states):
        raise ConfigError(
            f"--precision, --input or --hidden-states with --format {arguments.format}", "--format onnx", "leave it out"
        )
    source = read_source(arguments.checkpoint, arguments.stream, arguments.encoder_only)
    options = {}
    if arguments.format == "onnx":
        if arguments.hidden_states and source.kind:
            raise ConfigError(
                f"--hidden-states for a model with a head ({source.kind})", "an encoder alone", "say --encoder-only"
            )
        options = {
            "precisions": tuple((arguments.precision or "float32").split(",")),
            "audio": arguments.input == "audio",
            "hidden_states": arguments.hidden_states,
        }
    for line in write(source, arguments.output, arguments.format, arguments.licence, **options):
        print(line)
    print(f"{arguments.output}: {source.kind or 'encoder'} as {arguments.format}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="spear export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", type=Path, help="a run, a checkpoint or a released folder, as spear.load_model reads"
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="of what is written")
    parser.add_argument("--output", required=True, type=Path, help="folder that is made")
    parser.add_argument("--stream", default="", help="whose head is exported, where a run has several")
    parser.add_argument("--encoder-only", action="store_true", help="without a head")
    parser.add_argument("--licence", default="", help="of the weights, for the card: the run does not know it")
    onnx = parser.add_argument_group("ONNX")
    onnx.add_argument("--precision", default="", help="float32 (always written), float16, int8, joined by commas")
    onnx.add_argument("--input", choices=INPUTS, help="log-mel features (the default), or audio")
    onnx.add_argument("--hidden-states", action="store_true", help="of an encoder: the output of every layer, too")
    return parser
