"""Operators launch a cluster from its YAML; data scientists only use Python.

The operator checks `clusters/onprem.yaml` and starts it (rehearsed here: its servers and workstations are folders of this
machine), and hands on three words: an address, a file with the key, and where the home is. With these a data scientist sends
`k15_scientist.py` from a machine that is none of the cluster.

    python -m examples.journeys.k15_ops_launches
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from mlplat.cluster.rehearsal import rehearsal

HERE = Path(__file__).parent
FILE = HERE.parents[1] / "clusters" / "onprem.yaml"


def main(folder: Path) -> None:
    mlplat("cluster", "check", str(FILE))
    with rehearsal(FILE, folder) as cluster:
        cluster_words = ["--address", cluster.dashboard, "--token", str(cluster.token)]
        mlplat("submit", *cluster_words, "--home", str(folder / "home"), "--working-dir", str(HERE), "k15_scientist.py")


def mlplat(*words: str) -> None:
    """As from a shell."""
    print("$ mlplat", *words, flush=True)
    subprocess.run([sys.executable, "-m", "mlplat.cli.main", *words], check=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="k15-", dir="/tmp") as folder:
        main(Path(folder))
