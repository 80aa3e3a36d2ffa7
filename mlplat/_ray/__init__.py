"""Where mlplat touches Ray as a whole: starting or joining a cluster, and leaving nothing behind."""
