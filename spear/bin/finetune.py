"""`spear finetune`: an encoder and your labels become a recogniser, tagger, classifier or verifier, with its score.

    spear finetune --task classification --manifest clips.csv --target mood --init-from exp/student --exp-dir exp/mood
    spear finetune --task ctc --manifest utterances.tsv --target text --group speaker --init-from exp/student \\
        --exp-dir exp/asr --optimizer.base-lr 0.03           # further words go to the trainer, see spear train --help

Tables are CSV, TSV or JSONL with a column of paths, a folder with one for each class, or cuts of lhotse. A part is
held out (a column `split`, else by groups), which decides which checkpoints are averaged and gives the score. The same
command again goes on where it stopped. --init-from random:CHECKPOINT: the same without what was learnt.
"""

import argparse
from pathlib import Path

from spear.errors import ConfigError


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, trains and scores."""
    from spear.finetuning.tasks import TASKS

    parser = argparse.ArgumentParser(
        prog="spear finetune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--manifest", required=True, type=Path, action="append", help="a table; repeatable")
    parser.add_argument("--init-from", required=True, help="what spear.load_model reads, or random:CHECKPOINT")
    parser.add_argument("--exp-dir", required=True, type=Path, help="receives everything")
    parser.add_argument("--target", default="", help="the column; default: " + _defaults(TASKS))
    parser.add_argument("--group", default="", help="a column (speaker, session) that is never divided")
    parser.add_argument("--split", default="split", help="the column that says train, dev or test")
    parser.add_argument("--separator", default=";", help="between the tags of one recording")
    parser.add_argument("--kind", default="speech", choices=("speech", "event", "music"), help="of the recordings")
    parser.add_argument("--max-seconds", type=float, default=30.0, help="longer ones become windows (texts: left out)")
    parser.add_argument("--trials", type=Path, help="verification: lines 1 ID ID and 0 ID ID; default: pairs are drawn")
    parser.add_argument("--num-steps", type=int, default=0, help="0: by the amount of data")
    parser.add_argument("--batch-seconds", type=float, default=80.0, help="audio of a batch")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--num-jobs", type=int, default=0, help="processes that decode; 0: one for each core")
    arguments, trainer = parser.parse_known_args(argv)
    if min(arguments.batch_seconds, arguments.max_seconds) <= 0 or arguments.num_steps < 0:
        raise ConfigError("a negative length or number of steps", "positive numbers", "correct the flags")
    from spear import log
    from spear.finetuning.run import FinetuneSettings, finetune
    from spear.finetuning.tables import TableSettings

    log.setup()
    target = arguments.target or TASKS[arguments.task].target
    names = ("separator", "split", "group", "kind", "max_seconds", "num_jobs")
    tables = TableSettings(
        arguments.manifest, arguments.task, target, **{name: getattr(arguments, name) for name in names}
    )
    names = ("exp_dir", "init_from", "num_steps", "batch_seconds", "seed", "device", "trials")
    return finetune(FinetuneSettings(tables, **{name: getattr(arguments, name) for name in names}, trainer=trainer))


def _defaults(tasks) -> str:
    return ", ".join(f"{task.target} ({name})" for name, task in tasks.items())
