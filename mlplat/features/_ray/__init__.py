"""What of the feature store runs on Ray: the actor pool of transforms."""
