"""Running sources: reading them in threads, estimating their frames together, and following their people."""
