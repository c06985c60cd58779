"""Measured values for people: tables in the terminal, and one HTML page with plots.

Needs no torch and no onnx, so that a device can report on itself. `terminal` needs rich, which is
always there; `html` needs the extra ``report``.
"""
