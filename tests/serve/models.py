"""Small models for the tests: a fake that computes in Python, and a real one with an artifact on disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplat.features.online import FeatureReader, OnlineRows, Status
from mlplat.model.signature import FeatureRef, Field, Signature

SIGNATURE = Signature(
    entities=(Field(name="origin", dtype="string", required=True), Field(name="tail", dtype="string")),
    request=(
        Field(name="distance", dtype="float64", required=True),
        Field(name="seats", dtype="int64"),
        Field(name="international", dtype="bool"),
        Field(name="scheduled", dtype="timestamp"),
    ),
    features=(
        FeatureRef(view="weather", version="1", keys=("origin",), fields=(Field(name="wind", dtype="float64"),)),
        FeatureRef(view="aircraft", version="2", keys=("tail",), fields=(Field(name="delay", dtype="int64"),)),
    ),
    outputs=(Field(name="probability", dtype="float64", required=True),),
)
ROW: Mapping[str, Any] = {
    "origin": "JFK",
    "tail": "N1",
    "distance": 1000,
    "seats": 180,
    "international": False,
    "scheduled": "2013-09-01T10:00:00Z",
}


@dataclass(frozen=True)
class FakeModel:
    """probability = distance / 10000 + wind / 100."""

    signature: Signature = SIGNATURE
    digest: str = "d" * 64

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        pairs = zip(columns["distance"], columns["weather.wind"], strict=True)
        return {"probability": np.array([distance / 10_000 + (wind or 0.0) / 100 for distance, wind in pairs])}


class FakeReader(FeatureReader):
    """JFK has wind 10, aircraft N1 a delay of 5; nobody else is known. LGA's wind of 20 and tail OLD's delay of 7 have expired.
    Remembers the moments it was asked for."""

    def __init__(self) -> None:
        self.asked_us: list[int] = []

    def read(
        self,
        refs: Sequence[FeatureRef],
        keys: Mapping[str, Sequence[Any]],
        at_us: Sequence[int],
        keep: Collection[str] = (),
    ) -> OnlineRows:
        self.asked_us += at_us
        known: Mapping[str, Mapping[str, Any]] = {"weather": {"JFK": 10.0}, "aircraft": {"N1": 5}}
        old: Mapping[str, Mapping[str, Any]] = {"weather": {"LGA": 20.0}, "aircraft": {"OLD": 7}}
        columns: dict[str, Sequence[Any]] = {}
        status: dict[str, Sequence[Status]] = {}
        for ref in refs:
            entities = keys[ref.keys[0]]
            assert len(entities) == len(at_us)
            new, gone = known[ref.view], old[ref.view]
            given = {**gone, **new} if ref.view in keep else new
            columns[ref.columns()[0]] = [given.get(entity) for entity in entities]
            status[ref.view] = [
                "ok" if entity in new else "expired" if entity in gone else "missing" for entity in entities
            ]
        return OnlineRows(columns=columns, status=status)
