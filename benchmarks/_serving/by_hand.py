"""Apps put together by hand for comparison: the endpoint without some of its parts, and an echo. They run under Ray Serve
(`on_ray`) as the endpoint does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from mlplat.clock import SystemClock
from mlplat.features.online import FeatureReader, OnlineRows
from mlplat.features.reader import open_reader
from mlplat.model import FeatureRef, Field, InputEncoding, Model, Signature, mlp
from mlplat.model.build import build, read_weights
from mlplat.model.inputs import NumericInput
from mlplat.model.task import BINARY
from mlplat.serve import state
from mlplat.serve.answer import Answerer
from mlplat.serve.app import App
from mlplat.serve.backbone import Backbone
from mlplat.serve.http import Receive, Scope, Send, read_body, send_json
from mlplat.serve.load import load
from mlplat.serve.log import PredictionLog, Record
from mlplat.serve.routing import GOLD, Arm, RoutingTable
from mlplat.serve.served import Served, Version
from mlplat.serve.state import Member

Kind = Literal["echo", "whole", "no_log", "bare"]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
INPUTS = 13


def made(kind: Kind, home: Path, name: str) -> Asgi:
    """ "whole" is what the home serves under the name, "no_log" that without its log, and "bare" a model of the same size whose
    inputs all come with the request: no assignment, no features, no cache, no log."""
    return _below_its_prefix(_echo if kind == "echo" else _app(kind, home, name))


def bare(name: str) -> Served:
    names = [f"n{i}" for i in range(INPUTS)]
    numeric = tuple(NumericInput(name=n, dtype="float64", mean=0.0, scale=1.0, indicator=False) for n in names)
    encoding, network = InputEncoding(numeric=numeric, categorical=()), mlp((64, 32))
    request = tuple(Field(name=n, dtype="float64") for n in names)
    signature = Signature(entities=(), request=request, features=(), outputs=BINARY.fields())
    model = Model(
        network=network, weights=read_weights(build(network, encoding)), encoding=encoding, signature=signature
    )
    model.warm()
    table = RoutingTable(epoch=1, salt=name, arms=(Arm(name=GOLD, version=1, share=1.0),))
    return Served.of(name, table, [Version.of(1, model)])


BARE_BODY = (
    '{"rows":[{' + ",".join(f'"n{i}":0.%(number)09d' if i == 0 else f'"n{i}":0.{i}5' for i in range(INPUTS)) + "}]}"
)


class NoFeatures(FeatureReader):
    """All inputs come with the request."""

    def read(
        self,
        refs: Sequence[FeatureRef],
        keys: Mapping[str, Sequence[Any]],
        at_us: Sequence[int],
        keep: Collection[str] = (),
    ) -> OnlineRows:
        return OnlineRows(columns={}, status={})


class NoLog:
    def append(self, record: Record) -> None:
        pass


def _app(kind: Kind, home: Path, name: str) -> App:
    import torch

    torch.set_num_threads(1)
    clock = SystemClock()
    if kind == "bare":
        answerer = Answerer(reader=NoFeatures(), log=NoLog(), clock=clock, new_id=_new_id)  # type: ignore[arg-type]
        return App(answerer, {name: bare(name)})
    log: Any = NoLog() if kind == "no_log" else PredictionLog(home / "by_hand")
    answerer = Answerer(reader=open_reader(home, None), log=log, clock=clock, new_id=_new_id)
    entry = replace(state.read(home)[name], epoch=1)
    return App(answerer, {name: load(entry, _connect, clock)})


def _new_id() -> str:
    return uuid4().hex


def _connect(name: str, member: Member) -> Backbone:
    raise AssertionError(f"version {member.version} of {name} is to run in the process")


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send_json(send, 200, await read_body(scope, receive))
    elif scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return


def _below_its_prefix(app: Asgi) -> Asgi:
    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        if root := scope.get("root_path"):
            scope["path"] = scope["path"].removeprefix(root)
        await app(scope, receive, send)

    return below
