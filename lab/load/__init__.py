"""Load runs: what to run, and what its figures mean. The engine runs the process."""
