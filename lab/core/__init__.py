"""Values that every floor speaks in. Nothing here does I/O or imports another part of the lab."""
