"""The text of a user's class or function: what identifies it, and what makes it again in another process.

The first is its normal form: the code without comments, docstrings and spacing, and with it what it uses of its own
module and that stands above it: functions, classes, plain constants, and other values by the statement that sets
them. The second is the same as a module that runs, with its imports. Code of other modules is in neither.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import textwrap
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

from mlplat.errors import InvalidInput, UserCodeError

_CONSTANTS = (bool, int, float, str, bytes, type(None))
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_METHODS = ("__call__", "forward", "__init__", "fit")

Body: TypeAlias = type | FunctionType


def normal_form(body: Body) -> str:
    """Raises `InvalidInput` if the source cannot be read."""
    found = _read(body)
    used = [ast.unparse(found[name]) for name in sorted(found.keys() - {body.__name__})]
    return "\n\n".join([*used, ast.unparse(found[body.__name__])])


def module_text(body: Body) -> str | None:
    """A module that makes it; None if it uses a name that its module alone cannot give, such as a local variable
    of the function around it."""
    found = _read(body)
    names = _function(body).__globals__
    wanted = _loaded(found.values()) - found.keys() - vars(builtins).keys()
    imports = {name: line for name in sorted(wanted & names.keys()) if (line := _import(name, names[name], body))}
    if wanted - imports.keys():
        return None
    code = [ast.unparse(found[name]) for name in found]
    return "\n\n".join(["from __future__ import annotations", *imports.values(), *code]) + "\n"


def load(kind: str, name: str, text: str, *, remedy: str) -> Callable[..., Any]:
    """What `module_text` is the text of; tracebacks show its lines. Raises `UserCodeError` if the text does not run here:
    `kind` and `name` say whose it is, and `remedy` what else can be done."""
    module = ModuleType(f"mlplat_{kind}_{name}")
    file = f"<{kind} {name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    try:
        exec(compile(text, file, "exec"), vars(module))  # the user's own code, out of the home that it was given to
        made: Callable[..., Any] = vars(module)[name]
    except Exception as error:
        raise UserCodeError(
            f"{kind} {name!r}: its code does not run in this process: {type(error).__name__}: {error}. Install what it "
            f"imports{remedy}."
        ) from error
    return made


def _read(body: Body) -> dict[str, ast.AST]:
    """The statements by the name that they define, each behind those that it uses; the body itself is the last."""
    function = _function(body)
    try:
        lines, _ = inspect.findsource(function)
        tree = ast.parse("".join(lines))
        found: dict[str, ast.AST] = {}
        node = _definition(body, function, tree)
        _collect(node, _Module(name=body.__module__, names=function.__globals__, tree=tree), found, {body.__name__})
    except (OSError, TypeError, SyntaxError, AttributeError) as error:
        raise InvalidInput(f"{body.__name__!r}: its source cannot be read ({error}). Define it in a file.") from None
    return {**found, body.__name__: node}


def _function(body: Body) -> FunctionType:
    """The one whose lines show where the body is defined: itself, or a method of the class's own."""
    own = [body] if isinstance(body, FunctionType) else [vars(body)[name] for name in _METHODS if name in vars(body)]
    found = inspect.unwrap(own[0]) if own else None
    if not isinstance(found, FunctionType):
        raise InvalidInput(f"{body.__name__!r}: its source cannot be found: it defines none of {', '.join(_METHODS)}")
    return found


class _Module:
    """Where a class is defined: what its names are, and the statements of its file."""

    def __init__(self, *, name: str, names: Mapping[str, Any], tree: ast.Module) -> None:
        self.name = name
        self.names = names
        self.tree = tree

    def statement(self, name: str) -> ast.AST | None:
        """What defines the name; None if another module or nothing does."""
        value = self.names[name]
        if isinstance(value, type | FunctionType):
            return ast.parse(textwrap.dedent(inspect.getsource(value))) if value.__module__ == self.name else None
        if isinstance(value, _CONSTANTS):
            return None if name.startswith("__") else ast.parse(f"{name} = {value!r}")
        return next((node for node in reversed(self.tree.body) if name in _assigned(node)), None)


def _assigned(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _definition(body: Body, function: FunctionType, tree: ast.Module) -> ast.AST:
    """The statement that holds the function: a name alone may stand for several, and a notebook has no file."""
    kind = ast.ClassDef if isinstance(body, type) else ast.FunctionDef
    at = function.__code__.co_firstlineno
    for node in ast.walk(tree):
        if not isinstance(node, kind) or node.name != body.__name__:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if first <= at <= (node.end_lineno or node.lineno):
            node.decorator_list = []
            return _without_docstrings(node)
    raise OSError(f"there is no {body.__name__} around line {at}")


def _collect(node: ast.AST, module: _Module, found: dict[str, ast.AST], seen: set[str]) -> None:
    for name in sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & module.names.keys() - seen):
        seen.add(name)
        statement = module.statement(name)
        if statement is not None:
            statement = _without_docstrings(statement)
            _collect(statement, module, found, seen)
            found[name] = statement


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, _DEFINITIONS):
            documented = ast.get_docstring(node, clean=False) is not None
            node.body = node.body[1 if documented else 0 :] or [ast.Pass()]
    return tree


def _loaded(trees: Iterable[ast.AST]) -> set[str]:
    """The names that the code reads and does not set itself; those in annotations are never read."""
    loaded: set[str] = set()
    bound: set[str] = set()
    for node in (n for tree in trees for n in _evaluated(tree)):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, (*_DEFINITIONS, ast.ExceptHandler)) and node.name is not None:
            bound.add(node.name)
    return loaded - bound


def _evaluated(tree: ast.AST) -> Iterable[ast.AST]:
    """The nodes without annotations, which `from __future__ import annotations` leaves as text."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        skipped = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        waiting += [child for child in ast.iter_child_nodes(node) if not any(child is s for s in skipped)]


def _import(name: str, value: Any, body: Body) -> str | None:
    """The statement that brings a name in from another module."""
    if isinstance(value, ModuleType):
        return (
            f"import {value.__name__} as {name}"
            if "." in value.__name__ or value.__name__ != name
            else f"import {name}"
        )
    if isinstance(value, type | FunctionType) and value.__module__ != body.__module__ and "." not in value.__qualname__:
        return f"from {value.__module__} import {value.__qualname__} as {name}"
    lines, _ = inspect.findsource(_function(body))
    for node in ast.parse("".join(lines)).body:
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return f"from {node.module} import {alias.name} as {name}"
    return None
