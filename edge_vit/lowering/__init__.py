"""Canonical graph and calibration table -> the graph of one variant, and its emulation."""
