"""Bytes to messages and back. No policy, and no sockets but that of a probe."""
