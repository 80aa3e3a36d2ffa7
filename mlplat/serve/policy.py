"""What an endpoint does about features that it cannot have as they should be: missing, expired, late. Declared by view; what a
request needs of it is made once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mlplat.errors import InvalidInput
from mlplat.features.online import Status
from mlplat.model.signature import FeatureRef
from mlplat.serve.http import FieldError, HttpError

FEATURES_S = 0.1
Missing = Literal["null", "refuse"]
Expired = Literal["null", "keep", "refuse"]
_GONE: frozenset[Status] = frozenset({"missing", "late", "unavailable"})
_OLD: frozenset[Status] = frozenset({"expired"})
_TRY_AGAIN: frozenset[Status] = frozenset({"late", "unavailable"})
_SAID: Mapping[str, str] = {
    "missing": "has no features of view {!r}, and this endpoint refuses that: bring its events, or leave the row out",
    "expired": "has expired features of view {!r}, and this endpoint refuses that: bring newer events, or leave the row out",
    "late": "did not get the features of view {!r} in time, and this endpoint refuses that: try again",
    "unavailable": "did not get the features of view {!r}: the online store does not answer; try again",
}
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePolicy:
    """`missing` is for features that an entity does not have, that are late, or that the online store could not give: "null"
    lets the model see null, as in training, "refuse" refuses the request. `expired` is for those older than their view's
    time-to-live; "keep" lets the model see them all the same. One word for all views, or words by view; a view that is not
    named has "null". `features_s`: so many seconds a read may take from an online store that is a server.

    `InvalidInput` for another word, or a time that is none.
    """

    missing: Missing | Mapping[str, Missing] = "null"
    expired: Expired | Mapping[str, Expired] = "null"
    features_s: float = FEATURES_S

    def __post_init__(self) -> None:
        object.__setattr__(self, "missing", _checked("missing", self.missing, get_args(Missing)))
        object.__setattr__(self, "expired", _checked("expired", self.expired, get_args(Expired)))
        if not (isinstance(self.features_s, int | float) and math.isfinite(self.features_s) and self.features_s > 0):
            raise InvalidInput(f"features_s={self.features_s!r}: seconds, more than 0")

    def check_views(self, views: Collection[str]) -> None:
        """`InvalidInput` for a view that nobody reads here."""
        for argument, declared in (("missing", self.missing), ("expired", self.expired)):
            unknown = [] if isinstance(declared, str) else sorted(declared.keys() - set(views))
            if unknown:
                known = ", ".join(sorted(views)) or "none"
                raise InvalidInput(
                    f"{argument} names view {unknown[0]!r}, which this endpoint does not read; it reads {known}"
                )

    def rules(self, views: Iterable[str]) -> Rules:
        """What holds for these views."""
        words = {view: (_word(self.missing, view), _word(self.expired, view)) for view in views}
        refuse = {
            view: (_GONE if missing == "refuse" else frozenset()) | (_OLD if expired == "refuse" else frozenset())
            for view, (missing, expired) in words.items()
        }
        return Rules(
            keep=frozenset(view for view, (_, expired) in words.items() if expired == "keep"),
            refuse={view: refused for view, refused in refuse.items() if refused},
            features_s=self.features_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A policy, view by view: whose expired values are kept, and what is refused of those that refuse something."""

    keep: frozenset[str] = frozenset()
    refuse: Mapping[str, frozenset[Status]] = field(default_factory=dict)
    features_s: float = FEATURES_S

    def check(self, refs: Sequence[FeatureRef], status: Mapping[str, Sequence[Status]], rows: Sequence[int]) -> None:
        """Raises `RefusedFeatures` if there is a row that is refused; row i of a status is row `rows[i]` of the request."""
        found = []
        for ref in refs:
            refused = self.refuse.get(ref.view, frozenset())
            if not refused.isdisjoint(status[ref.view]):
                found += [(ref, rows[i], said) for i, said in enumerate(status[ref.view]) if said in refused]
        if found:
            raise RefusedFeatures(found)


class RefusedFeatures(HttpError):
    """Rows have features that the endpoint's policy refuses: 422, or 503 if the caller may just try again. `views` are those
    that refused, `counts` the rows by view and status."""

    def __init__(self, found: Sequence[tuple[FeatureRef, int, Status]]) -> None:
        self.views = frozenset(ref.view for ref, _, _ in found)
        self.counts = Counter((ref.view, said) for ref, _, said in found)
        fields = [
            FieldError(field=", ".join(ref.keys), message=_SAID[said].format(ref.view), row=row)
            for ref, row, said in found[:_SHOWN]
        ]
        more = f" ({len(found) - 1} more)" if len(found) > 1 else ""
        again = any(said in _TRY_AGAIN for _, _, said in found)
        super().__init__(
            503 if again else 422,
            "features_refused",
            f"{fields[0].field!r} of row {fields[0].row} {fields[0].message}{more}",
            fields=fields,
            headers=[(b"retry-after", b"1")] if again else (),
        )


def _checked(argument: str, declared: Any, words: Sequence[str]) -> Any:
    choices = " or ".join(map(repr, words))
    if isinstance(declared, str):
        if declared not in words:
            raise InvalidInput(f"{argument}={declared!r} is not {choices}")
        return declared
    if not isinstance(declared, Mapping):
        raise InvalidInput(f"{argument}={declared!r}: {choices}, or a mapping of views to these")
    for view, word in declared.items():
        if not isinstance(view, str):
            raise InvalidInput(f"{argument}[{view!r}]: a view is named by a text")
        if word not in words:
            raise InvalidInput(f"{argument}[{view!r}]={word!r} is not {choices}")
    return dict(declared)


def _word(declared: str | Mapping[str, Any], view: str) -> str:
    return declared if isinstance(declared, str) else str(declared.get(view, "null"))
