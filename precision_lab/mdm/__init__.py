"""Masked diffusion models: the world in which a sampler's bias does harm."""
