"""Searches for better models. `space` (in `mlplat.model`) says what may be chosen, `strategy` chooses, `study` is the record,
`engine` decides from it what comes next and what is given up, `running` is one trial; `here` and `_ray` run them; `search` is the
whole."""

from __future__ import annotations

from mlplat.train.search.rungs import Rungs
from mlplat.train.search.running import GiveWay, Running
from mlplat.train.search.search import Search
from mlplat.train.search.strategy import Evolution, Grid, Random, Strategy, Tpe
from mlplat.train.search.trial import Trial

__all__ = ["Evolution", "GiveWay", "Grid", "Random", "Rungs", "Running", "Search", "Strategy", "Tpe", "Trial"]
