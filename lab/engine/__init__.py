"""Joins pool and proxy, owns the desired state, and serves it to every face: commands in, snapshots and events out."""
