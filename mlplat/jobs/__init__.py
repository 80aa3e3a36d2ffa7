"""What work asks of a cluster, and who gets what of it."""
