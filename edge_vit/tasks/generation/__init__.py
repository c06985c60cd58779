"""Diffusion models: a step of the loop from noise to an image, and decoders of latents."""
