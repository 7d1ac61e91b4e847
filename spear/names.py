"""From an id to a file name: the one place where what others named meets the file system.

Ids come from manifests that anybody may have written. An id never decides where a file goes: it is either refused, or
encoded so that different ids have different names and every name is a single part of a path.
"""

import hashlib
import re
import unicodedata

from spear.errors import DataError

MAX_ID_BYTES = 200
_LINE_SEPARATORS = "\u0085\u2028\u2029"
# What a file name may hold unencoded, beside letters, digits and marks of any script.
_PLAIN = frozenset("-_.,+=@~# ")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)


def id_problem(item_id: object, separators: str = "/\\") -> str:
    """Why something cannot be an id; an empty text when it can.

    Args:
        item_id: what a manifest gives.
        separators: characters that an id must not hold.
    """
    if not isinstance(item_id, str) or not item_id.strip():
        return "an empty id" if item_id in ("", None) or isinstance(item_id, str) else f"an id that is {item_id!r}"
    if any("\ud800" <= c <= "\udfff" for c in item_id):
        return "an id that is not UTF-8"
    if any(c in _LINE_SEPARATORS or unicodedata.category(c) == "Cc" for c in item_id):
        return "an id with a control character or a line separator"
    if any(part in (".", "..") for part in re.split(r"[/\\]", item_id)):
        return "an id with '.' or '..' as a part of a path"
    if any(c in separators for c in item_id):
        return "an id with a separator of paths"
    if len(item_id.encode()) > MAX_ID_BYTES:
        return f"an id of {len(item_id.encode())} bytes, more than {MAX_ID_BYTES}"
    return ""


def file_name(item_id: str, suffix: str = "") -> str:
    """The name of the file that holds what belongs to an id: one part of a path, another one for every id.

    Letters, digits and marks of any script stay as they are; separators, control characters and the like become %XX, as
    does a dot in front. A name of more than 200 bytes is cut and carries a hash of the id.

    Args:
        item_id: any text.
        suffix: such as ".npy"; ours, taken as it is.

    Raises:
        DataError: an empty id.
    """
    if not item_id:
        raise DataError("an empty id", "a text that names the item", "correct the manifest")
    encoded = "".join(
        c if c.isalnum() or c in _PLAIN or unicodedata.category(c)[0] == "M" else _quote(c) for c in item_id
    )
    if encoded[0] in ". " or _RESERVED.match(encoded):
        encoded = _quote(encoded[0]) + encoded[1:]
    if encoded[-1] in ". ":  # which Windows drops
        encoded = encoded[:-1] + _quote(encoded[-1])
    if len(encoded.encode("utf-8", "surrogateescape")) > MAX_ID_BYTES:
        digest = hashlib.blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        encoded = f"{encoded.encode()[:160].decode(errors='ignore')}%{digest}"
    return encoded + suffix


def _quote(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
