"""Traffic: accepts requests, chooses an endpoint, relays, counts. Knows nothing of processes."""
