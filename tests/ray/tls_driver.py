"""`python -m tests.ray.tls_driver FOLDER`: a driver with a cluster of its own whose endpoint listens everywhere and speaks TLS,
with FOLDER/both.pem. Prints as JSON how callers fare, before and after the proxy is killed."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import httpx

import mlplat
from mlplat.errors import MlplatError
from mlplat.model import mlp
from mlplat.serve.endpoint import alive
from mlplat.serve.listen import Listen
from mlplat.train.progress import Silent
from tests.ray.killing_driver import PATIENCE_S, ROW, SETTINGS, kill, labels

NAME = "models.example.com"


def status(url: str, token: str | None, verify: ssl.SSLContext) -> int | str:
    """Of a caller on another machine, who knows this one by its name."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        with httpx.Client(verify=verify, trust_env=False, headers=headers) as client:
            body: dict[str, Any] = {"json": {"rows": [ROW]}, "extensions": {"sni_hostname": NAME}}
            return client.post(f"{url}/predict/late", **body).status_code
    except httpx.HTTPError as error:
        return type(error).__name__


def by_curl(folder: Path, url: str, token: str) -> str:
    """Version of HTTP and status, of a caller that would rather speak HTTP/2."""
    port = url.rpartition(":")[2]
    words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--http2"]
    words += ["--cacert", str(folder / "ca.pem"), "--resolve", f"{NAME}:{port}:127.0.0.1"]
    words += ["-H", f"authorization: Bearer {token}", "-H", "content-type: application/json"]
    words += ["-d", json.dumps({"rows": [ROW]}), f"https://{NAME}:{port}/predict/late"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def refusal(folder: Path, tls: Path | None, host: str) -> str:
    try:
        with mlplat.connect(folder / "home", tls=tls, host=host) as other:
            other.serve("late")
    except MlplatError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    pem = folder / "both.pem"
    with mlplat.connect(folder / "home", host="0.0.0.0", tls=pem) as platform:
        data = platform.features.training_set("late", labels(), [], label="late", time="at")
        platform.promote(platform.train(mlp((4,)), data, settings=SETTINGS, progress=Silent()), force=("a", "test"))
        token = platform.create_token("late")
        endpoint = platform.serve("late")
        url = endpoint.url
        known, stranger = ssl.create_default_context(cafile=str(folder / "ca.pem")), ssl.create_default_context()
        told: dict[str, Any] = {"url": url, "known": [status(url, token, known)]}
        told["http2"] = by_curl(folder, url, token)
        told["strange"] = status(url, token, stranger)
        told["no token"] = status(url, None, known)
        told["plain"] = status(url.replace("https", "http"), token, known)
        with mlplat.Endpoint(name="late", url=url, token=token, verify=Listen(tls=str(pem)).trust()) as here:
            told["here"] = len(here.predict([ROW]))
        kill("haproxy")
        deadline = monotonic() + PATIENCE_S
        while alive(url) and monotonic() < deadline:  # until it is gone
            pass
        while not alive(url) and monotonic() < deadline:  # and there again
            pass
        told["known"].append(status(url, token, known))
        told["refused"] = [refusal(folder, None, "0.0.0.0"), refusal(folder, pem, "127.0.0.1")]
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
