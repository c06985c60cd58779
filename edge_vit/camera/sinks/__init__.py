"""Sinks, which predictions go to: one file each, opened by their address in `addresses`."""
