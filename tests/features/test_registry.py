"""The register of sources and view versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplat import features as F
from mlplat.errors import NotFound, Refused
from mlplat.features.definitions import View
from mlplat.features.registry import Registry

sales = F.source("sales", key="shop", time="at")


def view(name: str, window: str) -> View:
    return F.view(sales)(type(name, (), {"sold": F.count(window=window)}))


def test_a_source_keeps_its_definition(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.put_source(sales)
    registry.put_source(sales)
    assert Registry(tmp_path).source("sales") == sales
    with pytest.raises(Refused, match="Give the new one another name"):
        registry.put_source(F.source("sales", key="town", time="at"))
    with pytest.raises(NotFound, match=r"There is no source 'sale'. Did you mean 'sales'"):
        registry.source("sale")


def test_versions_are_listed_in_the_order_in_which_they_were_applied(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    hour, day = view("sold", "1h"), view("sold", "1d")
    assert registry.put_view(hour, now_us=1)
    assert not registry.put_view(hour, now_us=2)
    assert registry.put_view(day, now_us=3)
    assert [(e.version, e.applied_at_us) for e in registry.history("sold")] == [(hour.version, 1), (day.version, 3)]
    assert registry.view("sold") == day
    assert registry.view("sold", hour.version) == hour
    assert registry.live_on("sales") == [hour, day]
    assert registry.live_on("other") == []


def test_a_view_whose_name_begins_another_is_its_own(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.put_view(view("sold_more", "1h"), now_us=1)
    assert registry.history("sold") == []
    with pytest.raises(NotFound, match=r"There is no view 'sold'. Did you mean 'sold_more'"):
        registry.view("sold")


def test_its_stamp_changes_with_every_version_and_only_then(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    stamps = [registry.stamp()]
    for window in ("1h", "2h", "1h"):
        registry.put_view(view("sold", window), now_us=1)
        stamps.append(Registry(tmp_path).stamp())
        registry.put_view(view("sold", window), now_us=2)
        assert registry.stamp() == stamps[-1]
    assert len(set(stamps)) == 4
