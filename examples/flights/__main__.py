"""From raw events to a live, verified endpoint: `python -m examples.flights [--quick] [--home DIR] [--json FILE] [--keep]`."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from datetime import timedelta
from pathlib import Path

import mlplat
from examples.flights import data, features
from examples.flights.figures import Figures
from examples.flights.replay import replay
from mlplat.errors import Refused
from mlplat.model import mlp
from mlplat.train import TrainSettings

NAME = "late"


def main() -> None:
    args = arguments()
    home = args.home or Path(tempfile.mkdtemp(prefix="mlplat-flights-"))
    days = data.QUICK if args.quick else data.YEAR
    figures = Figures(home)
    with mlplat.connect(home) as platform, figures.peak_memory():
        with figures.stage("ingest", f"history from {days.start:%d %B} to {days.live:%d %B}"):
            flights = data.load().between(days.start, days.end)
            ingest(platform, flights.between(days.start, days.live))
            platform.features.apply(*features.views)

        with figures.stage("features", "what was known of each flight at its scheduled departure"):
            known = flights.between(days.start, days.live)
            labels = known.schedule.drop_nulls("late").join(known.arrivals, on="flight_id", how="semi")  # landed by now
            training = platform.features.training_set(
                NAME, labels, features.views, label="late", time="scheduled_at", request=features.request
            )

        with figures.stage("train", f"{training.rows:,} flights on {args.compute}"):
            train(platform, training, args, holdout=days.holdout)

        with figures.stage("serve"):
            endpoint = platform.serve(NAME)

        with figures.stage("replay", f"{days.live:%d} to {days.replayed:%d %B} through the endpoint, in order of time"):
            week = flights.between(days.live, days.replayed)
            figures.add(replay(platform, endpoint, week))

        with figures.stage("parity", "the same flights in batch, from tables that got their events only by push"):
            parity = platform.parity(NAME)
            figures.add({"parity_features": parity.differing, "parity_max_abs_diff": parity.max_abs_diff})

        with figures.stage("quality", f"every flight from {days.live:%d %B} on, {(days.end - days.live).days} days"):
            ingest(platform, flights.between(days.live, days.end))
            unseen = flights.between(days.live, days.end).schedule.drop_nulls("late")
            figures.add(platform.evaluate(NAME, unseen, label="late", time="scheduled_at"))

        figures.close(
            platform, endpoint, example=flights.schedule.drop_nulls("tailnum").row(-1, named=True), json=args.json
        )
        if args.keep:
            platform.keep()


def ingest(platform: mlplat.Platform, flights: data.Flights) -> None:
    """Events that are there already, by their id, are not added again."""
    for source, events in (
        (features.departures, flights.departures),
        (features.arrivals, flights.arrivals),
        (features.weather, flights.weather),
    ):
        done = platform.features.ingest(source, events)
        print(f"  {done.source}: {done.added:,} events added, {done.duplicates:,} were there")


def train(platform: mlplat.Platform, training: mlplat.TrainingSet, args: Namespace, *, holdout: timedelta) -> None:
    """Train a network, and let the promoter decide. A home that has its gold model keeps it."""
    try:
        gold = platform.gold(NAME)
    except mlplat.errors.MlplatError:
        settings = TrainSettings(
            epochs=6, learning_rate=1e-3, batch_size=1024, holdout_s=holdout.total_seconds(), seed=args.seed
        )
        model = platform.train(mlp((128, 64), dropout=0.1), training, compute=args.compute, settings=settings)
        promotion = platform.promote(model, to=NAME)
        print(f"  {promotion.decision.reason}")
        if "gold" not in promotion.aliases:
            raise Refused(f"the promoter holds: {promotion.decision.reason}") from None
    else:
        print(f"  version {gold.version} is gold here already")


def arguments() -> Namespace:
    parser = ArgumentParser(prog="python -m examples.flights", description=__doc__)
    parser.add_argument("--home", type=Path, help="where everything is kept (default: a new temporary folder)")
    parser.add_argument("--compute", default="cpu:2", help='what to train on, such as "gpu:1" (default: %(default)s)')
    parser.add_argument("--quick", action="store_true", help="two weeks instead of the year")
    parser.add_argument("--keep", action="store_true", help="leave the endpoint up until Ctrl-C")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
