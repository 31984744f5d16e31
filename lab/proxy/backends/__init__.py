"""One file or folder a proxy backend."""
