"""Is float32 ancestral sampling on the model's own temperature frontier, and how far is a masked model from its rival?

The paper's figure of generative perplexity against entropy at temperatures 0.8 to 1 (its fair comparison in 64 bit), on
models/mdm256 and the autoregressive models/ar256: same size, data, tokenizer and length. First-hitting and autoregressive
decoding in float64 at seven temperatures; ancestral decoding with float32 noise, event-driven, temperature 1; held-out text.
Judges: SmolLM2-135M-Q4_1 on the text, and the rival on the ids, which favours its own samples. Perplexity as MDLM's code
pools it; every row keeps the nats and the tokens, so that any definition can be had from the table. The two numbers of a
point have one joint 95 % region; at matched entropy a point is compared with a frontier (statistics/frontier.py).
Bodies compute in bfloat16, as trained; "float64" is of the draw. Quick: the rival judges one shorter sequence of each model,
and the committed long run is shown. Cost: a sequence of 256 tokens takes 6 s (first-hitting), 1 s (autoregressive),
judging 1 to 2 s; full half an hour of two cores.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from precision_lab import SAMPLERS, figures
from precision_lab.files import read_json
from precision_lab.laws.process import lattice_step
from precision_lab.mdm import decode
from precision_lab.mdm.denoiser import Autocast
from precision_lab.mdm.fetch import Unavailable
from precision_lab.mdm.judges import SMOLLM2_NAME, SameTokens, smollm2_judge
from precision_lab.mdm.texts import batches, real_texts
from precision_lab.mdm.train import load_model
from precision_lab.result import with_long_run
from precision_lab.statistics import Generated, Scores, flat, matched_entropy, sequence_entropy
from precision_lab.statistics import perplexity_beside_diversity as beside_diversity
from precision_lab.study import Study

ROOT = Path(__file__).parent.parent
MDM, AR = ROOT / "models" / "mdm256", ROOT / "models" / "ar256"
LENGTH, SHORT, BATCH = 256, {"smoke": 16, "quick": 128}, 4
SAME, FEW = "ar256", 8  # the rival as judge; sequences that allow an interval
POINT, ROW = ["decoder", "temperature", "steps"], ["sequences", "smollm2", "part", "sequence"]
TEMPERATURES = (0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.1)
FRONTIERS = {"first_hitting": "masked, float64", "autoregressive": "autoregressive, float64"}
COMPARISONS = {  # point at temperature 1 or 0.9, frontier: in the paper it is below (-1), on (0), above (1); None: no claim
    ("autoregressive", "first_hitting"): -1, ("first_hitting", "autoregressive"): 1, ("event_driven", "first_hitting"): 0,
    ("real", "first_hitting"): None, ("real", "autoregressive"): None,
}  # fmt: skip
GRID = {  # decoder, temperature, steps, sequences
    "smoke": [("first_hitting", 1.0, 0, 3), ("autoregressive", 1.0, 0, 3), ("real", 1.0, 0, 3)],
    "quick": [("first_hitting", 1.0, 0, 1), ("autoregressive", 1.0, 0, 1), ("real", 1.0, 0, 8)],
    "full": [(decoder, t, 0, 24) for decoder in FRONTIERS for t in TEMPERATURES]
    + [("event_driven", 1.0, 4096, 24), ("event_driven", 1.0, 50_000, 24), ("real", 1.0, 0, 64)],
}  # fmt: skip
model = cache(lambda folder: Autocast(load_model(folder)))


def cells(profile):
    weights = "".join(read_json(folder / "manifest.json")["weights_sha256"][:6] for folder in (MDM, AR))
    length, common = SHORT.get(profile, LENGTH), {"weights": weights, "smollm2": profile == "full"}
    return [
        dict(zip(POINT, point, strict=True)) | part | common | {"length": length}
        for *point, total in GRID[profile]
        for part in batches(total, BATCH)
    ]


@cache
def judge(name):
    """The judge and, where it cannot be had, the reason instead."""
    try:
        return SameTokens(SAME, load_model(AR)) if name == SAME else smollm2_judge(MDM / "tokenizer.json"), None
    except Unavailable as error:
        return None, str(error)


def generate(cell, rng):
    """(sequences, length) int64."""
    common = {"batch": cell["sequences"], "length": cell["length"], "rng": rng}
    if cell["decoder"] == "real":
        turn = 1 if cell["smollm2"] else -1  # the long run and a shorter one share no window
        return real_texts(MDM)[::turn][cell["part"] * BATCH :][: cell["sequences"], : cell["length"]]
    if cell["decoder"] == "event_driven":
        return decode.event_driven(model(MDM), lattice_step, steps=cell["steps"], **common).tokens.numpy()
    run, folder = getattr(decode, cell["decoder"]), MDM if cell["decoder"] == "first_hitting" else AR
    return run(model(folder), SAMPLERS["gumbel_max_fp64"], temperature=cell["temperature"], **common).tokens.numpy()


def measure(cell, rng):
    tokens, rows = generate(cell, rng), []
    for name in (SAME, SMOLLM2_NAME)[: 1 + cell["smollm2"]]:
        one, gap = judge(name)
        for k, row in enumerate(one.score(tokens).rows() if one else [{"judge": name, "missing": gap}] * len(tokens)):
            note = {"sequence": k, "sequence_entropy": float(sequence_entropy(tokens[k : k + 1])[0]), "missing": None}
            rows.append(cell | note | row | {"tokens": " ".join(map(str, tokens[k])) if name == SAME else None})  # once
    return rows


def everything(frame):
    return with_long_run(frame, ROOT, "temperature_frontier", [*POINT, *ROW, "length", "weights", "judge"])


def points(frame):
    """(judge, decoder, temperature, steps) -> ids and scores; of the longest text where several lengths are there."""
    longest, found = frame[frame.length == frame.length.max()], {}
    ids = longest[longest.judge == SAME].set_index([*POINT, *ROW]).tokens
    for key, part in longest[longest.missing.isna()].groupby(["judge", *POINT]):
        rows = [ids[row].split() for row in part[[*POINT, *ROW]].itertuples(index=False, name=None)]
        found[key] = np.array(rows, dtype=np.int64), Scores.read(part)
    return found


def summary(frame):
    """One row a point and judge: perplexity beside diversity, 95 % over sequences."""
    row = lambda ids, scores: flat(beside_diversity(ids, scores, rng=np.random.default_rng(0)))  # noqa: E731
    keyed = {key: {"n": len(pair[0])} | row(*pair) for key, pair in points(everything(frame)).items()}
    return pd.DataFrame(dict(zip(["judge", *POINT], key, strict=True)) | rest for key, rest in keyed.items())


def title(key):
    _, decoder, temperature, steps = key
    if decoder in FRONTIERS:
        return f"{FRONTIERS[decoder]}, temperature {temperature:g}"
    return f"masked, float32, N = {steps:,}" if steps else "real text"


def draw(frame):
    figure, panels = figures.canvas(2, width=4.6, height=4.2)
    found = {key: Generated.of(*pair) for key, pair in points(everything(frame)).items()}
    for name, axes in zip((SAME, SMOLLM2_NAME), panels, strict=True):
        mine = [key for key in found if key[0] == name]
        groups = {label: [key for key in mine if key[1] == d] for d, label in FRONTIERS.items()}
        groups |= {title(key): [key] for key in mine if key[1] not in FRONTIERS}
        for k, (label, keys) in enumerate(groups.items()):
            at = np.array([found[key].point() for key in keys]).reshape(-1, 2)
            style = figures.series(6 if label == "real text" else k)
            axes.plot(at[:, 0], np.exp(at[:, 1]), label=label, ls="-" if len(keys) > 1 else "none", **style)
            for key, (x, y) in zip(keys, at, strict=True):
                if key[1] in FRONTIERS:
                    axes.annotate(f"{key[2]:g}", (x, np.exp(y)), (5, -8), textcoords="offset points", fontsize=6.5)
                if len(found[key]) >= FEW:
                    edge = found[key].region().outline()
                    axes.plot(edge[:, 0], np.exp(edge[:, 1]), color=style["color"], lw=0.7)
        axes.set(yscale="log", xlabel="entropy of a sequence (nats)")
        axes.set_yticks([20, 50, 100, 200, 500, 1000, 2000], ["20", "50", "100", "200", "500", "1000", "2000"])
        axes.minorticks_off()
        axes.set_title(f"judge: {name}" + ("" if mine else " (no scores: see the verdict)"))
    panels[0].set_ylabel("generative perplexity (MDLM's pooling)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def compared(found, name):
    """One sentence for each point of COMPARISONS."""
    for (decoder, other), claim in COMPARISONS.items():
        line = {key[2]: point for key, point in found.items() if key[:2] == (name, other)}
        for key in [key for key in found if key[:2] == (name, decoder) and key[2] in (0.9, 1.0)]:
            if len(line) < 3 or min(map(len, [found[key], *line.values()])) < FEW:
                continue
            if (answer := matched_entropy(found[key], line, rng=np.random.default_rng(0))) is None:
                yield f"{title(key)}: {FRONTIERS[other]} does not reach its entropy"
                continue
            r, t, side = answer.ratio, answer.temperature, int(answer.ratio.low > 1) - int(answer.ratio.high < 1)
            none = "not told apart" if np.isfinite(r.low) else "no interval: resamples miss it"
            said = "different" if side not in (0, claim) else "reproduced" if side else none
            yield (f"{title(key)}: {r.value:.2f} [{r.low:.2f}, {r.high:.2f}] of the perplexity of {FRONTIERS[other]} at "
                   f"{t.value:.3f} [{t.low:.3f}, {t.high:.3f}]" + f" ({said})" * (claim is not None))  # fmt: skip


def verdict(frame):
    frame, text = everything(frame), []
    found = {key: Generated.of(*pair) for key, pair in points(frame).items()}
    for name in (SAME, SMOLLM2_NAME):
        rows = frame[frame.judge == name]
        said = [*compared(found, name), *(f"MISSING: {gap}" for gap in rows.missing.dropna().unique())]
        text.append(f"Judge {name}: " + ("; ".join(said) or ("too few points" if len(rows) else "not asked here")))
    few = (frame[frame.judge == SAME].sequence_entropy < 1).sum()
    return "At matched entropy, 95 %. " + ". ".join(text) + f". {few} sequences have less than 1 nat of entropy."


QUESTION = "At equal entropy, does float32 sampling do more than a lower temperature, and which model is better?"
STUDY = Study("temperature_frontier", QUESTION, cells, measure, draw, verdict, summary=summary)
