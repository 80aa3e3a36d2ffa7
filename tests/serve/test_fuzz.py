"""Whatever is sent to whatever route: an answer that is no 500, soon, and in little memory."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplat.clock import SystemClock
from mlplat.serve import tokens
from mlplat.serve.http import MAX_BODY_BYTES, BodyLimits
from mlplat.serve.tokens import Gate
from tests.serve.models import ROW
from tests.serve.rig import Rig, opened

pytestmark = pytest.mark.slow

GIVE_UP_S = 20.0  # a hang, on however slow a machine
BODY_S = 0.005
ROUTES = (
    "/",
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/metrics",
    "/predict/late",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/late",
    "/v2/models/late/ready",
    "/v2/models/late/infer",
    "/v2/models/late/versions/3",
    "/v2/models/late/versions/3/ready",
    "/v2/models/late/versions/3/infer",
)
POSTS = ("/predict/late", "/v2/models/late/infer")
MAX_ERROR_BYTES = 1 << 18


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with opened(tmp_path_factory.mktemp("home"), body=BodyLimits(body_s=BODY_S)) as rig:
        yield rig


@dataclass
class Answer:
    """What came back, and how much of the body was taken."""

    status: int = 0
    body: bytes = b""
    taken: int = 0
    messages: int = 0


def ask(
    app: Callable[..., Any],
    path: str,
    method: str = "POST",
    chunks: Sequence[bytes] = (b"",),
    headers: Sequence[tuple[bytes, bytes]] = (),
    ends: str = "whole",
) -> Answer:
    """The body comes in chunks; then it `ends` whole, or the caller is gone, or silent."""
    answer, left = Answer(), list(chunks)

    async def receive() -> Any:
        if left:
            chunk = left.pop(0)
            answer.taken += len(chunk)
            return {"type": "http.request", "body": chunk, "more_body": bool(left) or ends != "whole"}
        if ends == "gone":
            return {"type": "http.disconnect"}
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        answer.messages += 1
        answer.status = message.get("status", answer.status)
        answer.body += message.get("body", b"")

    async def go() -> None:
        scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
        await asyncio.wait_for(app(scope, receive, send), GIVE_UP_S)

    asyncio.run(go())
    return answer


def check(answer: Answer, path: str) -> None:
    if answer.messages == 0:
        return  # to a caller who is gone
    assert answer.messages == 2
    assert 200 <= answer.status < 500, answer.body
    if answer.status >= 400:
        assert len(answer.body) <= MAX_ERROR_BYTES
        error = json.loads(answer.body)["error"]
        assert isinstance(error, str) if path.startswith("/v2/") or path == "/v2" else set(error) > {"message"}


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(alphabet=st.characters(), max_size=20)
    | st.sampled_from([*ROW.values(), 2**63, -(2**63), 2**64, 1e308, "9999-12-31T23:59:59-23:59", "\ud800"])
)
JSONISH = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*ROW, "at", "rows", "inputs", "name"]) | st.text(), inner, max_size=6)
    ),
    max_leaves=12,
)
PARAMETERS = st.none() | JSONISH | st.fixed_dictionaries({}, optional={"at": LEAVES, "binary_data_size": LEAVES})
DATATYPES = {"distance": "FP64", "seats": "INT64", "international": "BOOL"}


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    """One that is right, or odd in some of its parts."""
    name = draw(st.sampled_from([*ROW, "at"]) | st.text(max_size=5))
    rows = draw(st.sampled_from([1, 1, 1, 2, 0]))
    right = {
        "name": name,
        "datatype": DATATYPES.get(name, "BYTES"),
        "shape": draw(st.sampled_from([[rows, 1], [rows]])),
        "data": [ROW.get(name)] * rows,
    }
    odd = st.fixed_dictionaries(
        {}, optional={**dict.fromkeys([*right, "x"], JSONISH), "parameters": PARAMETERS, "data": st.lists(LEAVES)}
    )
    return right | (draw(odd) if draw(st.booleans()) else {})


def whole() -> list[dict[str, Any]]:
    return [{"name": n, "datatype": DATATYPES.get(n, "BYTES"), "shape": [1], "data": [v]} for n, v in ROW.items()]


@st.composite
def nearly_whole(draw: st.DrawFn) -> list[dict[str, Any]]:
    """All tensors of a row, and one thing of one of them odd."""
    found = whole()
    one = draw(st.sampled_from(found))
    part = draw(st.sampled_from(["value", "name", "datatype", "shape", "parameters", "data"]))
    one |= {"data": [draw(LEAVES)]} if part == "value" else {part: draw(JSONISH)}
    return found


ROWS = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys([*ROW, "at"], JSONISH))
    | st.dictionaries(st.sampled_from([*ROW, "at"]), LEAVES, max_size=2).map(lambda odd: {**ROW, **odd}),
    max_size=3,
)
NATIVE = st.fixed_dictionaries({"rows": ROWS}, optional={"at": LEAVES})
PROTOCOL = st.fixed_dictionaries(
    {"inputs": st.lists(tensors(), max_size=8) | st.builds(whole) | nearly_whole()},
    optional={
        "id": LEAVES,
        "parameters": PARAMETERS,
        "outputs": JSONISH
        | st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(["probability", "mlplat.arm"]) | LEAVES}), max_size=3
        ),
    },
)


def nested(form: bytes, depth: int) -> bytes:
    opening, closing = {b"[": (b"[", b"]"), b"{": (b'{"rows":', b"}")}[form]
    return opening * depth + b"1" + closing * depth


BODIES: st.SearchStrategy[bytes] = (
    st.binary(max_size=200)
    | (NATIVE | PROTOCOL | JSONISH).map(lambda value: json.dumps(value).encode())
    | PROTOCOL.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))
    | st.builds(nested, st.sampled_from([b"[", b"{"]), st.sampled_from([10, 900, 1_020, 1_030, 100_000]))
    | st.builds(lambda n: b'{"rows": [{"distance": 1' + b"0" * n + b"}]}", st.integers(0, 10_000))
)
NAMES = st.sampled_from(
    [b"content-type", b"content-length", b"content-encoding", b"x-request-id", b"authorization", b"transfer-encoding"]
)
VALUES = st.binary(max_size=30) | st.sampled_from([b"application/json", b"999999999", b"-1", b"gzip", b"Bearer x"])
HEADERS = st.lists(st.tuples(NAMES | st.binary(max_size=20), VALUES), max_size=3)
PATHS = (
    st.sampled_from(ROUTES)
    | st.text(max_size=30)
    | st.tuples(st.sampled_from(ROUTES), st.text(max_size=10)).map("".join)
    | st.lists(
        st.sampled_from(["v2", "models", "late", "versions", "3", "infer", "predict", "", ".."]), max_size=8
    ).map(lambda parts: "/" + "/".join(parts))
)
METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW", ""])
QUICK = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


ASKED = (
    st.tuples(st.just(POSTS[0]), NATIVE.map(lambda value: json.dumps(value).encode()))
    | st.tuples(st.just(POSTS[1]), PROTOCOL.map(lambda value: json.dumps(value).encode()))
    | st.tuples(st.sampled_from(POSTS), BODIES)
)


@QUICK
@given(asked=ASKED)
def test_no_body_gives_a_500(rig: Rig, asked: tuple[str, bytes]) -> None:
    path, body = asked
    answer = ask(rig.app, path, chunks=[body])
    check(answer, path)
    assert answer.status in {200, 400, 422}


@QUICK
@given(path=PATHS, method=METHODS, headers=HEADERS, body=BODIES)
def test_no_route_method_or_header_gives_a_500(
    rig: Rig, path: str, method: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    check(ask(rig.app, path, method, [body], headers), path)


@settings(QUICK, max_examples=100)
@given(
    path=st.sampled_from(ROUTES),
    body=BODIES,
    cuts=st.lists(st.integers(0, 300), max_size=5),
    ends=st.sampled_from(["whole", "gone", "silent"]),
)
def test_a_body_in_pieces_is_answered_or_left_in_time(
    rig: Rig, path: str, body: bytes, cuts: list[int], ends: str
) -> None:
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [body[a:b] for a, b in pairwise(edges)]
    answer = ask(rig.app, path, chunks=chunks, ends=ends)
    check(answer, path)
    if path in POSTS and ends != "whole":
        assert answer.status == {"gone": 0, "silent": 408}[ends]
    if path in POSTS and ends == "whole":
        assert answer.body == ask(rig.app, path, chunks=[body]).body or answer.status == 200  # ids differ


@settings(QUICK, max_examples=200)
@given(value=st.binary(max_size=60) | st.binary(max_size=60).map(lambda raw: b"Bearer " + raw))
def test_no_made_up_authorization_opens_the_door(guarded: Rig, value: bytes) -> None:
    for path in POSTS:
        answer = ask(guarded.app, path, headers=[(b"authorization", value)])
        check(answer, path)
        assert (answer.status, answer.taken) == (401, 0)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home, clock = tmp_path_factory.mktemp("guarded"), SystemClock()
    tokens.create(home, "late", now_us=clock.now_us())
    with opened(home, gate=Gate(home, clock, host="127.0.0.1")) as rig:
        yield rig


@pytest.mark.parametrize("path", POSTS)
def test_no_more_of_a_body_is_taken_than_the_limit(rig: Rig, path: str) -> None:
    chunk = b" " * 65_536
    answer = ask(rig.app, path, chunks=[chunk] * 1_000)
    assert answer.status == 413
    assert answer.taken <= MAX_BODY_BYTES + len(chunk)
    assert ask(rig.app, path, chunks=[chunk], headers=[(b"content-length", b"9" * 30)]).taken == 0


def filled(beginning: bytes, unit: bytes, end: bytes) -> bytes:
    count = (MAX_BODY_BYTES - len(beginning) - len(end)) // len(unit)
    return (beginning + unit * count).rstrip(b",") + end


HOSTILE: Mapping[str, bytes] = {
    "rows": filled(b'{"rows":[', b"{},", b"]}"),
    "keys": b'{"rows":[{' + b",".join(b'"%d":1' % i for i in range(90_000)) + b"}]}",
    "deep": b"[" * MAX_BODY_BYTES,
    "digits": filled(b'{"rows":[{"distance":', b"1", b"}]}"),
    "text": filled(b'{"rows":[{"origin":"', b"\xf0\x9f\x98\x80", b'"}]}'),
    "names": b'{"inputs":[' + b",".join(b'{"name":"%d"}' % i for i in range(60_000)) + b"]}",
    "name": filled(b'{"inputs":[{"name":"', b"x", b'"}]}'),
    "data": filled(b'{"inputs":[{"name":"tail","datatype":"BYTES","shape":[1],"data":[', b"[],", b"]}]}"),
    "shape": filled(b'{"inputs":[{"name":"tail","datatype":"BYTES","data":[],"shape":[', b"1,", b"]}]}"),
    "outputs": b'{"inputs":[],"outputs":[' + b",".join(b'{"name":"%d"}' % i for i in range(60_000)) + b"]}",
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("form", HOSTILE)
def test_the_largest_bodies_cost_little_memory_and_little_answer(rig: Rig, path: str, form: str) -> None:
    tracemalloc.start()
    try:
        answer = ask(rig.app, path, chunks=[HOSTILE[form]])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    check(answer, path)
    assert answer.status in {400, 422}
    assert peak < 64 << 20


def test_the_odd_requests_are_logged_whole_or_not_at_all(rig: Rig) -> None:
    before = rig.log.counters()
    assert ask(rig.app, POSTS[1], chunks=[json.dumps({"inputs": whole()}).encode()]).status == 200
    rig.log.flush()
    after = rig.log.counters()
    assert after.appended == before.appended + 1
    assert (after.written, after.dropped) == (after.appended, 0)


def test_the_home_holds_nothing_but_the_log(rig: Rig) -> None:
    assert {path.relative_to(rig.home).parts[0] for path in Path(rig.home).rglob("*")} <= {"log"}
