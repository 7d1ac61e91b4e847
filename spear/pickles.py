"""Pickle programs read as data: nothing is imported or called but what a table of ours holds.

A pickle is a program for a small stack machine, which may name any function of any module. `read` runs the instructions
that build plain values; a name that is not in the caller's table is refused, and so is whatever else a file of values
has no use for. Sizes are bounded before work is done: hostile files can neither hang the reader nor fill the memory.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

# A checkpoint with the optimizer's state of a thousand parameters has about 200,000.
MAX_INSTRUCTIONS = 1_000_000
# Larger whole numbers can be made to collide in a dict, which would then take quadratic time.
_LARGEST_KEY = 2**60
_PLAIN = (str, int, float, bytes, type(None))


class Malformed(ValueError):
    """A pickle that is damaged, or not a program that builds plain values."""


class Foreign(ValueError):
    """A pickle that names a class or function that is not in the table; `name` is 'module.name'."""

    def __init__(self, name: str):
        self.name = name
        super().__init__(name)


class Maker:
    """What a name in a pickle stands for when it is called.

    Args:
        make: gets the arguments and gives the value that takes the place of the object.
    """

    def __init__(self, make: Callable[..., Any]):
        self.make = make


class Record:
    """An object of a known class as inert data: its class's name, the arguments it was made with, and its state."""

    def __init__(self, name: str, arguments: tuple):
        self.name, self.arguments, self.state = name, arguments, None


def record(name: str) -> Maker:
    """A maker of stand-ins for objects of the class `name`."""
    return Maker(lambda *arguments: Record(name, arguments))


def read(file: IO[bytes] | bytes, table: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """The value that a pickle builds.

    Args:
        file: positioned at the pickle; left behind its last instruction.
        table: 'module.name' -> a `Maker`, or a value that stands for the name.
        persistent: gives what a persistent id stands for (storages, in files of torch).

    Raises:
        Foreign: a name that is not in the table.
        Malformed: damaged, too long, or with instructions that plain values do not need.
    """
    machine = _Machine(table, persistent)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_INSTRUCTIONS:
                raise Malformed(f"more than {MAX_INSTRUCTIONS} instructions")
            machine.run(instruction.name, argument)
        return machine.pop()
    except (Malformed, Foreign):
        raise
    except Exception as error:  # foreign bytes can fail in as many ways as there are instructions
        raise Malformed(f"damaged, {type(error).__name__}") from error


class _Machine:
    def __init__(self, table: Mapping[str, Any], persistent: Callable[[Any], Any]):
        self.table, self.persistent = table, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """Does one instruction."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _PUTS:
            self.memo[argument] = self.stack[-1]
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name in _METHODS:
            _METHODS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Malformed(f"the instruction {name}")

    def pop(self) -> Any:
        """The last value of the stack, above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Malformed("an instruction without its values")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """All values above the last mark, which goes too."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def name(self, module: Any, name: Any) -> None:
        """Pushes what a name stands for."""
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        full = f"{str(module)[:200]}.{str(name)[:200]}"
        if full not in self.table:
            raise Foreign(full)
        self.stack.append(self.table[full])

    def call(self, maker: Any, arguments: Any) -> None:
        """Pushes what a maker makes."""
        if not isinstance(maker, Maker) or not isinstance(arguments, tuple):
            raise Malformed("a call of something that is no class")
        self.stack.append(maker.make(*arguments))

    def fill(self, items: list[Any]) -> None:
        """Puts keys and values that alternate into the dict below them."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Malformed("entries without a dict")
        for key in items[::2]:
            _check_key(key)
        target.update(zip(items[::2], items[1::2]))

    def tuple_of(self, count: int) -> None:
        """Makes a tuple of the last values."""
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def extend(self, items: list[Any]) -> None:
        """Puts values into the list below them."""
        target = self.stack[-1]
        if not isinstance(target, list):
            raise Malformed("items without a list")
        target.extend(items)

    def add(self, items: list[Any]) -> None:
        """Puts values into the set below them."""
        for item in items:
            _check_key(item)
        self.stack[-1].update(items)

    def build(self) -> None:
        """Gives an object its state: kept for records, and dropped for dicts with attributes."""
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):
            raise Malformed(f"a state for a {type(target).__name__}")

    def dict_of(self, items: list[Any]) -> None:
        """Makes a dict of keys and values that alternate."""
        self.stack.append({})
        self.fill(items)

    def put_next(self) -> None:
        """Remembers the last value under the next number."""
        self.memo[len(self.memo)] = self.stack[-1]

    def new_object(self, with_keywords: bool) -> None:
        """Makes an object by class and arguments."""
        if with_keywords and self.pop():
            raise Malformed("a class with keyword arguments")
        arguments = self.pop()
        self.call(self.pop(), arguments)

    def drop(self) -> None:
        """Drops the last value, or the mark that is there in its place."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()


def _check_key(key: Any) -> None:
    """Refuses keys whose hash takes long, or can be made to be that of others."""
    parts = key if isinstance(key, tuple) and len(key) < 16 else (key,)
    for part in parts:
        if not isinstance(part, _PLAIN) or (isinstance(part, int) and abs(part) >= _LARGEST_KEY):
            raise Malformed(f"a {type(part).__name__} as key")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING"}
_LITERALS |= {"BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_LITERALS |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_NEW: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_METHODS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.drop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "MEMOIZE": lambda m, _: m.put_next(),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "LIST": lambda m, _: m.stack.append(m.pop_to_mark()),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "DICT": lambda m, _: m.dict_of(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.fill([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.fill(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.add(m.pop_to_mark()),
    "GLOBAL": lambda m, text: m.name(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, _: m.call(*[m.pop(), m.pop()][::-1]),
    "NEWOBJ": lambda m, _: m.new_object(False),
    "NEWOBJ_EX": lambda m, _: m.new_object(True),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.stack.append(m.persistent(m.pop())),
}
