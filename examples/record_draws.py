"""Record logits and the tokens drawn from them. Copy this file beside your model: Python 3.9, torch and NumPy.

recorder = Recorder()
tokens = your_sampler(logits)         # (..., vocab) -> (...)
recorder.record(logits, tokens)       # the logits that the sampler was given, temperature and masks included
recorder.save("draws.npz")            # then: precision-lab audit draws.npz --logits draws.npz
"""

import numpy as np
import torch


class Recorder:
    def __init__(self):
        self.logits, self.tokens = [], []

    def record(self, logits, tokens):
        rows = logits.detach().cpu()
        rows = rows if rows.dtype == torch.float64 else rows.float()  # of half precision: the very values
        self.logits.append(rows.reshape(-1, rows.shape[-1]).numpy().copy())
        self.tokens.append(tokens.detach().cpu().reshape(-1).numpy().astype(np.int64))

    def save(self, path):
        np.savez(path, logits=np.concatenate(self.logits), tokens=np.concatenate(self.tokens))
