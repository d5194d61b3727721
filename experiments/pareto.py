"""Is a faithful sampler alone in its corner: cheap, and right?

Samplers as people write them, on one machine, in paired rounds, the eager ones in their best chunks, beside
the exact law of each on a Zipf row. Time: of a token, as a ratio to float32 Gumbel-max within a round,
medians with 95 % bootstrap intervals over rounds. Wrong by: total variation from softmax and, added to it,
the law's own error, so a bound. One marker a sampler; colour and filling say the precision of the noise.
Rows of logits are normal with standard deviation 3; batches of 1, 8, 128 and 1,024 as far as they differ in
rows timed (``bench.grid``). The last panel is not of this machine: times that were recorded on an H100, with
no spread, and its own float32 Gumbel-max as 1. JAX is there if it is installed.
Cost: quick 25 core-seconds, full ten core-minutes, more than half of them laws.
"""

import pandas as pd

from precision_lab import figures
from precision_lab.bench import grid, h100
from precision_lab.bench.rivals import OURS, RACE, REFERENCE, RIVALS, here
from precision_lab.devices import of_run
from precision_lab.study import Analysis, Study

ENOUGH = 1e-6  # a chi-square test sees so much after about 1e12 draws
AIMS = {1: 0.45, 8: 0.35}  # batch -> of float32 Gumbel-max's time on a CPU, asked of ours
LEAST = 1e-16  # total variation at which a point is drawn whose law is the target's
MULTINOMIAL = "torch.multinomial"
FEW = (OURS, REFERENCE, MULTINOMIAL, "cumulative sum float64")
SOME = (*FEW, RACE, "Gumbel-max float64", "cumulative sum float32", "numpy Generator.choice")
EVERY = (*SOME, "exponential race float32")
SHOWN = 151_936  # the vocabulary of the figure, of several
RECORDED = {  # of an H100 -> precision, marker
    "block sums, fused (prototype)": ("integers", 0),
    REFERENCE: ("float32", 2),
    "Gumbel-max float32, fused": ("float32", 8),
    "Gumbel-max float64, fused": ("float64", 9),
    MULTINOMIAL: ("float32", 4),
    "cumulative sum float32": ("float32", 6),
}

# ---------------------------------------------------------------- grid

# profile -> vocabularies, batches, seconds of timing a cell, rivals, vocabularies of the laws
SIZES = {
    "smoke": ((256,), (8,), 0.05, FEW, (256,)),
    "quick": ((50_257,), (8,), 1.5, SOME, (50_257,)),
    "full": (grid.VOCABS, grid.BATCHES, 1.5, EVERY, (4096, SHOWN)),
}


def cells(profile):
    vocabs, batches, seconds, names, lawful = SIZES[profile]
    device = of_run()
    rivals = [rival.name for rival in here(device, names)]
    quick = [name for name in rivals if profile != "smoke" or name != REFERENCE]  # its law takes seconds
    laws = grid.law_cells(lawful, ["zipf"], device, quick)
    return laws + grid.time_cells(vocabs, batches, seconds, device, rivals)


# ------------------------------------------------------------- measure


def measure(cell, rng):
    """A cell of the benchmark: times of the rivals side by side, or the law of one."""
    return grid.measure(cell, rng)


# ------------------------------------------------------------- analyse


def summary(frame):
    table = grid.table(frame)
    whole = {
        name: table[name].astype(int) for name in ("vocab", "batch", "rounds", "rows_at_once", "rows_timed")
    }
    return table.assign(at_most=table.tv_zipf + table.law_error, **whole)


def figured(table):
    """The vocabulary whose samplers are shown."""
    return SHOWN if (table.vocab == SHOWN).any() else table.vocab.max()


def stated(r, name="ratio"):
    return f"{getattr(r, name):.2f} [{getattr(r, name + '_low'):.2f}, {getattr(r, name + '_high'):.2f}]"


def analyse(rows):
    table = summary(rows)
    shown = figured(table)
    notes = []
    for batch, part in table[table.vocab == shown].groupby("batch"):
        ours = part[part.sampler == OURS].iloc[0]
        said = (
            f"V = {shown:,}, batch {batch:,}: {OURS} takes {stated(ours)} of the time of float32 Gumbel-max"
        )
        many = part[part.sampler == MULTINOMIAL].iloc[0]
        said += f", torch.multinomial {stated(many, 'of_ours')} times ours"
        for r in part[(part.at_most <= ENOUGH) & (part.sampler != OURS)].nsmallest(1, "ratio").itertuples():
            said += (
                f"; the cheapest other within {ENOUGH:g} is {r.sampler}, {stated(r, 'of_ours')} times ours"
            )
        notes.append(said)
    ours = table[table.sampler == OURS]
    aims = ours.batch.map(lambda batch: AIMS[1] if batch == 1 else AIMS[8])
    met, missed = int((ours.ratio_high <= aims).sum()), int((ours.ratio_low > aims).sum())
    notes.append(
        f"the aims, {AIMS[1]} at batch 1 and {AIMS[8]} from 8 on: of {len(ours)} cells {met} met for "
        f"certain, {missed} missed for certain (ratios {ours.ratio.min():.2f} to {ours.ratio.max():.2f})"
    )
    worst = table.groupby("sampler", sort=False).at_most.max().dropna()
    lines = ", ".join(f"{name} {worst[name]:.2g}" for name in RIVALS if name in worst)
    notes.append(f"wrong by at most (Zipf): {lines}")
    return Analysis(notes=notes, head="Medians of ratios within rounds, 95 %", summary=table)


# -------------------------------------------------------------- figure


def look(name):
    size = 8 if name in (OURS, RACE) else 6
    return figures.precise(RIVALS[name].precision, list(RIVALS).index(name)) | {"ms": size}


def corner(ax, part):
    """Time against error at one vocabulary and batch; down from each point to the total variation itself."""
    for r in part.dropna(subset="at_most").itertuples():
        high = max(r.at_most, LEAST)
        low = max(r.tv_zipf, LEAST)
        figures.box(
            ax, (r.ratio, r.ratio_low, r.ratio_high), (high, low, high), label=r.sampler, **look(r.sampler)
        )
    ax.axhline(ENOUGH, color="black", ls=":", lw=0.8)
    ax.axvline(1, color="black", ls=":", lw=0.8)
    ax.set(xscale="log", yscale="log", xlabel="time / float32 Gumbel-max", ylabel="total variation, at most")
    ax.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    ax.xaxis.set_minor_formatter("")
    ax.set_title(f"V = {part.vocab.iloc[0]:,}, batch {part.batch.iloc[0]:,}")


def sizes(ax, table):
    """Ours over float32 Gumbel-max by vocabulary, a line a batch."""
    ours = table[table.sampler == OURS]
    for k, (batch, part) in enumerate(ours.groupby("batch")):
        part = part.sort_values("vocab")
        line = ("-", "--", "-.", ":")[k % 4]
        label = f"batch {batch:,}"
        figures.interval(
            ax, part.vocab, part.ratio, part.ratio_low, part.ratio_high, label=label, index=k, line=line
        )
    for batch, aim in AIMS.items():
        ax.axhline(aim, color="black", ls=":", lw=0.8)
        name = f"aim at batch {batch}" if batch == 1 else f"aim from {batch} on"
        ax.annotate(name, (ours.vocab.min(), aim), fontsize=6, va="bottom")
    ax.set(xscale="log", yscale="log", xlabel="vocabulary", ylabel="time / float32 Gumbel-max", title=OURS)
    ax.set_yticks([0.3, 0.5, 1, 2, 4], ["0.3", "0.5", "1", "2", "4"])
    ax.yaxis.set_minor_formatter("")
    ax.set_ylim(bottom=0.25)
    ax.legend(fontsize=7)


def recorded(ax):
    """Times of an H100, not of this machine."""
    table = pd.DataFrame(h100.rows(vocabs=(128_256,)))
    for name, (precision, marker) in RECORDED.items():
        part = table[table.sampler == name]
        ax.plot(part.batch, part.ratio, label=name, lw=0.9, **figures.precise(precision, marker))
    ax.set(xscale="log", yscale="log", xlabel="batch", ylabel="time / float32 Gumbel-max there")
    ax.set_xticks(sorted(table.batch.unique()), [f"{batch:,}" for batch in sorted(table.batch.unique())])
    ax.xaxis.set_minor_formatter("")
    ax.set_ylim(bottom=0.025)
    ax.set_title("measured on an H100, V = 128,256\n(recorded once, no spread)")
    ax.legend(fontsize=6, loc="lower left", ncols=2)


def figure(rows, analysis):
    table = analysis.summary
    several = table.vocab.nunique() > 1
    shown = figured(table)
    at = table[table.vocab == shown]
    batches = sorted(at.batch.unique())[:2]
    panels = len(batches) + 1 + several
    columns = 2
    drawn, axes = figures.canvas(columns, -(-panels // columns), width=4.9, height=3.7)
    for ax, batch in zip(axes, batches, strict=False):
        corner(ax, at[at.batch == batch])
    if several:
        sizes(axes[len(batches)], table)
    recorded(axes[panels - 1])
    for ax in axes[panels:]:
        ax.set_visible(False)
    handles = {
        label: h
        for ax in axes[: len(batches)]
        for h, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    order = [name for name in RIVALS if name in handles]
    title = "noise or sums in whole numbers: filled; float32: open; float64: half filled"
    drawn.legend(
        [handles[n] for n in order],
        order,
        loc="outside lower center",
        ncols=4,
        fontsize=7,
        title=title,
        title_fontsize=7,
    )
    return drawn


STUDY = Study(
    name="pareto",
    question="Is a faithful sampler alone in its corner: cheap, and right?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
    clocked=grid.CLOCKED,
)
