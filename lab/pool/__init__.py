"""Processes: started, probed, watched, stopped and started again. Knows nothing of requests or routes."""
