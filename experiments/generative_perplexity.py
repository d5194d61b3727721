"""Does generative perplexity flatter where diversity is lost, and how far do its public definitions disagree?

Answers the tables and figures of arXiv:2409.02908 that show generative perplexity, here always against entropy. The texts are
those that ``generation``, ``decoders`` and ``truncation_control`` keep in results/full/, and held-out windows of real text.
Judges: SmolLM2-135M-Q4_1, pretrained, reads the decoded text (it is not GPT-2-large: compare its numbers with each other);
our autoregressive rival models/ar256 reads the ids, and is kin to the model by its training data. One row a
sequence keeps nats and tokens by part, from which each of six definitions follows. Headline: MDLM's, all tokens pooled.
The quick profile asks the rival about a few texts and adds the committed long run.
Cost: SmolLM2 a second a text of 256 tokens, the rival 0.05.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from precision_lab import figures
from precision_lab.errors import InputError
from precision_lab.mdm.fetch import Unavailable
from precision_lab.mdm.judges import SMOLLM2_NAME, SameTokens, smollm2_judge
from precision_lab.mdm.texts import ids, real_texts
from precision_lab.mdm.train import load_model
from precision_lab.result import average, load_result, with_long_run
from precision_lab.statistics import sequence_entropy
from precision_lab.statistics.perplexity import DEFINITIONS, Scores, generative_perplexity
from precision_lab.study import Study

ROOT, CHUNK = Path(__file__).parent.parent, 16
MODELS = {"generation": "mdm256", "decoders": "mdm256", "truncation_control": "mdm", "real": "mdm256"}
RIVAL, PER_POINT = "ar256", 64  # texts of a point that are judged, at most
KEY, FP32, FP64 = ["texts", "decoder", "sampler", "steps"], "gumbel_max_fp32", "gumbel_max_fp64"


@cache
def texts(name):
    """The table of one set: decoder, sampler, steps, tokens (ids in a string)."""
    if name == "real":
        rows = [" ".join(map(str, row)) for row in real_texts(ROOT / "models" / MODELS[name])[:64]]
        return pd.DataFrame({"tokens": rows, "decoder": "real", "sampler": "", "steps": 0})
    frame = load_result(ROOT / "results" / "full", name).frame
    if "version" in frame:
        frame = frame.assign(decoder="event_driven", sampler=frame.version)
    return frame[frame.groupby(KEY[1:]).cumcount() < PER_POINT].reset_index(drop=True)


@cache
def digest(name):
    return sha256("\n".join(texts(name).tokens).encode()).hexdigest()[:12]


def cells(profile):
    judges, sets = [RIVAL], ["real", "generation", "decoders"][: 2 if profile == "smoke" else 3]
    if profile == "full":
        judges, sets = [SMOLLM2_NAME, RIVAL], list(MODELS)
    limit = {"smoke": 2, "quick": CHUNK}.get(profile, 10**9)
    return [
        {"texts": name, "digest": digest(name), "judge": judge, "first": first, "last": min(first + CHUNK, total)}
        for name in sets
        for judge in judges
        if judge != RIVAL or MODELS[name] == "mdm256"  # the rival knows that vocabulary alone
        for total in [min(len(texts(name)), limit)]
        for first in range(0, total, CHUNK)
    ]


@cache
def judge_of(name, model):
    if name == RIVAL:
        return SameTokens(RIVAL, load_model(ROOT / "models" / RIVAL))
    return smollm2_judge(ROOT / "models" / model / "tokenizer.json")


def measure(cell, rng):
    part = texts(cell["texts"]).iloc[cell["first"] : cell["last"]]
    tokens = ids(list(part.tokens))
    base = [
        {"texts": cell["texts"], "digest": cell["digest"], "row": int(at)}
        | {"decoder": row.decoder, "sampler": row.sampler, "steps": int(row.steps), "sequence_entropy": float(entropy)}
        for at, row, entropy in zip(part.index, part.itertuples(), sequence_entropy(tokens), strict=True)
    ]
    try:
        scores = judge_of(cell["judge"], MODELS[cell["texts"]]).score(tokens).rows()
    except Unavailable as error:
        return [row | {"judge": cell["judge"], "skipped": str(error)} for row in base]
    return [row | score | {"skipped": ""} for row, score in zip(base, scores, strict=True)]


def everything(frame):
    both = with_long_run(frame, ROOT, "generative_perplexity", ["texts", "digest", "row", "judge"])
    both = both.astype({"sampler": object, "skipped": object}).fillna({"sampler": "", "skipped": ""})
    both = both[both.digest == both.texts.map({name: digest(name) for name in set(both.texts)})]
    return both[both.skipped == ""], sorted(set(both.skipped) - {""})


def summary(frame):
    """One row a point and judge: n, mean sequence entropy and each definition's perplexity, 95 % bootstrap."""
    rows = []
    for key, part in everything(frame)[0].groupby([*KEY, "judge"]):
        entropy, scores = average(part.sequence_entropy.to_numpy()), Scores.read(part)
        row = dict(zip([*KEY, "judge"], key, strict=True)) | {"n": len(part)}
        row |= {"entropy_nats": entropy.value, "entropy_low": entropy.low, "entropy_high": entropy.high}
        row |= {"entropy_bits": entropy.value / np.log(2), "replaced": int(scores.replaced.sum())}
        for name in DEFINITIONS:
            try:
                found = generative_perplexity(scores, name, rng=np.random.default_rng(0))
            except InputError:  # a definition that scores first tokens, and a judge without a start symbol
                continue
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


GROUPS = {  # decoder, sampler (None: all), texts
    "ancestral, float32": ("event_driven", FP32, "generation"),
    "ancestral, float64": ("event_driven", FP64, "generation"),
    "ancestral, float16": ("event_driven", "gumbel_max_fp16", "generation"),
    "ancestral, bfloat16": ("event_driven", "gumbel_max_bf16", "generation"),
    "first-hitting": ("first_hitting", None, "decoders"),
    "autoregressive": ("autoregressive", None, "decoders"),
    "confidence ordered": ("confidence_ordered", None, "decoders"),
    "real text": ("real", "", "real"),
}


def draw(frame):
    table = summary(frame)
    judge = SMOLLM2_NAME if (table.judge == SMOLLM2_NAME).any() else RIVAL
    table = table[table.judge == judge].sort_values("steps")
    figure, (steps, frontier, names) = figures.canvas(3, width=4.1, height=4.2)
    shown = [name for name in DEFINITIONS if name in table and table[name].notna().any()]
    for k, (label, (decoder, sampler, texts)) in enumerate(GROUPS.items()):
        part = table[(table.decoder == decoder) & (table.texts == texts)]
        part = part if sampler is None else part[part.sampler == sampler]
        style = {"ls": "none", "capsize": 2, "elinewidth": 0.8, "label": label, **figures.series(k)}
        y = [part.mdlm - part.mdlm_low, part.mdlm_high - part.mdlm]
        x = [part.entropy_nats - part.entropy_low, part.entropy_high - part.entropy_nats]
        frontier.errorbar(part.entropy_nats, part.mdlm, yerr=y, xerr=x, **style)
        if texts == "generation":
            steps.errorbar(part.steps * 1.05**k, part.mdlm, yerr=y, **style | {"ls": "-"})
            for row in part[(part.steps == 50_000) & part.sampler.isin((FP32, FP64))].to_dict("records"):
                value, low, high = (np.array([row[name + end] for name in shown]) for end in ("", "_low", "_high"))
                names.errorbar(value, np.arange(len(shown)) + 0.15 * k, xerr=[value - low, high - value], **style)
        for row in part.itertuples() if texts == "real" else ():
            steps.axhline(row.mdlm, color="black", ls=":", lw=1.2)
    names.set_yticks(range(len(shown)), shown)
    names.set(xscale="log", xlabel="generative perplexity", title="float32 and float64, N = 50,000, by definition")
    steps.set(xscale="log", yscale="log", xlabel="ancestral steps N", ylabel=f"generative perplexity ({judge})")
    steps.set_title("Perplexity falls with float32 noise (dotted: real text) ...")
    frontier.set(yscale="log", xlabel="mean sequence entropy (nats)", title="... and so does entropy")
    figure.legend(*frontier.get_legend_handles_labels(), loc="outside lower center", fontsize=7, ncols=4)
    return figure


def verdict(frame):
    table, skipped = summary(frame), everything(frame)[1]
    parts = ["Perplexity by MDLM's definition, mean sequence entropy in nats, 95 % bootstrap"]
    shown = table[
        table.steps.isin((0, 32, 50_000)) & table.sampler.isin((FP32, FP64, "")) & (table.texts != "truncation_control")
    ]
    for judge, points in shown.groupby("judge"):
        sweep = points[points.decoder == "event_driven"].set_index(["sampler", "steps"])
        if {(FP32, 32), (FP32, 50_000)} <= set(sweep.index):
            first, last = (sweep.loc[FP32, steps] for steps in (32, 50_000))
            falls = last.mdlm_high < first.mdlm_low and last.entropy_high < first.entropy_low
            parts.append(f"{judge}: that float32 buys perplexity with entropy, {'' if falls else 'not '}reproduced")
        for r in points[points.decoder.isin(("event_driven", "first_hitting", "autoregressive", "real"))].itertuples():
            interval = f" [{r.mdlm_low:.0f}, {r.mdlm_high:.0f}], {r.entropy_nats:.2f} [{r.entropy_low:.2f}, {r.entropy_high:.2f}]"
            name = f"{r.decoder} {r.sampler}".strip() + (f" N = {r.steps}" if r.steps else "")
            parts.append(f"{name} {r.mdlm:.0f}{interval if r.n > 1 else f', {r.entropy_nats:.2f}'} (n = {r.n})")
    return "; ".join(parts + [f"not judged: {reason}" for reason in skipped]) + "."


QUESTION = "Does generative perplexity flatter where diversity is lost, and how far do its public definitions disagree?"
STUDY = Study("generative_perplexity", QUESTION, cells, measure, draw, verdict, summary=summary)
