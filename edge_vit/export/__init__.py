"""A trained model in, the canonical fp32 ONNX graph out: sources, trace, canonical form, parity."""
