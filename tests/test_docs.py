"""Everything printed runs: the Python blocks of each page of docs/, in order, in one namespace, and the README's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import redis_server
from tests.postgres_server import PostgresServer

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = sorted(path for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")] if BLOCK.search(path.read_text()))


def run_page(page: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)
    text = page.read_text()
    names: dict[str, object] = {"__name__": f"page_{page.stem.replace('-', '_')}"}
    for match in BLOCK.finditer(text):
        line = text[: match.start()].count("\n") + 1
        # A view's version is made of its source text: each block is a file that can be read.
        file = folder / f"{page.stem}_{line}.py"
        file.write_text("\n" * line + match[1])
        exec(compile(file.read_text(), str(file), "exec"), names)


def stop_serving() -> None:
    from ray import serve  # not before the cluster runs: it reads its settings at import
    from ray.serve.context import _get_global_client

    if _get_global_client(raise_if_no_controller_running=False) is not None:
        serve.delete("mlplat")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_the_page_runs(
    page: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if "redis-server" in page.read_text():
        redis_server.require()
    if "MLPLAT_METADATA" in page.read_text():
        server: PostgresServer = request.getfixturevalue("postgres_server")
        monkeypatch.setenv("MLPLAT_METADATA", server.create(page.stem))
    try:
        run_page(page, monkeypatch, tmp_path)
    finally:  # pages serve, and the shared cluster serves one home at a time
        stop_serving()


def test_every_link_of_the_docs_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
