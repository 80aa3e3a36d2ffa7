"""The YAML of a cluster: what is wrong in it is said with the place, and by `mlplat cluster check` with the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mlplat.cluster.check import checked
from mlplat.cluster.spec import Budget, parse, problems
from mlplat.errors import InvalidInput, NotFound
from mlplat.testing.lab import config


def at(config: Any, path: str) -> tuple[Any, str]:
    *inner, last = path.split("/")
    for part in inner:
        config = config[int(part) if isinstance(config, list) else part]
    return config, last


def test_a_whole_one_says_what_there_is() -> None:
    spec = parse(config(per_day=100, gpus=16))
    assert spec.budget == Budget(per_day=100, gpus=16)
    own, bought = spec.types["onprem.gpu"], spec.types["cloud.gpu"]
    assert (own.hosts, own.offers, own.gpus) == (("h1", "h2"), (), 4)
    assert [offer.price for offer in bought.offers] == [1.0, 1.2, 4.0]
    assert spec.head == "head"


def test_it_says_what_data_cost_and_what_a_machine_does_by_the_first_of_its_offers() -> None:
    given = config()
    given["provider"]["egress"] = {"onprem": 0, "fra": 0.09}
    given["available_node_types"]["cloud.gpu"]["labels"]["region"] = "fra"
    cloud = parse(given).cloud
    assert cloud.egress == {"onprem": 0, "fra": 0.09}
    assert [(kind.name, kind.price) for kind in cloud.kinds] == [("cloud.gpu", 1.0)]
    assert parse(config()).cloud.egress == {}


EMPTY = object()
"""A key without a value."""

WRONG = {
    "cluster_name": (None, "the file: cluster_name is missing"),
    "worker_setup_commands": (None, "the file: worker_setup_commands is missing"),
    "provider/type": ("aws", "provider: must have type: external and module: mlplat.cluster.Provider"),
    "provider/ledger": (None, "provider: ledger is missing"),
    "provider/budget/per_day": (-1, "provider.budget.per_day: is -1, and must be a number from 0"),
    "provider/budget/per_week": (1, "provider.budget.per_week: is not known"),
    "provider/budget/nodes": (1.5, "provider.budget.nodes: is 1.5, and must be a whole number from 0"),
    "upscaling_speed": (0, "upscaling_speed: is 0, or missing"),
    "idle_timeout_minutes": (None, "available_node_types.cloud.gpu: idle_timeout_s is missing"),
    "head_node_type": ("hed", "head_node_type: 'hed' is none of head, onprem.gpu, cloud.gpu"),
    "available_node_types/head/max_workers": (1, "available_node_types.head.max_workers: must be 0"),
    "available_node_types/cloud.gpu/min_workers": (
        11,
        "available_node_types.cloud.gpu.min_workers: is 11, more than max_workers, 10",
    ),
    "available_node_types/cloud.gpu/labels": ({}, "available_node_types.cloud.gpu: labels must have site: cloud"),
    "available_node_types/cloud.gpu/max_workers": (None, "available_node_types.cloud.gpu: max_workers is missing"),
    "available_node_types/onprem.gpu/max_workers": (
        3,
        "available_node_types.onprem.gpu.max_workers: is 3, and there are 2",
    ),
    "available_node_types/onprem.gpu/node_config": ({}, "available_node_types.onprem.gpu.node_config: must have hosts"),
    "available_node_types/onprem.gpu/node_config/hosts": (["h1", "h1"], "hosts: names a host twice"),
    "available_node_types/cloud.gpu/node_config/offers": ([], "offers: must be a list of one or more"),
    "available_node_types/cloud.gpu/node_config/offers/1/site": (
        "mars",
        "offers.1: site 'mars' is none of provider.sites: cloud",
    ),
    "available_node_types/cloud.gpu/node_config/offers/1/price": (None, "offers.1: price (per hour) is missing"),
    "available_node_types/cloud.gpu/node_config/offers/1/prise": (1, "offers.1.prise: is not known"),
    "provider/egress": ([0.09], "provider.egress: must be a mapping: what a GB costs that leaves a place"),
    "provider/egress/fra": (-0.1, "provider.egress.fra: is -0.1, and must be a number from 0"),
    "provider/egress/ohio": ("dear", "provider.egress.ohio: is 'dear', and must be a number from 0"),
    "provider/egress/onprem": (EMPTY, "provider.egress.onprem: must be the name of a place with what a GB costs"),
    "available_node_types/cloud.gpu/labels/region": (
        "fra ",
        "available_node_types.cloud.gpu.labels.region: 'fra ' is none of provider.egress: onprem, fra",
    ),
    "available_node_types/cloud.gpu/resources": (None, "available_node_types.cloud.gpu: resources is missing"),
    "available_node_types/cloud.gpu/idle_timeout_s": ("2m", "idle_timeout_s: is '2m', and must be a number from 0"),
}


@pytest.mark.parametrize("path", WRONG)
def test_what_is_wrong_is_said_with_its_place(path: str) -> None:
    given, (value, said) = config(), WRONG[path]
    given["provider"]["egress"] = {"onprem": 0.0, "fra": 0.09}
    inner, last = at(given, path)
    if value is None:
        del inner[last]
    else:
        inner[last] = None if value is EMPTY else value
    with pytest.raises(InvalidInput) as raised:
        parse(given)
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1 or path == "head_node_type"  # then the head is taken for a worker


def test_a_limit_below_what_runs_would_kill_work() -> None:
    found = problems(config(), running={"onprem.gpu": 2, "cloud.gpu": 11})
    assert [str(problem).partition(" run")[0] for problem in found] == [
        "available_node_types.cloud.gpu.max_workers: is 10, and 11",
        "max_workers: is 12, and 13",
    ]


def test_a_file_is_checked_by_its_lines(tmp_path: Path) -> None:
    file, given = tmp_path / "lab.yaml", config()
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    assert checked(file) == parse(given)
    given["available_node_types"]["cloud.gpu"]["node_config"]["offers"][2]["price"] = -4
    given["provider"]["budget"] = {"per_day": "much"}
    text = yaml.safe_dump(given, sort_keys=False)
    file.write_text(text)
    with pytest.raises(InvalidInput) as raised:
        checked(file)
    for line, said in zip(str(raised.value).splitlines(), ("per_day: much", "price: -4"), strict=True):
        number = int(line.removeprefix(f"{file}:").partition(":")[0])
        assert said in text.splitlines()[number - 1]


def test_what_is_no_yaml_is_said_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text("cluster_name: lab\nprovider: {type: external\nmax_workers: 3\n")
    with pytest.raises(InvalidInput, match=r"lab\.yaml:3: is not YAML"):
        checked(file)
    file.write_text("- lab\n")
    with pytest.raises(InvalidInput, match="is not a YAML mapping"):
        checked(file)
    with pytest.raises(NotFound, match="there is no file"):
        checked(tmp_path / "none.yaml")
