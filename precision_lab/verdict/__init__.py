"""Pass, fail or inconclusive: a sampler, or a file of draws, judged by declared error rates."""
