"""A space to search: any structure of dicts and lists in which some places are still to be chosen.

A structure without such a place is a value already. Choices may hold further choices, which are there only where their option is
taken; so a space of networks, of their settings, or of both is written in the same few words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlplat.errors import InvalidInput

Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A float from `low` to `high`, both included; on a logarithmic scale with `log`."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check_range(self)

    def __str__(self) -> str:
        return _range(self)

    def accepts(self, value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Integer:
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    name: str | None = None

    def __post_init__(self) -> None:
        for bound in (self.low, self.high, self.step):
            if not isinstance(bound, int) or isinstance(bound, bool):
                raise InvalidInput(f"space: integer({self.low!r}, {self.high!r}): {bound!r} is not a whole number")
        _check_range(self)

    def __str__(self) -> str:
        return f"whole, {_range(self)}"

    def accepts(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the options, by its label."""

    options: Mapping[Scalar | None, Any]
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.options:
            raise InvalidInput("space: choice(): there is nothing to choose from")

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.options))}"

    def accepts(self, value: object) -> bool:
        return any(value == label and type(value) is type(label) for label in self.options)


Domain = Number | Integer | Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """A list of `times` blocks, each chosen for itself. In a list it stands for its blocks, and a block that is a list for its
    parts."""

    block: Any
    times: Integer | Choice | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a call gives, of arguments that may be chosen."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)


def number(low: float, high: float, *, log: bool = False, step: float | None = None, name: str | None = None) -> Number:
    """A float. Places with the same `name` have the same value."""
    return Number(low=low, high=high, log=log, step=step, name=name)


def integer(low: int, high: int, *, log: bool = False, step: int = 1, name: str | None = None) -> Integer:
    """A whole number. Places with the same `name` have the same value."""
    return Integer(low=low, high=high, log=log, step=step, name=name)


def choice(*options: Any, name: str | None = None, **labelled: Any) -> Choice:
    """One of the options. Numbers, texts, booleans and None are their own labels; give others one, as in
    `choice(small=..., large=...)`, or they are called by their position."""
    labels: dict[Scalar | None, Any] = {}
    for at, option in enumerate(options):
        own = option is None or isinstance(option, bool | int | float | str)
        label = option if own else f"#{at}"
        if label in labels:
            raise InvalidInput(f"space: choice(): {label!r} is there twice")
        labels[label] = option
    labels.update(labelled)
    return Choice(options=labels, name=name)


def repeat(block: Any, times: Integer | Choice | int) -> Repeat:
    """So many blocks, each chosen for itself; of a block that is a list, its parts."""
    if isinstance(times, Choice) and not all(_count(label) for label in times.options):
        raise InvalidInput(f"space: repeat(times={times}): give whole numbers from 0")
    if (isinstance(times, Integer) and times.low < 0) or (isinstance(times, int) and not _count(times)):
        raise InvalidInput(f"space: repeat(times={times}): give whole numbers from 0")
    return Repeat(block=block, times=times)


def made(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Made:
    """What `call` gives of these arguments, once they are chosen: an estimator, an architecture, a network of your own
    (`made(partial, MyNetwork, width=integer(8, 256))`)."""
    if not callable(call):
        raise InvalidInput(f"space: made({call!r}): give something that can be called")
    return Made(call=call, arguments=arguments, keywords=keywords)


def fill(space: Any, ask: Callable[[str, Domain], Any]) -> Any:
    """The structure with everything chosen: `ask(name, domain)` gives the value, of a choice the label, for each place that is
    reached, in order, and once for each name."""
    return _Filling(ask).filled(space, "")


def domains(space: Any) -> dict[str, Domain]:
    """All places by name, with those that only some options reach. `InvalidInput` if there is none, or two that differ have one
    name."""
    found: dict[str, Domain] = {}
    for name, domain in _walked(space, ""):
        if found.setdefault(name, domain) != domain:
            raise InvalidInput(f"space: two places are called {name!r}, and differ: {found[name]}; {domain}")
    if not found:
        raise InvalidInput(
            "space: there is nothing to choose in it: use space.number, space.integer, space.choice or space.repeat"
        )
    return found


def pinned(space: Any, values: Mapping[str, Any]) -> Any:
    """The space that is left where places have these values, by name. `InvalidInput` for a value that its place cannot have, or
    a name that is none."""
    known = domains(space)
    for name, value in values.items():
        if name not in known:
            raise InvalidInput(f"space: no place is called {name!r}; there are {', '.join(known)}")
        if not known[name].accepts(value):
            raise InvalidInput(f"space: {name}={value!r} is not {known[name]}")
    return _Pinning(values).filled(space, "")


class _Filling:
    def __init__(self, ask: Callable[[str, Domain], Any]) -> None:
        self._ask, self._values = ask, dict[str, Any]()

    def filled(self, space: Any, path: str) -> Any:
        if isinstance(space, Number | Integer):
            return self._value(space, path)
        if isinstance(space, Choice):
            label = self._value(space, path)
            return self.filled(space.options[label], _option(space, path, label))
        if isinstance(space, Repeat):
            times = space.times if isinstance(space.times, int) else self._value(space.times, _times(path))
            blocks = [self.filled(space.block, f"{path}[{i}]") for i in range(times)]
            return [part for block in blocks for part in (block if isinstance(block, list) else [block])]
        if isinstance(space, Made):
            arguments = [self.filled(part, _under(path, i)) for i, part in enumerate(space.arguments)]
            keywords = {key: self.filled(part, _under(path, key)) for key, part in space.keywords.items()}
            return space.call(*arguments, **keywords)
        if isinstance(space, Mapping):
            return {key: self.filled(part, _under(path, key)) for key, part in space.items()}
        if isinstance(space, list | tuple):
            return type(space)(self._items(space, path))
        return space

    def _items(self, space: list[Any] | tuple[Any, ...], path: str) -> Iterator[Any]:
        for i, part in enumerate(space):
            found = self.filled(part, _under(path, i))
            if isinstance(part, Repeat | Choice) and isinstance(found, list):
                yield from found
            else:
                yield found

    def _value(self, domain: Domain, path: str) -> Any:
        name = _name(domain, path)
        if name not in self._values:
            self._values[name] = self._ask(name, domain)
        return self._values[name]


class _Pinning(_Filling):
    """Leaves what has no value as it is, under the name that it had."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(lambda name, domain: None)
        self._given = values

    def filled(self, space: Any, path: str) -> Any:
        if isinstance(space, Number | Integer):
            return self._given.get(_name(space, path), _named(space, path))
        if isinstance(space, Choice):
            name = _name(space, path)
            if name in self._given:
                label = self._given[name]
                return self.filled(space.options[label], _option(space, path, label))
            options = {label: self.filled(part, _option(space, path, label)) for label, part in space.options.items()}
            return Choice(options=options, name=name)
        if isinstance(space, Repeat):
            return self._repeated(space, path)
        if isinstance(space, Made):
            return Made(
                call=space.call,
                arguments=tuple(self.filled(part, _under(path, i)) for i, part in enumerate(space.arguments)),
                keywords={key: self.filled(part, _under(path, key)) for key, part in space.keywords.items()},
            )
        return super().filled(space, path)

    def _repeated(self, space: Repeat, path: str) -> Any:
        """Its blocks one by one, since each may have values of its own."""
        most = max(_counts(space.times))
        blocks = [self.filled(space.block, f"{path}[{i}]") for i in range(most)]

        def first(times: int) -> list[Any]:
            return [part for block in blocks[:times] for part in (block if isinstance(block, list) else [block])]

        if isinstance(space.times, int):
            return first(space.times)
        name = _name(space.times, _times(path))
        if name in self._given:
            return first(self._given[name])
        return Choice(options={n: first(n) for n in _counts(space.times)}, name=name)


def _walked(space: Any, path: str) -> Iterator[tuple[str, Domain]]:
    if isinstance(space, Number | Integer | Choice):
        yield _name(space, path), space
    if isinstance(space, Choice):
        for label, option in space.options.items():
            yield from _walked(option, _option(space, path, label))
    elif isinstance(space, Repeat):
        if not isinstance(space.times, int):
            yield from _walked(space.times, _times(path))
        for i in range(max(_counts(space.times))):
            yield from _walked(space.block, f"{path}[{i}]")
    elif not isinstance(space, Number | Integer):
        for key, part in _parts(space):
            yield from _walked(part, _under(path, key))


def _parts(space: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(space, Made):
        yield from enumerate(space.arguments)
        yield from space.keywords.items()
    elif isinstance(space, Mapping):
        yield from space.items()
    elif isinstance(space, list | tuple):
        yield from enumerate(space)


def _counts(times: Integer | Choice | int) -> list[int]:
    if isinstance(times, int):
        return [times]
    if isinstance(times, Integer):
        return list(range(times.low, times.high + 1, times.step))
    return [int(label) for label in times.options]  # type: ignore[arg-type]


def _name(domain: Domain, path: str) -> str:
    return domain.name or path or "value"


def _named(domain: Number | Integer, path: str) -> Number | Integer:
    given = {"low": domain.low, "high": domain.high, "log": domain.log, "step": domain.step}
    return type(domain)(**given, name=_name(domain, path))  # type: ignore[arg-type]


def _under(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _option(domain: Choice, path: str, label: object) -> str:
    return f"{_name(domain, path)}={label}"


def _times(path: str) -> str:
    return f"{path}.times" if path else "times"


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_range(domain: Number | Integer) -> None:
    said = f"space: {type(domain).__name__.lower()}({domain.low!r}, {domain.high!r})"
    if not (math.isfinite(domain.low) and math.isfinite(domain.high)):
        raise InvalidInput(f"{said}: the bounds must be finite")
    if domain.low > domain.high:
        raise InvalidInput(f"{said}: the lower bound is above the upper one")
    if domain.log and domain.low <= 0:
        raise InvalidInput(f"{said}: on a logarithmic scale the lower bound must be above 0")
    if domain.step is not None and domain.step <= 0:
        raise InvalidInput(f"{said}: step={domain.step!r} must be above 0")
    if domain.log and domain.step not in {None, 1}:
        raise InvalidInput(f"{said}: a logarithmic scale has no steps")


def _range(domain: Number | Integer) -> str:
    steps = f", in steps of {domain.step:g}" if domain.step not in {None, 1} else ""
    return f"from {domain.low:g} to {domain.high:g}{' (log)' if domain.log else ''}{steps}"
