"""What `python -m benchmarks.training` measures, a module for each kind of row."""
