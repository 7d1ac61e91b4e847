"""`spear recipe`: makes a recipe for your own recordings, and examines one that you received.

spear recipe new egs/mine/spear --audio DIR [--kind speech|event|music] [--teacher wavlm:FOLDER@21]
spear recipe verify egs/mine/spear

`verify` runs nothing and follows no link. It lists what cannot work or is not what it says (problem), what can be run
and is not spear's own file (code), and what else differs from spear's (note).
"""

import argparse
import shlex
from collections import Counter

from spear.recipe import NewRecipe, new_recipe, verify_recipe
from spear.recipe.inventory import shown
from spear.recipe.templates import SIZES
from spear.recipe.verify import DEFAULT_SECONDS


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments; the code of `verify` is 1 with a problem, or with code that is not spear's own."""
    parser = argparse.ArgumentParser(
        prog="spear recipe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    new = actions.add_parser("new", help="make a working recipe for a folder of recordings")
    new.add_argument("path", help="directory to make, such as egs/mine/spear")
    new.add_argument("--audio", required=True, help="folder of recordings; manifest.tsv in it is used if there is one")
    new.add_argument("--kind", default="speech", help="speech, event or music (default: speech)")
    new.add_argument("--speech", dest="kind", action="store_const", const="speech", help="same as --kind speech")
    new.add_argument("--events", dest="kind", action="store_const", const="event", help="same as --kind event")
    new.add_argument("--teacher", default="", help="NAME:PATH@LAYER; without one, targets are random projections")
    new.add_argument("--size", default="", help=f"{', '.join(SIZES)} (default: mini without a GPU, else base)")
    new.add_argument("--num-codebooks", type=int, default=8, help="bytes of a frame of targets (default: 8)")
    verify = actions.add_parser("verify", help="examine a recipe without running anything of it")
    verify.add_argument("path", help="directory of the recipe")
    verify.add_argument("--max-seconds", type=float, default=DEFAULT_SECONDS, help="to look for (default: 8)")
    arguments = vars(parser.parse_args(argv))
    action = arguments.pop("action")
    return _verify(**arguments) if action == "verify" else _new(NewRecipe(**arguments))


def _new(settings: NewRecipe) -> int:
    place = new_recipe(settings)
    prepare, train = (
        shown(shlex.quote(str(place / script)), 8192) for script in ("prepare.sh", "train.py")
    )  # to be pasted
    print(f"{shown(str(place))} is ready:\n  {prepare}\n  torchrun --nproc_per_node 1 {train}")
    return 0


def _verify(path: str, max_seconds: float) -> int:
    findings = verify_recipe(path, max_seconds)
    for finding in findings:
        print(f"{finding.kind}: {finding.where}: {finding.what}")
    count = Counter(finding.kind for finding in findings)
    print(f"{shown(path)}: {count['problem']} problems, {count['code']} of code, {count['note']} notes")
    if count["code"]:
        print("what can be run and is not spear's own was listed, not judged: read it before you run anything here")
    return 1 if count["problem"] or count["code"] else 0
