"""Is float32 ancestral sampling on the model's own temperature frontier, and how far is a masked model from its rival?

The paper's figure of generative perplexity against entropy at temperatures 0.8 to 1 (its fair comparison in 64 bit), on
models/mdm256 and the autoregressive models/ar256: same size, data, tokenizer and length. First-hitting and autoregressive
decoding in float64 at six temperatures; ancestral decoding with float32 noise, event-driven, temperature 1; held-out text.
Judges: SmolLM2-135M-Q4_1 on the text, and the rival on the ids, which favours its own samples. Perplexity as MDLM's code
pools it; every row keeps the nats and the tokens, so that any definition can be had from the table. The two numbers of a
point have one joint 95 % region; at matched entropy a point is compared with a frontier (statistics/frontier.py).
Quick: the rival as judge, one sequence of each model; the committed long run is shown.
Cost: a sequence of 256 tokens takes 6 s (first-hitting), 3 s (autoregressive), judging 1 to 2 s; full an hour of one core.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from precision_lab import SAMPLERS, figures
from precision_lab.files import read_json
from precision_lab.laws.process import lattice_step
from precision_lab.mdm import decode
from precision_lab.mdm.fetch import Unavailable
from precision_lab.mdm.judges import SMOLLM2_NAME, SameTokens, smollm2_judge
from precision_lab.mdm.train import load_model
from precision_lab.result import with_long_run
from precision_lab.statistics import (
    Generated,
    Scores,
    flat,
    matched_entropy,
    perplexity_beside_diversity,
    sequence_entropy,
)
from precision_lab.study import Study

ROOT = Path(__file__).parent.parent
MDM, AR = ROOT / "models" / "mdm256", ROOT / "models" / "ar256"
LENGTH, BATCH, SAMPLER, POINT = 256, 4, "gumbel_max_fp64", ["decoder", "temperature", "steps"]
TEMPERATURES = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
FRONTIERS = {"first_hitting": "masked, float64", "autoregressive": "autoregressive, float64"}
EVERY = [(decoder, t, 0, 32) for decoder in FRONTIERS for t in TEMPERATURES]
GRID = {  # decoder, temperature, steps, sequences
    "smoke": [("first_hitting", 1.0, 0, 3), ("autoregressive", 1.0, 0, 3), ("text", 1.0, 0, 3)],
    "quick": [("first_hitting", 1.0, 0, 1), ("autoregressive", 1.0, 0, 1), ("event_driven", 1.0, 1024, 1), ("text", 1.0, 0, 4)],
    "full": [*EVERY, ("event_driven", 1.0, 1024, 32), ("event_driven", 1.0, 50_000, 32), ("text", 1.0, 0, 64)],
}  # fmt: skip
SAME, FEW = "ar256", 8  # the rival as judge; sequences for an interval
model = cache(load_model)


def cells(profile):
    weights = "".join(read_json(folder / "manifest.json")["weights_sha256"][:6] for folder in (MDM, AR))
    common = {"length": 16 if profile == "smoke" else LENGTH, "weights": weights, "smollm2": profile == "full"}
    return [
        dict(zip(POINT, point, strict=True)) | {"sequences": min(BATCH, n - i), "part": i // BATCH} | common
        for *point, n in GRID[profile]
        for i in range(0, n, BATCH)
    ]


@cache
def judge(name):
    return SameTokens(SAME, model(AR)) if name == SAME else smollm2_judge(MDM / "tokenizer.json")


def generate(cell, rng):
    """(sequences, length) int64."""
    common = {"batch": cell["sequences"], "length": cell["length"], "rng": rng}
    if cell["decoder"] == "text":
        held_out = np.load(MDM / "validation.npy", allow_pickle=False).astype(np.int64)[:, : cell["length"]]
        return held_out[cell["part"] * BATCH :][: cell["sequences"]]
    if cell["decoder"] == "event_driven":
        return decode.event_driven(model(MDM), lattice_step, steps=cell["steps"], **common).tokens.numpy()
    run, folder = getattr(decode, cell["decoder"]), MDM if cell["decoder"] == "first_hitting" else AR
    return run(model(folder), SAMPLERS[SAMPLER], temperature=cell["temperature"], **common).tokens.numpy()


def measure(cell, rng):
    tokens, rows = generate(cell, rng), []
    for name in (SAME, SMOLLM2_NAME)[: 1 + cell["smollm2"]]:
        try:
            found = judge(name).score(tokens).rows()
        except Unavailable as error:
            found = [{"judge": name, "missing": str(error)}] * len(tokens)
        for k, row in enumerate(found):
            text = " ".join(map(str, tokens[k])) if name == SAME else None  # once
            entropy = float(sequence_entropy(tokens[k : k + 1])[0])
            rows.append(cell | {"sequence": k, "sequence_entropy": entropy, "missing": None} | row | {"tokens": text})
    return rows


def everything(frame):
    keys = [*POINT, "length", "weights", "part", "sequence", "judge"]
    return with_long_run(frame, ROOT, "temperature_frontier", keys)


def points(frame):
    """(judge, decoder, temperature, steps) -> Generated; of the longest text where several lengths are there."""
    longest, found = frame[frame.length == frame.length.max()], {}
    ids = longest[longest.judge == SAME].set_index([*POINT, "part", "sequence"]).tokens
    for (name, *key), part in longest[longest.missing.isna()].groupby(["judge", *POINT]):
        rows = [ids[(*key, p, k)].split() for p, k in zip(part.part, part.sequence, strict=True)]
        found[(name, *key)] = np.array(rows, dtype=np.int64), Scores.read(part)
    return found


def summary(frame):
    """One row a point and judge: perplexity beside diversity, 95 % over sequences."""
    rows = []
    for key, (tokens, scores) in points(everything(frame)).items():
        found = perplexity_beside_diversity(tokens, scores, rng=np.random.default_rng(0))
        rows.append(dict(zip(["judge", *POINT], key, strict=True)) | {"n": len(tokens)} | flat(found))
    return pd.DataFrame(rows)


def title(key):
    decoder, temperature, steps = key
    if decoder in FRONTIERS:
        return f"{FRONTIERS[decoder]}, temperature {temperature:g}"
    return f"masked, float32, N = {steps:,}" if steps else "real text"


def draw(frame):
    figure, panels = figures.canvas(2, width=4.6, height=4.2)
    found = {key: Generated.of(*pair) for key, pair in points(everything(frame)).items()}
    for name, axes in zip((SAME, SMOLLM2_NAME), panels, strict=True):
        mine = {key[1:]: point for key, point in found.items() if key[0] == name}
        groups = {label: [k for k in mine if k[0] == d] for d, label in FRONTIERS.items()}
        groups |= {title(k): [k] for k in mine if k[0] not in FRONTIERS}
        for index, (label, keys) in enumerate(groups.items()):
            at, style = np.array([mine[k].point() for k in keys]).reshape(-1, 2), figures.series(index)
            axes.plot(at[:, 0], np.exp(at[:, 1]), label=label, ls="-" if len(keys) > 1 else "none", **style)
            for key, (x, y) in zip(keys, at, strict=True):
                if key[0] in FRONTIERS:
                    axes.annotate(f"{key[1]:g}", (x, np.exp(y)), (5, -8), textcoords="offset points", fontsize=6.5)
                if len(mine[key]) >= FEW:
                    edge = mine[key].region().outline()
                    axes.plot(edge[:, 0], np.exp(edge[:, 1]), color=style["color"], lw=0.7)
        axes.set(yscale="log", xlabel="entropy of a sequence (nats)")
        axes.set_title(f"judge: {name}" + ("" if mine else " (no scores: see the verdict)"))
    panels[0].set_ylabel("generative perplexity (MDLM's pooling)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def compared(found, name):
    """Texts: each point at temperature 1 against the other frontier or, for other points, both."""
    for decoder, label in FRONTIERS.items():
        line = {key[2]: point for key, point in found.items() if key[:2] == (name, decoder)}
        if len(line) < 3 or min(map(len, line.values())) < FEW:
            continue
        for key, point in found.items():
            if key[0] == name and key[1] != decoder and key[2] == 1.0:
                answer = matched_entropy(point, line, rng=np.random.default_rng(0))
                if answer is None:
                    yield f"{title(key[1:])}: beyond the entropies of {label}"
                    continue
                ratio, heat = answer.ratio, answer.temperature
                where = "below" if ratio.high < 1 else "above" if ratio.low > 1 else "not told from"
                yield (f"{title(key[1:])}: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] of the perplexity of {label} "
                       f"at its {heat.value:.3f} [{heat.low:.3f}, {heat.high:.3f}]: {where} that frontier")  # fmt: skip


def verdict(frame):
    frame = everything(frame)
    found, text = {key: Generated.of(*pair) for key, pair in points(frame).items()}, []
    for name in (SAME, SMOLLM2_NAME):
        rows = frame[frame.judge == name]
        none = "too few points to compare" if len(rows) else "not asked in this profile"
        gaps = [f"MISSING: {gap}" for gap in rows.missing.dropna().unique()]
        text.append(f"judge {name}: " + ("; ".join([*compared(found, name), *gaps]) or none))
    few = int((frame[frame.judge == SAME].sequence_entropy < 1).sum())
    end = f"{few} sequences are below 1 nat of entropy; {SAME} favours its own samples"
    return ". ".join(["At matched entropy, 95 %", *text, end]) + "."


QUESTION = "At equal entropy, does float32 sampling do more than a lower temperature, and which model is better?"
STUDY = Study("temperature_frontier", QUESTION, cells, measure, draw, verdict, summary=summary)
