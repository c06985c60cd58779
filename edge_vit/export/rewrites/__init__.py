"""Rewrites of an ONNX graph, each exact up to float32 rounding, that lead to the canonical form."""
