"""What every online store must do. Inherit `OnlineStoreContract` in a test class and give it a `store` fixture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mlplat.errors import Unavailable
from mlplat.features.codec import entity_key, mark_key
from mlplat.features.online import Lifetime, OnlineStore


def key(entity: str, view: str = "view", version: str = "1") -> bytes:
    return entity_key(view, version, [entity])


def put(store: OnlineStore, blobs: dict[bytes, bytes]) -> None:
    store.update(list(blobs), lambda _: list(blobs.values()))


class OnlineStoreContract:
    """The suite. Every test gets an empty `store`."""

    def test_blobs_come_back_in_the_order_of_the_keys(self, store: OnlineStore) -> None:
        blobs = {key(f"e{i}"): bytes([i, 0, 255]) * i for i in range(20)}
        put(store, blobs)
        asked = [key("nobody"), *reversed(blobs), key("e3"), key("e3")]
        assert store.get(asked) == [blobs.get(one) for one in asked]
        assert store.get([]) == []

    def test_keys_are_bytes_that_may_be_anything(self, store: OnlineStore) -> None:
        blobs = {key(text): text.encode() for text in ("", "{a}b", "a*[b]?", "\0", "é", "x" * 1_000, " ")}
        put(store, blobs)
        assert store.get(list(blobs)) == list(blobs.values())

    def test_more_keys_than_one_message_holds(self, store: OnlineStore) -> None:
        blobs = {key(str(i)): str(i).encode() for i in range(1_201)}
        put(store, blobs)
        assert store.get(list(blobs)) == list(blobs.values())

    def test_an_update_sees_what_it_replaces(self, store: OnlineStore) -> None:
        put(store, {key("a"): b"1"})
        seen: list[list[bytes | None]] = []

        def change(blobs: list[bytes | None]) -> list[bytes]:
            seen.append(list(blobs))
            return [(blob or b"") + b"+" for blob in blobs]

        store.update([key("a"), key("b")], change)
        assert seen == [[b"1", None]]
        assert store.get([key("a"), key("b")]) == [b"1+", b"+"]
        store.update([], change)

    def test_an_update_that_raises_changes_nothing(self, store: OnlineStore) -> None:
        put(store, {key("a"): b"1"})

        def fail(blobs: list[bytes | None]) -> list[bytes]:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            store.update([key("a"), key("b")], fail)
        with pytest.raises(ValueError, match="is shorter than"):
            store.update([key("a"), key("b")], lambda _: [b"2"])
        assert store.get([key("a"), key("b")]) == [b"1", None]

    def test_no_writer_undoes_the_work_of_another(self, store: OnlineStore) -> None:
        keys = [key(f"e{i}") for i in range(3)]

        def write(name: int) -> None:
            mark = b"%d," % name

            def change(blobs: list[bytes | None]) -> list[bytes]:
                return [blob if blob and mark in blob else (blob or b",") + mark for blob in blobs]

            store.update(keys, change)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(100, 164)))
        for blob in store.get(keys):
            assert blob is not None
            assert sorted(blob.strip(b",").split(b",")) == [b"%d" % name for name in range(100, 164)]

    def test_a_blob_with_a_lifetime_is_there_at_least_as_long(self, store: OnlineStore) -> None:
        long_ago = Lifetime(event_us=0, ttl_us=60_000_000)
        store.update([key("a"), key("b")], lambda _: [b"1", b"2"], lifetimes=[long_ago, None])
        assert store.get([key("a"), key("b")]) == [b"1", b"2"]

    def test_delete_takes_one_version_with_its_mark_and_no_more(self, store: OnlineStore) -> None:
        gone = {key(f"e{i}"): b"1" for i in range(1_001)} | {mark_key("view", "1"): b"5"}
        kept = {
            key("e1", version="2"): b"2",
            key("e1", version="12"): b"3",
            key("e1", view="vie"): b"4",
            key("e1", view="views"): b"5",
            mark_key("view", "2"): b"6",
        }
        put(store, gone | kept)
        store.delete("view", "1")
        store.delete("never", "1")
        assert set(store.get(list(gone))) == {None}
        assert store.get(list(kept)) == list(kept.values())

    def test_a_closed_store_says_so(self, store: OnlineStore) -> None:
        store.close()
        store.close()
        with pytest.raises(Unavailable, match="closed"):
            store.get([key("a")])
        with pytest.raises(Unavailable, match="closed"):
            put(store, {key("a"): b"1"})
        with pytest.raises(Unavailable, match="closed"):
            store.delete("view", "1")
