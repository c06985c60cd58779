"""Attention maps: attention rollout of fp32 and of its quantized copy on the same picture."""
