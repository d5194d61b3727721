"""Does a network that is not told the time lose anything? And one trained with other weights of the number of masks?

Prop. 3.2 of arXiv:2409.02908: the optimal predictor does not depend on the time, and any positive weights w_n have the same
optimum (both exactly on an enumerable law, in the tests; here after a finite training of finite networks). On real text, a
seed has the same initial function, batches and masks in all: "timed" is told the masked share, the most that a time can tell;
"told nothing" always hears 1/2, which leaves the clock's weights; "few masks" is time-free, with w_n = 2 (L + 1 - n) / (L + 1).
Measured by the bound on the same held-out windows and masks: blocks of L windows, in which every n from 1 to L occurs once.
Declared: nothing is lost if the 95 % interval (Student, one difference a seed) ends below 0.02 nats a token.
Size and steps of the long run are from a pilot with another seed: larger networks learn too little in our hours.
Cost: four minutes of one core a training, 15 of them; quick trains tiny networks for seconds and shows the long run.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from precision_lab import figures
from precision_lab.files import read_json
from precision_lab.mdm import baselines, corpus
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.mdm.fetch import cache_dir
from precision_lab.mdm.loss import mask_counts, masked_cross_entropy, random_subset
from precision_lab.mdm.trainer import TrainConfig, Trainer
from precision_lab.result import estimates_table, with_long_run
from precision_lab.statistics import Estimate, mean
from precision_lab.study import Study

ROOT = Path(__file__).parent.parent
KINDS, BANDS = ("time-free", "timed", "told nothing", "few masks"), 8
MARGIN, LEARNED = 0.02, 0.5  # nats a token: what counts as nothing lost; below the unigram, as something learned
HELD_OUT = "held-out windows of models/mdm"
SETTINGS = ["text", "vocab", "layers", "width", "length", "batch", "steps", "blocks"]
SIZES = {  # profile -> kinds, seeds, settings
    "smoke": (2, 2, (HELD_OUT, 8192, 1, 64, 16, 8, 3, 2)),
    "quick": (4, 2, (HELD_OUT, 8192, 1, 64, 16, 16, 40, 16)),
    "full": (3, 5, ("chitchat,wikipedia", 1024, 2, 128, 64, 32, 3000, 60)),
}


def cells(profile):
    kinds, seeds, settings = SIZES[profile]
    weights = read_json(ROOT / "models" / "mdm" / "manifest.json")["validation_sha256"][:12]
    fixed = dict(zip(SETTINGS, settings, strict=True)) | {"weights": weights if settings[0] == HELD_OUT else "-"}
    return [{"kind": kind, "seed": seed} | fixed for seed in range(seeds) for kind in KINDS[:kinds]]


@cache
def text(name, vocab):
    """Corpus and its unigram and trigram, nats per token."""
    if name == HELD_OUT:
        ids = np.load(ROOT / "models" / "mdm" / "validation.npy", allow_pickle=False)
        found = corpus.Corpus(ids[:300].ravel(), ids[300:].ravel(), {})
    else:
        found = corpus.load(cache_dir() / "time_agnostic" / f"tokenizer_{vocab}.json", vocab, sources=name.split(","))
    grams = {"unigram": baselines.unigram_cross_entropy, "trigram": baselines.trigram_cross_entropy}
    return found, {name: of(found.train, found.validation, vocab) for name, of in grams.items()}


def measure(cell, rng):
    found, grams = text(cell["text"], cell["vocab"])
    plain = DenoiserConfig(cell["vocab"], cell["layers"], cell["width"] // 64, cell["width"])
    n = np.arange(1, cell["length"] + 1)
    few = tuple(2 - 2 * n / (cell["length"] + 1)) if cell["kind"] == "few masks" else None
    timed = cell["kind"] in ("timed", "told nothing")
    config = TrainConfig(replace(plain, timed=timed), cell["steps"], cell["batch"], cell["length"], seed=1000 + cell["seed"],
                         warmup=20, mask_weights=few)  # fmt: skip
    trainer = Trainer(config, found, ROOT)
    with torch.random.fork_rng():  # the time-free network of this seed; a new clock adds 0 to it
        torch.manual_seed(config.seed)
        start = {name: value for name, value in Denoiser(plain).state_dict().items() if name != "bias"}
    for network in (trainer.model, trainer.average):
        network.load_state_dict(start, strict=False)
        if cell["kind"] == "told nothing":
            network.hidden = lambda tokens, t=None, of=network: Denoiser.hidden(
                of, tokens, torch.full((len(tokens),), 0.5)
            )
    while trainer.step < config.steps:
        trainer.advance()
    return [cell | grams | row for row in held_out(trainer.average, found.validation, cell["length"], cell["blocks"])]


def held_out(network, tokens, length, blocks):
    """Bound of each block, mean over its windows, and by bands of the masked share; the same masks for every network."""
    rng = torch.Generator().manual_seed(1)
    windows = torch.from_numpy(corpus.windows(tokens, length))
    rows = []
    for block, chosen in enumerate(torch.randperm(len(windows), generator=rng)[: blocks * length].view(blocks, length)):
        n = mask_counts(length, length, rng=rng)  # stratified: 1 to L, each once
        with torch.no_grad():
            losses = masked_cross_entropy(network, windows[chosen], random_subset(n, length, rng=rng)).double().numpy()
        bands = losses[n.argsort().numpy()].reshape(BANDS, -1).mean(1)
        row = {"block": block, "bound": float(losses.mean())}
        rows.append(row | {f"band_{k}": float(x) for k, x in enumerate(bands)})
    return rows


def everything(frame):
    """The largest networks of this run and of the committed long one."""
    frame = with_long_run(frame, ROOT, "time_agnostic", ["kind", "seed", *SETTINGS, "weights", "block"])
    return frame[frame.steps == frame.steps.max()]


def differences(frame):
    """(kind, measure) -> Estimate of kind less time-free over seeds, each the mean over blocks of the same windows and masks."""
    seeds = frame.groupby(["kind", "seed"])[["bound", *(f"band_{k}" for k in range(BANDS))]].mean()
    return {
        (kind, what): mean(seeds.loc[kind, what] - seeds.loc["time-free", what])
        for kind in KINDS[1:]
        if kind in seeds.index
        for what in seeds
    }


def over_blocks(frame):
    """kind -> the difference of these very networks, seeds averaged, over blocks of windows."""
    blocks = frame.groupby(["kind", "block"]).bound.mean()
    return {kind: mean(blocks[kind] - blocks["time-free"]) for kind in KINDS[1:] if kind in blocks.index}


def levels(frame):
    """kind -> its bound, over seeds; the unigram and the trigram of the same text."""
    found = {kind: mean(part.groupby("seed").bound.mean()) for kind, part in frame.groupby("kind")}
    return found | {name: Estimate.exact(frame[name].iloc[0]) for name in ("unigram", "trigram")}


def summary(frame):
    frame = everything(frame)
    found = {(of, "nats a token"): e for of, e in levels(frame).items()}
    found |= {(f"{kind} less time-free", what): e for (kind, what), e in differences(frame).items()}
    found |= {(f"{kind} less time-free, these networks", "bound"): e for kind, e in over_blocks(frame).items()}
    each = frame.groupby(["kind", "seed"]).bound.mean()
    if set(KINDS[:3]) <= set(frame.kind):
        found["timed less told nothing", "bound"] = mean(each["timed"] - each["told nothing"])
    return estimates_table(found, ["of", "measure"])


def draw(frame):
    frame = everything(frame)
    found, bands, first = differences(frame), [f"band_{k}" for k in range(BANDS)], frame.iloc[0]
    figure, (left, right) = figures.canvas(2, width=4.4, height=3.5)
    for k, kind in enumerate([kind for kind in KINDS if kind in set(frame.kind)]):
        share = (np.arange(BANDS) + 0.5) / BANDS + 0.012 * (k - 1)
        seeds, style = frame[frame.kind == kind].groupby("seed")[bands].mean(), figures.series(k)
        left.plot(share, seeds.mean(), label=f"{kind} ({len(seeds)} seeds)", ls=("-", "--", ":", "-.")[k], **style)
        if k:
            e = [found[kind, band] for band in bands]
            figures.estimates(right, share, e, label=f"{kind} less time-free", index=k, line="-")
    left.axhline(first.unigram, color="black", lw=0.9, ls="-.", label="unigram")
    left.axhline(first.trigram, color="black", lw=0.9, ls=":", label="trigram, left to right")
    right.axhline(0, color="black", lw=0.8)
    for axes, title in ((left, "Held-out cross-entropy"), (right, "Difference (95 %, Student over seeds)")):
        axes.set(xlabel="share of the window that is masked", ylabel="nats per masked token", title=title)
        axes.legend(fontsize=7)
    return figure


def verdict(frame):
    frame = everything(frame)
    first, of = frame.iloc[0], ", ".join(f"{name} {e.text()} (n = {e.n})" for name, e in levels(frame).items())
    text = [f"Nats per token after {first.steps} steps of {first.batch} x {first.length}, over seeds: {of}"]
    for kind, windows in over_blocks(frame).items():
        e = differences(frame)[kind, "bound"]
        answer = "reproduced, time-free loses nothing" if -e.low < MARGIN else f"not decided at {MARGIN}"
        answer = f"different, time-free is worse by at most {-e.low:.3f}" if e.high < 0 else answer
        if frame.bound.mean() > first.unigram - LEARNED:
            answer = "nothing learned, no answer"
        text.append(f"{kind} less time-free {e.text(4)}, of these networks over windows {windows.text(4)}: {answer}")
    for r in summary(frame).query("of == 'timed less told nothing'").itertuples():
        text.append(f"What the time says, timed less told nothing: {r.value:.4f} [{r.low:.4f}, {r.high:.4f}]")
    return ". ".join(text) + "."


QUESTION = "Does a network that is not told the time lose anything?"
STUDY = Study("time_agnostic", QUESTION, cells, measure, draw, verdict, summary=summary)
