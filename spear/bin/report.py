"""`spear report`: prints the score table and writes report.html, and a section of RESULTS.md where asked for."""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="spear report", description=__doc__)
    parser.add_argument("--data-dir", "--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--exp-dir", "--exp_dir", type=Path, default=Path("exp"))
    parser.add_argument("--output", type=Path, help="default: EXP_DIR/report.html")
    parser.add_argument("--results", type=Path, help="a RESULTS.md to put the table into")
    parser.add_argument("--section", default="mini", help="name of the section of RESULTS.md that is replaced")
    parser.add_argument("--title", default="Frozen encoders", help="heading of that section")
    parser.add_argument("--notes", default="", help="a sentence below that heading")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    from spear.evaluate.report import write_report
    from spear.evaluate.results import load_runs, results_markdown, terminal_table, write_results

    runs = load_runs(arguments.exp_dir)
    if runs:
        print(terminal_table(runs))
    output = write_report(arguments.data_dir, arguments.exp_dir, arguments.output)
    print(f"report: {output}")
    if arguments.results and runs:
        write_results(arguments.results, arguments.section, results_markdown(runs, arguments.title, arguments.notes))
        print(f"results: {arguments.results}")
    return 0
