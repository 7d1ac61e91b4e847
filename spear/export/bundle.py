"""Spear's own code as one file that imports nothing of spear: the definitions that some names need, and no others.

Definitions keep their text, comments included; names that two modules define get the module's name in front. Type
annotations are never evaluated in the result, so what only they name is left out.
"""

import ast
import graphlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_PACKAGE = "spear"
Place = tuple[str, str]
"""A module, and a name at its top."""


def bundle(roots: Sequence[Place], header: str = "") -> str:
    """The text of a Python file.

    Args:
        roots: the names that it must have, such as ("spear.models.spear", "SpearModel").
        header: comment lines for its beginning.

    Raises:
        ValueError: a name that no module defines, or something at the top of a module that is no definition.
    """
    return _Bundle().make(roots, header)


@dataclass
class _Definition:
    """A statement at the top of a module.

    Attributes:
        node: of the syntax tree.
        uses: nodes of its text that stand for something at the top of a module: a node, the place, and whether a
            variable of the function around it has the name of the place.
    """

    node: ast.stmt
    uses: list[tuple[ast.expr, Place, bool]] = field(default_factory=list)


class _Module:
    """A module's text, its definitions by name, and what it imports."""

    def __init__(self, name: str):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ValueError(f"no module {name}")
        self.name, self.text = name, Path(spec.origin).read_text(encoding="utf-8")
        self.lines = self.text.encode().splitlines(keepends=True)
        tree = ast.parse(self.text)
        self.summary = (ast.get_docstring(tree) or "").split("\n")[0]
        self.definitions: dict[str, ast.stmt] = {}
        self.foreign: dict[str, str] = {}  # by name, the statement that imports it
        self.ours: dict[str, tuple[str, str]] = {}  # by name, the module and the name there
        for node in tree.body:
            for defined in _defined(node):
                self.definitions[defined] = node
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            bound = alias.asname or alias.name
            shown = alias.name + (f" as {alias.asname}" if alias.asname else "")
            if isinstance(node, ast.Import):
                self.foreign[bound.split(".")[0] if not alias.asname else bound] = f"import {shown}"
            elif node.module.split(".")[0] == _PACKAGE:
                self.ours[bound] = node.module, alias.name
            else:
                self.foreign[bound] = f"from {node.module} import {shown}"


class _Bundle:
    def __init__(self):
        self.modules: dict[str, _Module] = {}
        self.found: dict[tuple[str, int], _Definition] = {}  # by module and line
        self.places: dict[Place, tuple[str, int]] = {}
        self.imports: dict[str, str] = {}

    def make(self, roots: Sequence[Place], header: str) -> str:
        for place in roots:
            self._need(place)
        names = self._names()
        parts = [header, "from __future__ import annotations\n\n", _import_lines(self.imports.values())]
        for name in self._order():
            module = self.modules[name]
            kept = sorted(key for key in self.found if key[0] == name)
            if kept:
                parts.append(f"\n\n# {name}: {module.summary}\n")
            for key in kept:
                gap = "\n\n" if isinstance(self.found[key].node, ast.FunctionDef | ast.ClassDef) else ""
                parts.append(gap + self._text(self.found[key], module, names))
        return "".join(parts).rstrip() + "\n"

    def _module(self, name: str) -> _Module:
        if name not in self.modules:
            self.modules[name] = _Module(name)
        return self.modules[name]

    def _resolve(self, place: Place) -> Place | None:
        """Where a name is defined; None for a module."""
        module, name = self._module(place[0]), place[1]
        while name not in module.definitions:
            if name not in module.ours:
                return None if importlib.util.find_spec(f"{module.name}.{name}") else self._unknown(module.name, name)
            there, name = module.ours[name]
            if importlib.util.find_spec(there) and name not in self._module(there).definitions:
                if name not in self._module(there).ours:
                    return None
            module = self._module(there)
        return module.name, name

    @staticmethod
    def _unknown(module: str, name: str) -> Place:
        raise ValueError(f"{module} defines no {name}")

    def _order(self) -> list[str]:
        """The modules, each after those that its definitions use."""
        used: dict[str, set[str]] = {}
        for (module, _), definition in self.found.items():
            used.setdefault(module, set()).update(place[0] for _, place, _ in definition.uses)
        return list(graphlib.TopologicalSorter({m: sorted(used[m] - {m}) for m in sorted(used)}).static_order())

    def _need(self, place: Place) -> None:
        """Takes a definition and all that it uses."""
        place = self._resolve(place)
        module = self._module(place[0])
        node = module.definitions[place[1]]
        key = module.name, node.lineno
        self.places[place] = key
        if key in self.found:
            return
        definition = self.found[key] = _Definition(node)
        for used, name, bound in _references(node, frozenset(), frozenset()):
            target = self._target(module, used, name)
            if isinstance(target, str):
                self._foreign(name, target)
            elif target is not None:
                definition.uses.append((used, target, target[1] in bound))
                self._need(target)
        for name in _in_annotations(node):
            if name in module.foreign:
                self._foreign(name, module.foreign[name])

    def _target(self, module: _Module, node: ast.expr, name: str) -> Place | str | None:
        """What a name at the top of a module stands for: a place, the statement that imports it, or a builtin."""
        if name in module.definitions:
            return None if isinstance(node, ast.Attribute) else (module.name, name)
        if name in module.foreign:
            return None if isinstance(node, ast.Attribute) else module.foreign[name]
        if name not in module.ours:
            return None
        place = module.ours[name]
        if (found := self._resolve(place)) is not None:
            return None if isinstance(node, ast.Attribute) else found
        if isinstance(node, ast.Attribute):
            return self._resolve((".".join(place), node.attr))
        return None

    def _foreign(self, name: str, statement: str) -> None:
        if self.imports.setdefault(name, statement) != statement:
            raise ValueError(f"'{self.imports[name]}' and '{statement}'")

    def _names(self) -> dict[Place, str]:
        """The name of every definition: its own, or where that is taken or hidden, with its module's in front."""
        count: dict[str, int] = dict.fromkeys(self.imports, 1)
        for _, name in self.places:
            count[name] = count.get(name, 0) + 1
        hidden = {place for each in self.found.values() for _, place, is_hidden in each.uses if is_hidden}
        names = {}
        for module, name in self.places:
            tail = module.split(".")[-1]
            taken = count[name] > 1 or (module, name) in hidden
            private = "_" if name.startswith("_") else ""
            names[module, name] = f"{private}{tail}_{name.lstrip('_')}" if taken else name
        return names

    def _text(self, definition: _Definition, module: _Module, names: dict[Place, str]) -> str:
        node = definition.node
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        while first > 1 and module.lines[first - 2].startswith(b"#"):
            first -= 1
        lines = list(module.lines[first - 1 : node.end_lineno])
        edits = [(use.lineno, use.col_offset, use.end_col_offset, names[place]) for use, place, _ in definition.uses]
        edits += [
            (*span, names[module.name, name])
            for name in _defined(node)
            if (module.name, name) in names
            for span in _spans(node, name, module.lines)
        ]
        for line, begin, end, text in sorted(set(edits), reverse=True):
            old = lines[line - first]
            lines[line - first] = old[:begin] + text.encode() + old[end:]
        return b"".join(lines).decode()


def _import_lines(statements) -> str:
    """Import statements, those of one module together."""
    plain, of_module = set(), {}
    for statement in statements:
        words = statement.split(" import ")
        if len(words) == 2:
            of_module.setdefault(words[0], set()).add(words[1])
        else:
            plain.add(statement)
    return "\n".join(
        [*sorted(plain), *(f"{key} import {', '.join(sorted(of_module[key]))}" for key in sorted(of_module))]
    )


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement at the top defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _spans(node: ast.stmt, name: str, lines: list[bytes]) -> Iterator[tuple[int, int, int]]:
    """Where a statement writes the name that it defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        begin = lines[node.lineno - 1].index(name.encode(), node.col_offset + len("def "))
        yield node.lineno, begin, begin + len(name.encode())
        return
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for target in targets:
        for each in ast.walk(target):
            if isinstance(each, ast.Name) and each.id == name:
                yield each.lineno, each.col_offset, each.end_col_offset


def _references(node: ast.AST, bound: frozenset, of_class: frozenset) -> Iterator[tuple[ast.expr, str, frozenset]]:
    """Names that no scope inside the statement binds, or attributes of such names, with what is bound around them.

    Args:
        node: a part of the statement.
        bound: names of functions around it.
        of_class: names of a class body right around it, which functions in it do not see.
    """
    if isinstance(node, _FUNCTIONS):
        outer = [*getattr(node, "decorator_list", []), *node.args.defaults, *filter(None, node.args.kw_defaults)]
        for part in outer:
            yield from _references(part, bound, of_class)
        inner = bound | _locals(node)
        for part in node.body if isinstance(node.body, list) else [node.body]:
            yield from _references(part, inner, frozenset())
    elif isinstance(node, ast.ClassDef):
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            yield from _references(part, bound, of_class)
        names = frozenset(name for part in node.body for name in _defined(part))
        for part in node.body:
            yield from _references(part, bound, names)
    elif isinstance(node, _COMPREHENSIONS):
        targets = [generator.target for generator in node.generators]
        inner = bound | {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        for part in ast.iter_child_nodes(node):
            yield from _references(part, inner, of_class)
    elif isinstance(node, ast.AnnAssign):
        for part in (node.target, node.value):
            if part is not None:
                yield from _references(part, bound, of_class)
    elif isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load) and node.id not in bound | of_class:
            yield node, node.id, bound
    else:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id not in bound | of_class:
                yield node, node.value.id, bound
        for part in ast.iter_child_nodes(node):
            yield from _references(part, bound, of_class)


def _in_annotations(node: ast.stmt) -> set[str]:
    """Names that annotations mention: readers look for what they are, though nothing evaluates them."""
    parts = [getattr(each, field, None) for each in ast.walk(node) for field in ("annotation", "returns")]
    return {name.id for part in parts if part is not None for name in ast.walk(part) if isinstance(name, ast.Name)}


def _locals(function: ast.AST) -> frozenset:
    """The names that a function binds itself."""
    arguments = function.args
    names = {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    names |= {each.arg for each in (arguments.vararg, arguments.kwarg) if each}
    waiting = list(function.body) if isinstance(function.body, list) else []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif not isinstance(node, (ast.Lambda, *_COMPREHENSIONS)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                names.add(node.name)
            waiting.extend(ast.iter_child_nodes(node))
    return frozenset(names)
