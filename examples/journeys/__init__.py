"""The journeys of the people who use mlplat, each a script of its public API that runs in seconds on a laptop."""
