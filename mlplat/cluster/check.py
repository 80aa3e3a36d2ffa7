"""The YAML of a cluster, read with what is wrong in it by its line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

import yaml

from mlplat.cluster.spec import Path, Problem, Spec, parse, problems
from mlplat.errors import InvalidInput, NotFound


def read(file: File) -> Mapping[str, Any]:
    """As it stands. Raises `InvalidInput` with the line where it is no YAML."""
    try:
        loaded: Mapping[str, Any] = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise InvalidInput(f"{file}{line}: is not YAML: {getattr(error, 'problem', None) or error}") from None
    return loaded


def checked(file: File, running: Mapping[str, int] | None = None) -> Spec:
    """Raises `InvalidInput` with a line for each thing that is wrong. `running`: as in `problems`."""
    config = read(file)
    found = problems(config, running)
    if found:
        raise InvalidInput("\n".join(f"{file}:{_line(file, problem)}: {problem}" for problem in found))
    return parse(config)


def _line(file: File, problem: Problem) -> int:
    """Of what is wrong, or of the nearest thing around it that is there."""
    node, line = yaml.compose(file.read_text()), 1
    for part in problem.path:
        found = _below(node, part)
        if found is None:
            break
        key, node = found
        line = key.start_mark.line + 1
    return line


def _below(node: Any, part: Path | str | int) -> tuple[Any, Any] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None
