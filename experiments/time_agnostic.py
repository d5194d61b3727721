"""Does a network that is not given the time lose anything? And one trained with other weights of the number
of masks?

Prop. 3.2 of arXiv:2409.02908: the optimal predictor does not depend on the time, and any positive weights
w_n have the same optimum (both exactly on an enumerable law, in the tests; here after a finite training of
finite networks). On real text, a seed has the same initial function, batches and masks in all: "timed" is
given the masked share, the most that a time can say; "told nothing" is always given 1/2, which leaves the
clock's weights; "few masks" is time-free, with w_n = 2 (L + 1 - n) / (L + 1). Measured by the bound on the
same held-out windows and masks: blocks of L windows, in which every n from 1 to L occurs once. Declared:
nothing is lost if the 95 % interval (Student, one difference a seed) ends below 0.02 nats a token. Size and
steps of the long run are from a pilot with another seed: larger networks learn too little in our hours.
Cost: four minutes of one core a training, 15 of them; quick trains tiny networks for seconds and shows
the long run.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from precision_lab import figures
from precision_lab.finding import Claim, Finding, number
from precision_lab.mdm import baselines, corpus
from precision_lab.mdm.denoiser import Denoiser, DenoiserConfig
from precision_lab.mdm.fetch import cache_dir
from precision_lab.mdm.loss import mask_counts, masked_cross_entropy, random_subset
from precision_lab.mdm.stored import StoredModel
from precision_lab.mdm.trainer import TrainConfig, Trainer
from precision_lab.result import estimates_table
from precision_lab.statistics import Estimate, mean
from precision_lab.study import Analysis, Study

ROOT = Path(__file__).parent.parent
MODEL = StoredModel(ROOT / "models" / "mdm")
KINDS = (TIME_FREE, TIMED, TOLD_NOTHING, FEW_MASKS) = ("time-free", "timed", "told nothing", "few masks")

# ---------------------------------------------------------------- grid

HELD_OUT = "held-out windows of models/mdm"
SETTINGS = ["text", "vocab", "layers", "width", "length", "batch", "steps", "blocks"]
GRID = {  # profile -> kinds, seeds, settings
    "smoke": (2, 2, (HELD_OUT, 8192, 1, 64, 16, 8, 3, 2)),
    "quick": (4, 2, (HELD_OUT, 8192, 1, 64, 16, 16, 12, 8)),
    "full": (3, 5, ("chitchat,wikipedia", 1024, 2, 128, 64, 32, 3000, 60)),
}


def cells(profile):
    kinds, seeds, settings = GRID[profile]
    settings = dict(zip(SETTINGS, settings, strict=True))
    weights = MODEL.identity(of="validation") if settings["text"] == HELD_OUT else "-"
    shared = settings | {"weights": weights}
    return [{"kind": kind, "seed": seed} | shared for seed in range(seeds) for kind in KINDS[:kinds]]


# ------------------------------------------------------------- measure

BANDS = 8  # of the masked share


def measure(cell, rng):
    found, grams = text(cell["text"], cell["vocab"])
    network = trained(cell, found)
    return [cell | grams | row for row in held_out(network, found.validation, cell["length"], cell["blocks"])]


@cache
def text(name, vocab):
    """Corpus and its unigram and trigram, nats per token."""
    if name == HELD_OUT:
        ids = np.load(MODEL.folder / "validation.npy", allow_pickle=False)
        found = corpus.Corpus(ids[:300].ravel(), ids[300:].ravel(), {})
    else:
        tokenizer = cache_dir() / "time_agnostic" / f"tokenizer_{vocab}.json"
        found = corpus.load(tokenizer, vocab, sources=name.split(","))
    return found, {
        "unigram": baselines.unigram_cross_entropy(found.train, found.validation, vocab),
        "trigram": baselines.trigram_cross_entropy(found.train, found.validation, vocab),
    }


def trained(cell, found):
    """The average network of a training that starts from the time-free network of this seed."""
    kind, length = cell["kind"], cell["length"]
    plain = DenoiserConfig(cell["vocab"], cell["layers"], cell["width"] // 64, cell["width"])
    n = np.arange(1, length + 1)
    config = TrainConfig(
        replace(plain, timed=kind in (TIMED, TOLD_NOTHING)),
        cell["steps"],
        cell["batch"],
        length,
        seed=1000 + cell["seed"],
        warmup=20,
        mask_weights=tuple(2 - 2 * n / (length + 1)) if kind == FEW_MASKS else None,
    )
    trainer = Trainer(config, found, ROOT)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        start = {name: value for name, value in Denoiser(plain).state_dict().items() if name != "bias"}
    for network in (trainer.model, trainer.average):
        network.load_state_dict(start, strict=False)  # a new clock adds 0 to it
        if kind == TOLD_NOTHING:
            stop_the_clock(network)
    while trainer.step < config.steps:
        trainer.advance()
    return trainer.average


def stop_the_clock(network):
    """Whatever time it is given, the network reads 1/2."""

    def hidden(tokens, t=None):
        return Denoiser.hidden(network, tokens, torch.full((len(tokens),), 0.5))

    network.hidden = hidden


def held_out(network, tokens, length, blocks):
    """Bound of each block, mean over its windows, and by bands of the masked share; the same masks for
    every network."""
    rng = torch.Generator().manual_seed(1)
    windows = torch.from_numpy(corpus.windows(tokens, length))
    order = torch.randperm(len(windows), generator=rng)
    rows = []
    for block, chosen in enumerate(order[: blocks * length].view(blocks, length)):
        n = mask_counts(length, length, rng=rng)  # stratified: 1 to L, each once
        masks = random_subset(n, length, rng=rng)
        with torch.no_grad():
            losses = masked_cross_entropy(network, windows[chosen], masks).double().numpy()
        bands = losses[n.argsort().numpy()].reshape(BANDS, -1).mean(1)
        row = {"block": block, "bound": float(losses.mean())}
        rows.append(row | {f"band_{k}": float(x) for k, x in enumerate(bands)})
    return rows


# ------------------------------------------------------------- analyse

MARGIN = 0.02  # nats a token: what counts as nothing lost
LEARNED = 0.5  # nats a token below the unigram: what counts as something learned
MEASURES = ["bound", *(f"band_{k}" for k in range(BANDS))]


def analyse(rows):
    rows = of_longest_training(rows)
    first = rows.iloc[0]
    findings, notes = [], [levels_text(rows)]
    for kind in others(rows):
        if rows.bound.mean() > first.unigram - LEARNED:
            notes.append(f"{TIME_FREE} less {kind}: nothing learned, no answer")
            continue
        loss = mean(-of_seeds(rows, kind, "bound"))
        name = f"{TIME_FREE} less {kind}"
        findings.append(Finding(f"{name}, no loss", loss, claim=Claim.EQUAL, digits=4))
        findings.append(Finding(f"{name}, as declared", loss, MARGIN, Claim.BELOW, digits=4))
    notes += [
        f"{kind} less {TIME_FREE}, these networks over windows: {over_blocks(rows, kind).text(4)}"
        for kind in others(rows)
    ]
    if {TIMED, TOLD_NOTHING} <= set(rows.kind):
        notes.append(f"what the time says, {TIMED} less {TOLD_NOTHING}: {what_time_says(rows).text(4)}")
    head = f"Nats a token after {first.steps} steps of {first.batch} x {first.length}, 95 % over seeds"
    return Analysis(findings, notes, head, summary(rows))


def of_longest_training(rows):
    """The largest networks of this run and of the committed long one."""
    return rows[rows.steps == rows.steps.max()]


def others(rows):
    return [kind for kind in KINDS[1:] if kind in set(rows.kind)]


def of_seeds(rows, kind, measure):
    """(seeds,) of ``kind`` less time-free, each the mean over blocks of the same windows and masks."""
    seeds = rows.groupby(["kind", "seed"])[MEASURES].mean()
    return seeds.loc[kind, measure] - seeds.loc[TIME_FREE, measure]


def over_blocks(rows, kind):
    """The difference of these very networks, seeds averaged, over blocks of windows."""
    blocks = rows.groupby(["kind", "block"]).bound.mean()
    return mean(blocks[kind] - blocks[TIME_FREE])


def what_time_says(rows):
    each = rows.groupby(["kind", "seed"]).bound.mean()
    return mean(each[TIMED] - each[TOLD_NOTHING])


def levels(rows):
    """kind -> its bound, over seeds; the unigram and the trigram of the same text."""
    found = {kind: mean(part.groupby("seed").bound.mean()) for kind, part in rows.groupby("kind")}
    return found | {name: Estimate.exact(rows[name].iloc[0]) for name in ("unigram", "trigram")}


def levels_text(rows):
    found = levels(rows).items()
    return ", ".join(f"{name} {number(e)}" + (f" (n = {e.n})" if e.n else "") for name, e in found)


def summary(rows):
    found = {(name, "nats a token"): e for name, e in levels(rows).items()}
    for kind in others(rows):
        found |= {(f"{kind} less time-free", what): mean(of_seeds(rows, kind, what)) for what in MEASURES}
    for kind in others(rows):
        found[f"{kind} less time-free, these networks", "bound"] = over_blocks(rows, kind)
    if {TIMED, TOLD_NOTHING} <= set(rows.kind):
        found["timed less told nothing", "bound"] = what_time_says(rows)
    return estimates_table(found, ["of", "measure"])


# -------------------------------------------------------------- figure

LINES = dict(zip(KINDS, ("-", "--", ":", "-."), strict=True))


def figure(rows, analysis):
    rows = of_longest_training(rows)
    drawn, (left, right) = figures.canvas(2, width=4.4, height=3.5)
    for k, kind in enumerate([kind for kind in KINDS if kind in set(rows.kind)]):
        share = (np.arange(BANDS) + 0.5) / BANDS + 0.012 * (k - 1)  # side by side
        seeds = rows[rows.kind == kind].groupby("seed")[MEASURES[1:]].mean()
        left.plot(
            share, seeds.mean(), label=f"{kind} ({len(seeds)} seeds)", ls=LINES[kind], **figures.series(k)
        )
        if kind != TIME_FREE:
            found = [mean(of_seeds(rows, kind, band)) for band in MEASURES[1:]]
            figures.estimates(right, share, found, label=f"{kind} less time-free", index=k, line="-")
    left.axhline(rows.unigram.iloc[0], color="black", lw=0.9, ls="-.", label="unigram")
    left.axhline(rows.trigram.iloc[0], color="black", lw=0.9, ls=":", label="trigram, left to right")
    right.axhline(0, color="black", lw=0.8)
    left.set(title="Held-out cross-entropy")
    right.set(title="Difference (95 %, Student over seeds)")
    for axes in (left, right):
        axes.set(xlabel="share of the window that is masked", ylabel="nats per masked token")
        axes.legend(fontsize=7)
    return drawn


STUDY = Study(
    name="time_agnostic",
    question="Does a network that is not told the time lose anything?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    keys=("kind", "seed", *SETTINGS, "weights", "block"),
)
