"""What people do with the platform from end to end, with its public API alone. Each runs by `python -m
examples.journeys.NAME`, and in the tests."""
