"""`spear finetune`: an encoder and your labels become a recogniser, tagger, classifier or verifier, with its score.

    spear finetune --task classification --manifest clips.csv --target mood --init-from exp/student --exp-dir exp/mood
    spear finetune --task ctc --manifest utterances.tsv --target text --group speaker --init-from exp/student \\
        --exp-dir exp/asr --optimizer.base-lr 0.03           # further words go to the trainer, see spear train --help

Tables are CSV, TSV or JSONL with a column of paths, a folder with one for each class, or cuts of lhotse. A part is
held out (a column `split`, else by groups), which decides which checkpoints are averaged and gives the score. The same
command again goes on where it stopped. --init-from random:CHECKPOINT: the same without what was learnt.
`spear finetune report EXP_DIR...` prints a table of finished ones, `spear finetune score EXP_DIR CUTS` scores others.
"""

import argparse
import math
import sys
from pathlib import Path

from spear.errors import ConfigError


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, trains and scores."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("report", "score"):
        return (_report if argv[0] == "report" else _score)(argv[1:])
    from spear.finetuning.tasks import TASKS

    parser = argparse.ArgumentParser(
        prog="spear finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--manifest", required=True, type=Path, action="append", help="a table; repeatable")
    parser.add_argument("--init-from", default="", help="what spear.load_model reads, or random:CHECKPOINT")
    parser.add_argument("--exp-dir", required=True, type=Path, help="receives everything")
    parser.add_argument("--target", default="", help="the column; default: " + _defaults(TASKS))
    parser.add_argument("--group", default="", help="a column (speaker, session) that is never divided")
    parser.add_argument("--split", default="split", help="the column that says train, dev or test")
    parser.add_argument("--separator", default=";", help="between the tags of one recording")
    parser.add_argument("--kind", default="speech", choices=("speech", "event", "music"), help="of the recordings")
    parser.add_argument("--max-seconds", type=float, default=30.0, help="longer ones become windows (texts: left out)")
    parser.add_argument("--test-fraction", type=float, default=0.2, help="of the groups, without a column of splits")
    parser.add_argument("--dev-fraction", type=float, default=0.1, help="of the training groups; 0: none")
    parser.add_argument("--trials", type=Path, help="verification: lines 1 ID ID and 0 ID ID; default: pairs are drawn")
    parser.add_argument("--num-steps", type=int, default=0, help="0: by the amount of data")
    parser.add_argument("--batch-seconds", type=float, default=80.0, help="audio of a batch")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--num-jobs", type=int, default=0, help="processes that decode; 0: one for each core")
    parser.add_argument("--nproc-per-node", type=int, default=1, help="processes that train, one for each GPU")
    parser.add_argument("--only-data", action="store_true", help="write EXP_DIR/data/manifests and no more")
    arguments, trainer = parser.parse_known_args(argv)
    lengths = (arguments.batch_seconds, arguments.max_seconds)
    if (
        not all(0 < length < math.inf for length in lengths)
        or min(arguments.num_steps + 1, arguments.nproc_per_node) < 1
    ):
        raise ConfigError("a length or number that is none", "positive numbers", "correct the flags")
    if not (arguments.init_from or arguments.only_data):
        raise ConfigError("no --init-from", "what spear.load_model reads, or random:CHECKPOINT", "name an encoder")
    if not (0 < arguments.test_fraction < 1 and 0 <= arguments.dev_fraction < 1):
        raise ConfigError("--test-fraction or --dev-fraction beyond 0 to 1", "shares of the groups", "correct them")
    from spear import log
    from spear.finetuning.run import FinetuneSettings, finetune
    from spear.finetuning.tables import TableSettings

    log.setup()
    target = arguments.target or TASKS[arguments.task].target
    names = ("separator", "split", "group", "kind", "max_seconds", "num_jobs", "test_fraction", "dev_fraction")
    tables = TableSettings(
        arguments.manifest, arguments.task, target, **{name: getattr(arguments, name) for name in names}
    )
    names = ("exp_dir", "init_from", "num_steps", "batch_seconds", "seed", "device", "trials", "only_data")
    values = {name: getattr(arguments, name) for name in names}
    return finetune(FinetuneSettings(tables, **values, trainer=trainer, num_processes=arguments.nproc_per_node))


def _score(argv: list[str]) -> int:
    reader = argparse.ArgumentParser(prog="spear finetune score", description="Scores a run on held-out cuts.")
    reader.add_argument("exp_dir", type=Path, help="of spear finetune, or of spear train with such an objective")
    reader.add_argument("cuts", type=Path, help="their manifest (JSONL)")
    reader.add_argument("--trials", type=Path, help="verification: lines 1 ID ID and 0 ID ID")
    reader.add_argument("--device", default="auto", help="auto, cpu or cuda")
    reader.add_argument("--batch-seconds", type=float, default=80.0, help="audio of a batch")
    arguments = reader.parse_args(argv)
    from spear import log
    from spear.finetuning.run import score_run

    log.setup()
    found = score_run(**vars(arguments))
    print(f"{arguments.cuts.name}: {found.text()}")
    return 0


def _report(argv: list[str]) -> int:
    reader = argparse.ArgumentParser(prog="spear finetune report", description="A table of finished fine-tunings.")
    reader.add_argument("exp_dirs", type=Path, nargs="+", metavar="EXP_DIR")
    reader.add_argument("--output", type=Path, help="a Markdown file that receives it, too")
    arguments = reader.parse_args(argv)
    from spear import fs
    from spear.finetuning.report import table

    text = table(arguments.exp_dirs)
    print(text)
    if arguments.output:
        fs.write_text(arguments.output, f"# Fine-tuning\n\n{text}\n")
    return 0


def _defaults(tasks) -> str:
    return ", ".join(f"{task.target} ({name})" for name, task in tasks.items())
