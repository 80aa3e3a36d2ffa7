"""Ways to a better model that are searches underneath: of a deployed one's settings, of architectures and then their settings,
and of a few kinds of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlplat.errors import InvalidInput
from mlplat.features.training_set import TrainingSet
from mlplat.metadata.port import ModelVersion
from mlplat.model.space import Domain, choice, domains, fill, made
from mlplat.models import Models
from mlplat.searches import Searches
from mlplat.train.reproduce import Record, science_of
from mlplat.train.science import Science
from mlplat.train.search.ranking import ranked
from mlplat.train.search.search import Search
from mlplat.train.search.trial import Trial
from mlplat.train.search.zoo import zoo
from mlplat.train.settings import TaskKind, TrainSettings

if TYPE_CHECKING:
    from mlplat.train import TrainedModel

_SETTINGS = {field.name for field in fields(TrainSettings)}


class Improving(Searches, Models):
    """A part of `Platform`."""

    def tune(
        self,
        model: TrainedModel | ModelVersion | str,
        *,
        trials: int = 20,
        name: str | None = None,
        data: TrainingSet | None = None,
        science: Science | None = None,
        options: Mapping[str, Any] | None = None,
        **places: Any,
    ) -> Search:
        """Search for better settings of a model that is registered, deployed or not: `platform.tune("late",
        learning_rate=space.number(1e-4, 1e-1, log=True))`. A name is that of its version in production, if it has one.

        `places` are settings of its training, or parameters of its estimator; all else stays as its record says, and the first
        trial is the model as it is. `data` is a newer training set of the same name (default: its own), `science` your own
        code, where it was made with some, `options` what `search` takes besides.
        """
        version = self.version(model)
        recorded = Record.of(version, metadata=self.metadata, home=self.home)
        run = self.metadata.run(version.run_id)["tags"]
        own = science_of(recorded, science, run.get("git_commit"))
        space, first = _around(own, recorded.settings, places)
        return self.search(
            space,
            data or recorded.data,
            trials=trials,
            name=name or f"{version.name}-{version.version}-{'-'.join(sorted(places))}"[:100],
            settings=recorded.settings,
            loss=own.loss,
            metrics=own.metrics,
            optimizer=own.optimizer,
            first=[first],
            tags={"tunes": f"{version.name}@{version.version}"},
            **{"compute": recorded.demand.to_json() if recorded.demand.count else "cpu:0", **(options or {})},
        )

    def discover(
        self,
        architectures: Any,
        hyperparameters: Mapping[str, Any],
        data: TrainingSet,
        *,
        trials: tuple[int, int] = (40, 20),
        top: int = 3,
        epochs: int = 2,
        name: str | None = None,
        settings: TrainSettings | None = None,
        **options: Any,
    ) -> Search:
        """Search for an architecture, and then for its settings: `trials[0]` trainings of `architectures` for `epochs` each, the
        `top` of which, as they are, go on to a search of `trials[1]` trainings by `settings`, with `hyperparameters`.

        The second search is what comes back; its record names the first, and its place "network" is the number of a trial
        there. `options` are those of `search`, for both.
        """
        name, whole = name or data.name, settings or TrainSettings()
        short = replace(whole, epochs=min(epochs, whole.epochs))
        found = self.search(
            {"network": architectures},
            data,
            name=f"{name}-architectures",
            trials=trials[0],
            settings=short,
            **{**options, "keep": 0},
        )
        best = ranked(found.trials, found.goals)[:top]
        if not best:
            _ = found.best  # says why
        candidates = {
            f"trial {one.number}": fill({"network": architectures}, partial(_chosen, one))["network"] for one in best
        }
        return self.search(
            {"network": choice(**candidates), **hyperparameters},
            data,
            name=f"{name}-tuned",
            trials=trials[1],
            settings=whole,
            first=[{"network": label} for label in candidates],
            tags={"architectures": found.name},
            **options,
        )

    def automl(
        self,
        data: TrainingSet | Any,
        label: str | None = None,
        *,
        time: str | None = None,
        name: str | None = None,
        trials: int = 40,
        task: TaskKind = "binary",
        settings: TrainSettings | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Search:
        """Try a few kinds of models, each with its settings: a network, linear models, forests, and boosted trees of whichever
        library is installed. `data` is a training set; or a table (polars, pandas, Arrow, or a file's path) with a `label`, and a
        column `time` by which the latest rows are held out. Each kind is tried once before any is tried again."""
        if not isinstance(data, TrainingSet):
            if label is None or time is None or name is None:
                raise InvalidInput("automl: of a table give label=, time= and name=")
            data = self.features.training_set(name, data, [], label=label, time=time)
        chosen = settings or TrainSettings(task=task)
        kinds = zoo(chosen.task, seed)
        return self.search(
            choice(name="kind", **kinds),
            data,
            name=name or f"{data.name}-automl",
            trials=trials,
            settings=chosen,
            first=[{"kind": kind} for kind in kinds],
            seed=seed,
            **options,
        )


def _around(own: Science, settings: TrainSettings, places: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The space, and what of it the model has now."""
    if not places:
        raise InvalidInput("tune: name what to search, as in learning_rate=space.number(1e-4, 1e-1, log=True)")
    estimator = own.estimator
    known = estimator.get_params() if callable(getattr(estimator, "get_params", None)) else {}
    mine = {name: place for name, place in places.items() if name in _SETTINGS}
    theirs = {name: place for name, place in places.items() if name in known and name not in mine}
    if unknown := places.keys() - mine.keys() - theirs.keys():
        raise InvalidInput(
            f"tune: {', '.join(sorted(unknown))}: there are {', '.join(sorted(_SETTINGS))}"
            + (f", and of {type(estimator).__name__} {', '.join(sorted(known))}" if known else "")
        )
    space = {"network": made(_with, estimator, **theirs) if theirs else own.network, **mine}
    now = {name: getattr(settings, name) for name in mine} | {f"network.{name}": known[name] for name in theirs}
    all_places = domains(space)
    return space, {name: value for name, value in now.items() if name in all_places and all_places[name].accepts(value)}


def _with(estimator: Any, **parameters: Any) -> Any:
    from sklearn.base import clone

    return clone(estimator).set_params(**parameters)


def _chosen(trial: Trial, place: str, domain: Domain) -> Any:
    return trial.params[place]
