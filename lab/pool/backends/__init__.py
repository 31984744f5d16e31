"""One file a pool backend."""
