"""What the benchmarks of serving measure, a module for each part of the request path."""
