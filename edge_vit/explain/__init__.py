"""Where a model looks: attention rollout of fp32 and of its quantized copy on the same picture."""
