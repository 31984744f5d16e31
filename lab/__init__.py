"""cgilab: run, break and rebuild the way the web is served. Holds the version and imports nothing."""

__version__ = "0.1.0"
