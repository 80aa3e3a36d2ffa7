"""The text that identifies the code of a transform: what it does, not how it is laid out.

It is the class without comments, docstrings and spacing, and with it what the class uses of its own module and that
stands above it: functions, classes, and plain constants. Code of other modules is not in it.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from mlplat.errors import InvalidInput

_CONSTANTS = (bool, int, float, str, bytes, type(None))


def normal_form(body: type) -> str:
    """Raises `InvalidInput` if the source cannot be read."""
    call = inspect.unwrap(vars(body)["__call__"])
    try:
        found = {body.__name__: _class(body, call)}
        _collect(found[body.__name__], call.__globals__, body.__module__, found)
    except (OSError, TypeError, SyntaxError, AttributeError) as error:
        raise InvalidInput(
            f"view {body.__name__!r}: its source cannot be read ({error}), and a version needs it. Define it in a file."
        ) from None
    used = [ast.unparse(found[name]) for name in sorted(found.keys() - {body.__name__})]
    return "\n\n".join([*used, ast.unparse(found[body.__name__])])


def _class(body: type, method: FunctionType) -> ast.AST:
    """The definition that holds the method: a name alone may stand for several classes, and a notebook has no file."""
    lines, _ = inspect.findsource(method)
    at = method.__code__.co_firstlineno
    nodes = [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, ast.ClassDef)]
    for node in nodes:
        if node.name == body.__name__ and node.lineno <= at <= (node.end_lineno or node.lineno):
            node.decorator_list = []
            return _without_docstrings(node)
    raise OSError(f"there is no class {body.__name__} around line {at}")


def _collect(node: ast.AST, names: Mapping[str, Any], module: str, found: dict[str, ast.AST]) -> None:
    for name in sorted({n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & names.keys() - found.keys()):
        value = names[name]
        if isinstance(value, type | FunctionType) and value.__module__ == module:
            found[name] = _without_docstrings(ast.parse(textwrap.dedent(inspect.getsource(value))))
            _collect(found[name], names, module, found)
        elif isinstance(value, _CONSTANTS) and not name.startswith("__"):
            found[name] = ast.parse(f"{name} = {value!r}")


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False) is not None
            node.body = node.body[1 if documented else 0 :] or [ast.Pass()]
    return tree
