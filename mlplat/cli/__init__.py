"""The `mlplat` command."""
