"""Reads declarations from the source of modules, because flags are checked at once and imports take seconds."""

import ast
import builtins
import dataclasses
import importlib.util
import re
import typing
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any


def constant(module: str, name: str) -> Any:
    """Read the value that a module assigns to a name: a literal, or a type alias such as `Literal["a", "b"]`."""
    value = _constants(_path(module)).get(name)
    if value is None:
        raise LookupError(f"{module} assigns nothing to {name}")
    return _evaluate(value, _Names(module))


def table_names(module: str, name: str) -> tuple[str, ...]:
    """Read the keys of a module's table, all of which are strings."""
    table = _constants(_path(module))[name]
    assert isinstance(table, ast.Dict)  # as it is a table
    return tuple(ast.literal_eval(key) for key in table.keys if key is not None)


def mirror(module: str, name: str, *, title: str | None = None, without: typing.Collection[str] = ()) -> type:
    """Make a dataclass for a parser with the fields that a class declares itself, without its methods and parents.

    Fields whose type is not clear from the source become strings, which the class itself checks later.

    Args:
        module: the module of the class.
        name: the name of the class.
        title: title of the group of flags in the help.
        without: fields to leave out.
    """
    names = _Names(module)
    fields: list[tuple[str, Any, Any]] = []
    for node in next(_with_parents(module, name)).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names[ast.unparse(node.targets[0])] = node.value.value
        if isinstance(node, ast.If):  # its condition is only known after an import
            assigned = (to for item in ast.walk(node) if isinstance(item, ast.Assign) for to in item.targets)
            names.update({ast.unparse(to): _Unknown() for to in assigned})
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id not in without:
            kind = _evaluate(node.annotation, names)
            fields.append((node.target.id, str if isinstance(kind, _Unknown) else kind, _field(node, names)))
    namespace = {} if title is None else {"_argument_group_name": title}
    return dataclasses.make_dataclass(name, fields, namespace=namespace, kw_only=True)


def executed(package: str, file: str) -> ModuleType:
    """A module of a package, from its file, without the package's own `__init__`; it must need nothing else of it."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, _folder(package) / file)
    assert spec is not None and spec.loader is not None  # as there is such a file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Parameter(typing.NamedTuple):
    """A parameter of a class that has a default, with its description in the class's docstring."""

    name: str
    kind: Any
    default: Any
    help: str


def parameters(module: str, name: str) -> list[Parameter]:
    """List a class's parameters with defaults, in order; its parent's if it has no `__init__` of its own."""
    for owner in _with_parents(module, name):
        inits = [item for item in owner.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        if inits:
            takes, names = inits[0].args, _Names(module)
            texts = _documented(ast.get_docstring(owner) or "")
            pairs = [*zip(takes.args[::-1], takes.defaults[::-1], strict=False)][::-1]
            pairs += [
                (arg, default) for arg, default in zip(takes.kwonlyargs, takes.kw_defaults, strict=True) if default
            ]
            return [
                Parameter(arg.arg, _evaluate(arg.annotation, names), _evaluate(default, names), texts.get(arg.arg, ""))
                for arg, default in pairs
                if arg.annotation is not None
            ]
    return []


def attribute(module: str, name: str, attribute_name: str) -> Any:
    """Read the value that a class, or else its parent, assigns to an annotated attribute."""
    for owner in _with_parents(module, name):
        for item in owner.body:
            if isinstance(item, ast.AnnAssign) and item.value and ast.unparse(item.target) == attribute_name:
                return _evaluate(item.value, _Names(module))
    raise LookupError(f"{module}.{name} assigns nothing to {attribute_name}")


class _Unknown:
    """Stands for a value that is only known after an import."""

    def __getattr__(self, name: str) -> "_Unknown":
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> "_Unknown":
        return self

    def __or__(self, other: Any) -> Any:
        """Treat an unknown type as a string."""
        return str | other


class _Names(dict[str, Any]):
    """The names that a module's expressions may use: typing's, its own `Literal`s, and enumerations."""

    def __init__(self, module: str):
        super().__init__({**vars(typing), "field": dataclasses.field})
        self._path = _path(module)
        self._literals = {to: value for to, value in _constants(self._path).items() if _is_literal(value)}

    def __missing__(self, name: str) -> Any:
        if name in self._literals:
            return _evaluate(self._literals[name], self)
        if hasattr(builtins, name):
            raise KeyError(name)
        return _enumeration(self._path, name) or _Unknown()


def _with_parents(module: str, name: str) -> Iterator[ast.ClassDef]:
    """Yield a class and its parents in the same module."""
    classes = {node.name: node for node in _tree(_path(module)).body if isinstance(node, ast.ClassDef)}
    while name in classes:
        yield classes[name]
        name = next((ast.unparse(base) for base in classes[name].bases), "")


def _documented(docstring: str) -> dict[str, str]:
    """Read the description of each parameter from the `Args` of a docstring, joined into one line."""
    section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    lines = [] if section is None else re.sub(r"\n {8,}", " ", section[1]).splitlines()
    return {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}


def _constants(path: Path) -> dict[str, ast.expr]:
    """List a module's assignments to its own names."""
    assigned = [node for node in _tree(path).body if isinstance(node, ast.Assign | ast.AnnAssign) and node.value]
    targets = ((node.targets if isinstance(node, ast.Assign) else [node.target], node.value) for node in assigned)
    return {to.id: value for names, value in targets for to in names if isinstance(to, ast.Name) and value}


def _is_literal(value: ast.expr) -> bool:
    return isinstance(value, ast.Subscript) and ast.unparse(value.value) == "Literal"


def _field(node: ast.AnnAssign, names: _Names) -> Any:
    """Read a field's default and metadata, leaving out unknown values."""
    declared = _evaluate(node.value, names) if node.value is not None else dataclasses.field()
    if not isinstance(declared, dataclasses.Field):
        return declared
    metadata = {key: value for key, value in declared.metadata.items() if not isinstance(value, _Unknown)}
    if declared.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=declared.default_factory, metadata=metadata)
    default = None if isinstance(declared.default, _Unknown) else declared.default
    return dataclasses.field(default=default, metadata=metadata)


def _evaluate(expression: ast.expr, names: _Names) -> Any:
    return eval(compile(ast.Expression(expression), "<source>", "eval"), {}, names)


def _enumeration(path: Path, name: str) -> type | None:
    """Find an enumeration of strings that a module defines or imports by name."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            members = [item for item in node.body if isinstance(item, ast.Assign)]
            values = {ast.unparse(item.targets[0]): ast.literal_eval(item.value) for item in members}
            return Enum(name, values) if values else None  # type: ignore[return-value]
        if isinstance(node, ast.ImportFrom) and node.module and any(item.name == name for item in node.names):
            source = path.parent / f"{node.module.replace('.', '/')}.py" if node.level else _path(node.module)
            return _enumeration(source, name) if source.is_file() else None
    return None


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _path(module: str) -> Path:
    """Find a module's file without importing its packages."""
    package, _, rest = module.partition(".")
    return _folder(package) / f"{rest.replace('.', '/')}.py"


def _folder(package: str) -> Path:
    """Find a package's folder; for a plain module, return a folder that does not exist."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"there is no package {package}", name=package)
    return Path(next(iter(spec.submodule_search_locations or ["no-such-folder"])))
