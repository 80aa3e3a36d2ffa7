"""What work asks of a cluster."""
