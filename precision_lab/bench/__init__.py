"""Cost beside fidelity: samplers on the same logits, in turn, as ratios within one run.

``rivals``: what is compared, as data. ``timing``: paired rounds, ratios with intervals, peak memory.
``grid``: a cell of vocabulary and batch, a law of a row, and the table of both. ``choose``: the decision
table of one use on this machine. ``laws``: what exact laws cost. ``h100``: times recorded on an H100.
"""
