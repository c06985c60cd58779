"""What is a model worth? Accuracy against its fp32 reference, latency, and the verdict on both."""
