"""What every `Site` must do, whatever makes its machines: for those who write one. Subclass it with a fixture `site` that gives
an empty site, and, if that has a limit, `most`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from mlplat.cluster.site import LAUNCH, NoCapacity, Site


class SiteContract:
    node: Mapping[str, Any] = MappingProxyType({})
    """What the site is asked for."""
    most: int | None = None
    """How many machines it has, if that is known."""

    def test_what_was_made_is_listed_with_its_tags_until_it_is_ended(self, site: Site) -> None:
        assert site.machines() == {}
        names: list[str] = []
        while len(names) < 2:  # a call may make fewer than it is asked for, but not none
            made = site.create(self.node, {LAUNCH: "one", "ray-node-type": "worker"}, 2 - len(names))
            assert made
            names += made
        assert len(set(names)) == 2
        listed = site.machines()
        assert listed.keys() == set(names)
        for seen in listed.values():
            assert (seen.tags[LAUNCH], seen.tags["ray-node-type"]) == ("one", "worker")
        site.terminate(names[:1])
        assert site.machines().keys() == {names[1]}
        site.terminate(names)  # who is gone stays so
        assert site.machines() == {}

    def test_tags_are_added_to_those_that_are_there(self, site: Site) -> None:
        (name,) = site.create(self.node, {LAUNCH: "one", "a": "1"}, 1)
        site.tag(name, {"b": "2", "a": "3"})
        tags = site.machines()[name].tags
        assert (tags[LAUNCH], tags["a"], tags["b"]) == ("one", "3", "2")

    def test_calls_are_told_apart_by_their_tag(self, site: Site) -> None:
        first = set(site.create(self.node, {LAUNCH: "one"}, 1))
        second = set(site.create(self.node, {LAUNCH: "two"}, 1))
        assert not first & second
        assert {name: seen.tags[LAUNCH] for name, seen in site.machines().items()} == {
            **dict.fromkeys(first, "one"),
            **dict.fromkeys(second, "two"),
        }

    def test_a_machine_has_an_address(self, site: Site) -> None:
        (name,) = site.create(self.node, {LAUNCH: "one"}, 1)
        assert site.address(name)

    def test_where_there_are_no_more_it_says_so_and_none_was_made(self, site: Site) -> None:
        if self.most is None:  # it has any number
            assert site.create(self.node, {LAUNCH: "one"}, 1)
            return
        there = set(site.create(self.node, {LAUNCH: "one"}, self.most))
        with pytest.raises(NoCapacity):
            site.create(self.node, {LAUNCH: "two"}, 1)
        assert site.machines().keys() == there
