"""`spear recipe`: makes a recipe for your own recordings, packs it for others, and examines what you received.

spear recipe new egs/mine/spear --audio DIR [--kind speech|event|music] [--teacher wavlm:FOLDER@21]
spear recipe pack egs/mine/spear --output mine.tar.gz [--tokens] [--checkpoint exp/student/final]
spear recipe verify mine.tar.gz
spear recipe unpack mine.tar.gz egs/theirs/spear
spear recipe verify egs/theirs/spear

`pack` takes no recordings, and refuses text with paths and names of your machine. `unpack` takes only what `pack`
writes, and leaves nothing behind when it refuses. `verify` runs nothing and follows no link. It lists what cannot work
or is not what it says (problem), what can be run and is not spear's own file (code), and what else differs from spear's
(note).
"""

import argparse
import os
import shlex
from collections import Counter

from spear import fs
from spear.recipe import NewRecipe, PackSettings, new_recipe, pack_recipe, unpack_recipe, verify_recipe
from spear.recipe.inventory import shown
from spear.recipe.templates import SIZES
from spear.recipe.unpack import DEFAULT_GIGABYTES
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
    verify.add_argument("path", help="directory of the recipe, or an archive of it")
    verify.add_argument("--max-seconds", type=float, default=DEFAULT_SECONDS, help="to look for (default: 8)")
    _add_archives(actions)
    arguments = vars(parser.parse_args(argv))
    action = arguments.pop("action")
    if action == "new":
        return _new(NewRecipe(**arguments))
    return {"verify": _verify, "pack": _pack, "unpack": _unpack}[action](**arguments)


def _add_archives(actions: argparse._SubParsersAction) -> None:
    pack = actions.add_parser("pack", help="make one archive of a recipe, to be handed on")
    pack.add_argument("recipe", help="directory of the recipe")
    pack.add_argument("--output", required=True, help="the archive: .tar or .tar.gz")
    pack.add_argument("--tokens", action="store_true", help="with tokens and quantizers")
    pack.add_argument(
        "--checkpoint", dest="checkpoints", action="append", default=[], help="such as exp/student/final; repeatable"
    )
    pack.add_argument("--exclude", action="append", default=[], help="pattern of files to leave out; repeatable")
    pack.add_argument(
        "--data-root",
        default=os.environ.get("DATA_ROOT", ""),
        help="folder of corpora: what manifests name in DATA_ROOT/NAME is called raw/NAME (default: $DATA_ROOT)",
    )
    unpack = actions.add_parser("unpack", help="make a directory of an archive; nothing in it is run")
    unpack.add_argument("archive", help="what `pack` has written")
    unpack.add_argument("directory", help="to make, such as egs/theirs/spear")
    unpack.add_argument("--max-gigabytes", type=float, default=DEFAULT_GIGABYTES, help="of all files (default: 100)")


def _pack(**arguments) -> int:
    packed = pack_recipe(PackSettings(**arguments))
    files = packed.manifest.files
    size = fs.human_bytes(sum(file.size_bytes for file in files))
    for name in packed.relocated:
        print(f"{shown(name)}: its paths were made relative")
    print(f"{shown(arguments['output'])}: {len(files)} files, {size} unpacked")
    return 0


def _unpack(archive: str, directory: str, max_gigabytes: float) -> int:
    manifest = unpack_recipe(archive, directory, max_gigabytes)
    made_by = f"spear {shown(manifest.spear_version)}, {shown(manifest.commit)}"
    print(f"{shown(directory)}: {len(manifest.files)} files, packed by {made_by}")
    if manifest.audio:
        print(f"recordings are not among them; link or copy into data/: {', '.join(map(shown, manifest.audio))}")
    print(f"before you run anything of it: spear recipe verify {shown(shlex.quote(directory), 8192)}")
    return 0


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
