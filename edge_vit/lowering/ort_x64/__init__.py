"""The INT8 graph in ONNX Runtime's own operators, for x86 processors with VNNI."""
