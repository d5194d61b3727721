"""Is the sampler of a published set-up harmless? From laws alone: no weights, no draws.

For each set-up of `precision_lab.mdm.setups` (MDLM, SEDD, RADD, ReMDM, Duo, BD3-LMs, LLaDA, Fast-dLLM, d1,
Dream, LLaDA 2, DiffusionGemma, VQ-Diffusion), as published and with the nearest draw in float32 and in
bfloat16 that we have: the share of the intended unmasking that is left (where tokens race the mask), the
effective temperature of the token, the entropy that it loses, its total variation. A step of N at a masked
share t unmasks with r = 1 / (N t). The rows stand in for the networks': one trained on an H100 (16,384
tokens, five mask ratios) and SmolLM2-135M (49,152; taken at t = 0.5).

A word for each, by the mean over the rows of one network with its 95 % interval (Student), the worse of the
two networks: *decisive* beyond 5 % of the unmasking or 0.05 nats a token for certain (what 64 texts against
64 can show: the entropy of a text has a standard deviation of 0.14 nats); *harmless* within 1 %, 0.01 nats
and a total variation of 0.01 for certain; *visible* between; *no draw* where the default is greedy. The
figure shows the first network.
Cost: up to ten seconds a law of float32, quick half a core-minute, full 40 core-minutes.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from precision_lab import figures, target_law
from precision_lab.formats import FORMATS
from precision_lab.laws.law import Law
from precision_lab.mdm.setups import SETUPS, Setup, sampler_of
from precision_lab.pipelines import parse_pipeline
from precision_lab.samplers import with_tolerance
from precision_lab.statistics import effective_temperature, entropy, mean, total_variation
from precision_lab.study import Analysis, Study
from precision_lab.targets import load_capture
from precision_lab.targets.synthetic import mdm_step

MODELS = Path(__file__).parent.parent / "models"
FILES = {"h100": MODELS / "h100" / "logits.safetensors", "smollm2": MODELS / "smollm2" / "logits.safetensors"}
RATIOS = 5  # mask ratios of the masked model's rows, in turn

# ---------------------------------------------------------------- grid

# profile -> rows of each network
ROWS = {"smoke": {"h100": 2}, "quick": {"h100": 2}, "full": {"h100": 15, "smollm2": 4}}
SMOKE = ("BD3-LMs", "Dream-7B")
QUICK = ("MDLM", "MDLM in Duo's code", "d1, rollouts", "Dream-7B")
VARIANTS = ("published", "float32", "bfloat16")

RATE = {"harmless": 0.01, "decisive": 0.05}  # of the unmasking
NATS = {"harmless": 0.01, "decisive": 0.05}  # of entropy a token
TV = 0.01
WORDS = ("no draw", "harmless", "visible", "decisive")  # in order

# What defines a law, apart from the row.
LAW = ["race", "steps", "pipeline", "stored", "sampler"]


@cache
def capture(model):
    return load_capture(FILES[model])


def asked_of(profile) -> list[tuple[Setup, str]]:
    """(set-up, variant) whose laws a profile computes. Single draws in float32, which harm nothing and take
    longest, are for the full one."""
    chosen = {"smoke": SMOKE, "quick": QUICK}.get(profile)
    pairs = [(setup, variant) for setup in SETUPS for variant in VARIANTS if not setup.greedy]
    if chosen is None:
        return pairs
    pairs = [(setup, variant) for setup, variant in pairs if setup.name in chosen]
    return [(setup, variant) for setup, variant in pairs if setup.race or variant != "float32"]


def rows_of(model: str, count: int) -> list[int]:
    """``count`` rows, the mask ratios in turn from the middle outwards."""
    ratios = capture(model).mask_ratio
    if np.isnan(ratios).all():
        return list(range(count))
    levels = np.unique(ratios)
    levels = levels[np.argsort(np.abs(levels - 0.5), kind="stable")]
    turns = [np.flatnonzero(ratios == level) for level in levels]
    return [int(turns[k % len(turns)][k // len(turns)]) for k in range(count)]


def law_key(setup: Setup, variant: str) -> dict:
    sampler = getattr(setup, variant)
    steps = setup.steps if setup.race else 1  # a draw alone does not know how many there are
    return dict(zip(LAW, (setup.race, steps, setup.pipeline, setup.stored, sampler), strict=True))


def cells(profile):
    keys = [law_key(setup, variant) for setup, variant in asked_of(profile)]
    laws = {tuple(key.values()): key for key in keys}  # set-ups share laws
    return [
        key | {"model": model, "row": row, "logits": capture(model).manifest["sha256"][:12]}
        for model, count in ROWS[profile].items()
        for row in rows_of(model, count)
        for key in laws.values()
    ]


# ------------------------------------------------------------- measure


def token_law(cell) -> Law:
    """What the network asks for at this place, after the pipeline."""
    logits = capture(cell["model"]).logits[cell["row"]].astype(np.float64)
    return parse_pipeline(cell["pipeline"]).law(logits) if cell["pipeline"] else target_law(logits)


def handed_on(log_probs, stored: str):
    """log p after the probabilities were kept in the format ``stored``."""
    if not stored:
        return log_probs
    with np.errstate(divide="ignore"):
        return np.log(FORMATS[stored].round(np.exp(log_probs)))


def measure(cell, rng):
    asked = token_law(cell)
    given = handed_on(asked.log_probs, cell["stored"])
    sampler = with_tolerance(sampler_of(cell["sampler"]), tolerance=1e-9, relative=np.inf)
    ratio = float(capture(cell["model"]).mask_ratio[cell["row"]])
    masked = 0.5 if np.isnan(ratio) else ratio
    unmask = 1.0
    if cell["race"]:
        unmask = 1.0 / (cell["steps"] * masked)
        law = sampler.law(mdm_step(given, unmask))
        comes = float(law.probs[:-1].sum())
        token = Law(law.log_probs[:-1] - np.log(comes), law.how, law.error / comes, law.guarantee)
    else:
        token = law = sampler.law(given)
        comes = 1.0
    return [
        cell
        | {
            "mask_ratio": masked,
            "unmask": unmask,
            "multiplier": comes / unmask,
            "effective_temperature": effective_temperature(token, asked).temperature.value,
            "entropy_lost": entropy(asked) - entropy(token),
            "total_variation": total_variation(token, asked),
            "error": law.error,
            "guarantee": str(law.guarantee),
        }
    ]


# ------------------------------------------------------------- analyse


def side(low: float, high: float, margins: dict[str, float]) -> str:
    """Of an interval of deviations from 0, the word that it allows for certain."""
    if max(abs(low), abs(high)) <= margins["harmless"]:
        return "harmless"
    beyond = low > margins["decisive"] or high < -margins["decisive"]
    return "decisive" if beyond else "visible"


def worst(words: Iterable[str]) -> str:
    return max(words, key=WORDS.index)


def summary(frame):
    """A row for each set-up, precision and network: means over the rows with 95 % intervals, and the word."""
    table = []
    keyed = {key: part for key, part in frame.groupby([*LAW, "model"])}
    for setup in SETUPS:
        for variant in VARIANTS:
            for model in dict.fromkeys(frame.model):
                common = {
                    "setup": setup.name,
                    "variant": variant,
                    "sampler": getattr(setup, variant),
                    "model": model,
                }
                if setup.greedy:
                    table.append(common | {"word": "no draw"})
                    continue
                part = keyed.get((*law_key(setup, variant).values(), model))
                if part is not None:
                    table.append(common | {"steps": setup.steps, "vocab": setup.vocab} | found_in(part))
    return pd.DataFrame(table)


def found_in(part) -> dict:
    """Means of the quantities over rows, each with its interval, and the word."""
    found = {"rows": len(part)}
    ends = {}
    for name in ("multiplier", "effective_temperature", "entropy_lost", "total_variation"):
        estimate = mean(part[name])
        found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        ends[name] = estimate
    rate, lost, variation = ends["multiplier"], ends["entropy_lost"], ends["total_variation"]
    words = [side(rate.low - 1, rate.high - 1, RATE), side(lost.low, lost.high, NATS)]
    words.append("harmless" if variation.high <= TV else "visible")
    return found | {"word": worst(words)}


def words_of(table) -> dict[tuple[str, str], str]:
    """(set-up, variant) -> the worse word of the networks."""
    return {key: worst(part.word) for key, part in table.groupby(["setup", "variant"], sort=False)}


def analyse(rows):
    table = summary(rows)
    words = words_of(table)
    notes = []
    for word in reversed(WORDS):
        names = [name for (name, variant), found in words.items() if variant == "published" and found == word]
        if names:
            notes.append(f"{word}: {', '.join(names)}")
    networks = rows.groupby("model", sort=False).row.nunique()
    counted = ", ".join(f"{count} rows of {model}" for model, count in networks.items())
    return Analysis(notes=notes, head=f"As published, by laws on {counted}", summary=table)


def page(table) -> str:
    """The table of docs/published_setups.md, in Markdown: a set-up a line, the worse of the networks."""
    head = "| set-up | source | V | steps | draw | as published | in float32 | in bfloat16 |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for setup in SETUPS:
        kind = "races the mask" if setup.race else "one draw a token"
        kind += f", {setup.pipeline}" if setup.pipeline else ""
        cells_of_line = [setup.name, setup.source, f"{setup.vocab:,}", f"{setup.steps:,}", kind]
        cells_of_line += [said(table, setup, variant) for variant in VARIANTS]
        lines.append(f"| {' | '.join(cells_of_line)} |")
    return "\n".join(lines) + "\n"


def said(table, setup: Setup, variant: str) -> str:
    """The word, the share of the unmasking, and the entropy lost with its interval, of the worse network."""
    part = table[(table.setup == setup.name) & (table.variant == variant)]
    if setup.greedy or part.empty:
        return "no draw" if setup.greedy else "not computed"
    row = part.loc[part.word.map(WORDS.index).idxmax()]
    interval = f"{row.entropy_lost:.3f} [{row.entropy_lost_low:.3f}, {row.entropy_lost_high:.3f}] nats"
    rate = f"{row.multiplier:.2f} of the unmasking, " if setup.race else ""
    return f"**{row.word}**: {rate}{interval}"


# -------------------------------------------------------------- figure

PANELS = (  # column, title, value of a faithful sampler
    ("multiplier", "share of the intended unmasking", 1.0),
    ("entropy_lost", "entropy lost, nats a token", 0.0),
)


def figure(rows, analysis):
    table = analysis.summary
    shown = table[(table.word != "no draw") & (table.model == table.model.iloc[0])]
    names = list(dict.fromkeys(shown.setup))
    drawn, axes = figures.canvas(2, width=4.6, height=0.8 + 0.34 * len(names))
    for ax, (column, title, null) in zip(axes, PANELS, strict=True):
        for k, variant in enumerate(VARIANTS):
            part = shown[shown.variant == variant]
            if column == "multiplier":
                part = part[part.setup.isin(racing())]
            place = np.array([names.index(name) for name in part.setup]) + 0.22 * (k - 1)
            error = [part[column] - part[f"{column}_low"], part[f"{column}_high"] - part[column]]
            ax.errorbar(
                part[column], place, xerr=error, ls="none", capsize=2, label=variant, **figures.series(k)
            )
        ax.axvline(null, color="black", lw=0.8)
        ax.axvspan(null - 0.05, null + 0.05, color="#dddddd", lw=0, zorder=0)
        ax.set(title=title, ylim=(len(names) - 0.5, -0.5))
        ax.set_yticks(range(len(names)), names, fontsize=7)
    axes[0].set(xscale="log")
    axes[1].set(xscale="symlog")
    axes[1].set_yticks(range(len(names)), [""] * len(names))
    drawn.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return drawn


def racing() -> set[str]:
    return {setup.name for setup in SETUPS if setup.race}


STUDY = Study(
    name="published_setups",
    question="Is the sampler of a published set-up harmless, visible or decisive?",
    cells=cells,
    measure=measure,
    analyse=analyse,
    figure=figure,
)
