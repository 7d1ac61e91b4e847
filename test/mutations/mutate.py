"""Deterministic damage: what disks, editors, other programs and ill will do to a file."""

import json
import random

_TEXTS = ["", " ", "\x00", "..", "../../x", "nan", "-1", "1e999", "\u2028", "\x85", "\ud800", "ü" * 300]
_TEXTS += ["*", "$(id)", "[" * 50]
_NUMBERS = [-1, 0, 1, 2**31, 2**63, 10**400, -0.0, 1e308, float("nan"), float("inf"), float("-inf"), 0.5]
_VALUES = [None, True, False, [], {}, [[]], {"a": {}}, [None], *_NUMBERS, *_TEXTS]
_PIECES = [b"\x00", b"\xff", b"\n", b"\r", b"\t", b"\xe2\x80\xa8", b"\xc2\x85", b'"', b"'", b"{", b"]"]
_PIECES += [b"&a *a", b"!!python/none ", b"- " * 9]


def mutate(data: bytes, seed: object) -> bytes:
    """Another content than `data`, the same for the same seed."""
    rng = random.Random(repr(seed))
    for _ in range(20):
        changed = rng.choice(_WAYS)(data, rng)
        if changed != data:
            return changed
    return data + b"\x00"


def flip(data: bytes, seed: object) -> tuple[bytes, int]:
    """`data` with one other bit, and the place of its byte."""
    rng = random.Random(repr(seed))
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :], place


def _cut_off(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(data: bytes, rng: random.Random) -> bytes:
    return flip(data, rng.random())[0] if data else data


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.randrange(1, 40)) + data[start + rng.randrange(1, 40) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.choice(_PIECES) + data[start:]


def _zero(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    length = rng.randrange(1, 600)
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            lines[first], lines[second] = lines[second], lines[first]
        case 1:
            lines.insert(first, lines[second])
        case 2:
            del lines[first]
        case 3:
            lines[first] = lines[first].replace(b"\t", b"\t\t", 1) if b"\t" in lines[first] else lines[first] * 2
    return b"\n".join(lines)


def _json(data: bytes, rng: random.Random) -> bytes:
    """Another value, another type, a missing or a further key somewhere in a JSON value or line."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    lines = text.split("\n")
    number = rng.randrange(len(lines))
    for whole in (True, False):
        try:
            value = json.loads(text if whole else lines[number])
        except ValueError:
            continue
        changed = json.dumps(_changed(value, rng))
        return (changed if whole else "\n".join([*lines[:number], changed, *lines[number + 1 :]])).encode()
    return data


def _changed(value, rng: random.Random):
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.05:
            return value | {rng.choice(_TEXTS): rng.choice(_VALUES)}
        return value | {key: _changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], _changed(value[place], rng), *value[place + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.3:
        return rng.choice([str(value), -value, value * 10**6, value + 0.5, [value]])
    return rng.choice(_VALUES)


def _token(data: bytes, rng: random.Random) -> bytes:
    """One word of a text replaced by something odd."""
    words = data.split(b" ")
    place = rng.randrange(len(words))
    words[place] = json.dumps(rng.choice(_VALUES)).encode()
    return b" ".join(words)


_WAYS = [_cut_off, _flip, _flip, _overwrite, _insert, _zero, _lines, _json, _json, _json, _json, _token]
