"""The parts of `benchmarks.features`: what each row measures, and the peers that it measures against."""
