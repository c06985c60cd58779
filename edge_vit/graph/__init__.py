"""What is known about an ONNX Vision Transformer: blocks, linear layers, inner tensors."""
