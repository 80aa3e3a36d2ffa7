"""Trials on Ray: `tune` has Ray Tune run them, `warm` processes that stay, for those that take less than starting one does."""
