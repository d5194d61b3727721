"""What an output distribution is. float64, no randomness, no sampler."""
