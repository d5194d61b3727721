"""Speculative functions, right and wrong, each as small as its fault."""

from __future__ import annotations

import numpy as np
import torch

END = -1


def probabilities(logits, dtype=torch.float64):
    return logits.to(dtype).softmax(-1)


def draw(weights, n, generator):
    """(n,) tokens in proportion to a row of weights."""
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def drafted_by(draft_logits, n, generator, dtype=torch.float64):
    """(n, gamma) tokens, each from its row."""
    return draw(probabilities(draft_logits.to(dtype)), n, generator).T.contiguous()


def assembled(drafted, ok, instead, generator):
    """(ids, accepted): drafts up to the first that is not ok, then a token from ``instead`` (gamma + 1,
    vocab)."""
    n, gamma = drafted.shape
    accepted = ok.long().cumprod(1).sum(1)
    ids = torch.full((n, gamma + 1), END)
    ids[:, :gamma] = drafted
    for j in range(gamma + 1):
        at = (accepted == j).nonzero()[:, 0]
        if len(at):
            ids[at, j] = draw(instead[j], len(at), generator)
    ids[torch.arange(gamma + 1) > accepted[:, None]] = END
    return ids, accepted


def residual(p, q):
    """(gamma + 1, vocab) weights of (p - q)+, and of p where all drafts are accepted; p where it is empty."""
    weights = torch.cat([(p[:-1] - q).clamp(min=0), p[-1:]])
    return torch.where(weights.sum(1, keepdim=True) > 0, weights, p)


def at(rows, drafted):
    return rows[torch.arange(drafted.shape[1]), drafted]


def standard(draft_logits, draft_ids, target_logits, *, generator, dtype=torch.float64):
    p, q = probabilities(target_logits, dtype), probabilities(draft_logits, dtype)
    u = torch.rand(draft_ids.shape, dtype=dtype, generator=generator)
    ok = u * at(q, draft_ids) < at(p, draft_ids)
    return assembled(draft_ids, ok, residual(p, q), generator)


def standard_float32(draft_logits, draft_ids, target_logits, *, generator):
    return standard(draft_logits, draft_ids, target_logits, generator=generator, dtype=torch.float32)


def drafting(draft_logits, target_logits, n, *, generator):
    ids = drafted_by(draft_logits, n, generator)
    return standard(draft_logits, ids, target_logits, generator=generator)


def numpy_rule(draft_logits, target_logits, n, *, rng):
    p, q = (np.exp(row.astype(np.float64)) for row in (target_logits, draft_logits))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    gamma = len(q)
    ids = np.full((n, gamma + 1), END)
    accepted = np.zeros(n, dtype=np.int64)
    alive = np.ones(n, dtype=bool)
    for j in range(gamma):
        drafted = rng.choice(q.shape[1], size=n, p=q[j])
        ok = rng.random(n) * q[j, drafted] < p[j, drafted]
        rest = np.maximum(p[j] - q[j], 0)
        rest = rest / rest.sum() if rest.any() else p[j]
        instead = rng.choice(len(rest), size=n, p=rest)
        ids[alive, j] = np.where(ok, drafted, instead)[alive]
        alive &= ok
        accepted += alive
    ids[alive, gamma] = rng.choice(p.shape[1], size=n, p=p[gamma])[alive]
    return ids, accepted


def exact_match(draft_logits, draft_ids, target_logits, *, generator):
    own = draw(probabilities(target_logits), len(draft_ids), generator).T
    ok = own[:, :-1] == draft_ids
    accepted = ok.long().cumprod(1).sum(1)
    ids = own.clone()
    ids[torch.arange(ids.shape[1]) > accepted[:, None]] = END
    return ids, accepted


def exact_match_of_one_noise(draft_logits, target_logits, n, *, generator):
    """Draft and target draw with one vector of Gumbel noise a place: equal more often, and no harm."""
    gamma, vocab = draft_logits.shape
    noise = torch.rand(n, gamma + 1, vocab, dtype=torch.float64, generator=generator)
    gumbel = -(-noise.log()).log()
    own = (probabilities(target_logits).log() + gumbel).argmax(-1)
    drafted = (probabilities(draft_logits).log() + gumbel[:, :gamma]).argmax(-1)
    accepted = (own[:, :gamma] == drafted).long().cumprod(1).sum(1)
    own[torch.arange(gamma + 1) > accepted[:, None]] = END
    return own, accepted


def taken_for_certain(draft_logits, draft_ids, target_logits, *, generator):
    """Keep d if u < p(d), else p without d: the tokens of an exact match, at every place."""
    p = probabilities(target_logits)
    n, gamma = draft_ids.shape
    ok = torch.rand(n, gamma, dtype=torch.float64, generator=generator) < at(p, draft_ids)
    accepted = ok.long().cumprod(1).sum(1)
    ids = torch.full((n, gamma + 1), END)
    ids[:, :gamma] = draft_ids
    rows = torch.arange(n)
    weights = p[accepted]
    lost = accepted < gamma
    weights[rows[lost], draft_ids[rows[lost], accepted[lost]]] = 0
    ids[rows, accepted] = torch.multinomial(weights, 1, generator=generator)[:, 0]
    ids[torch.arange(gamma + 1) > accepted[:, None]] = END
    return ids, accepted


def block_verification(draft_logits, draft_ids, target_logits, *, generator):
    """Sun et al. 2024, algorithm 2: a later draft can rescue an earlier one."""
    p, q = probabilities(target_logits), probabilities(draft_logits)
    n, gamma = draft_ids.shape
    ratio, accepted = torch.ones(n, dtype=torch.float64), torch.zeros(n, dtype=torch.long)
    ratios = [ratio]
    u = torch.rand(n, gamma, dtype=torch.float64, generator=generator)
    for j in range(gamma):
        drafted = draft_ids[:, j]
        ratio = (ratio * p[j, drafted] / q[j, drafted]).clamp(max=1)
        ratios.append(ratio)
        keeps = ratio
        if j + 1 < gamma:
            left = (ratio[:, None] * p[j + 1] - q[j + 1]).clamp(min=0).sum(1)
            room = left + 1 - ratio
            keeps = torch.where(room > 0, left / room, torch.ones_like(room))
        accepted = torch.where(u[:, j] <= keeps, j + 1, accepted)
    ids = torch.full((n, gamma + 1), END)
    ids[:, :gamma] = draft_ids
    rows = torch.arange(n)
    at_end = torch.stack(ratios, 1)[rows, accepted]
    weights = p[accepted].clone()
    lost = accepted < gamma
    weights[lost] = (at_end[lost, None] * p[accepted[lost]] - q[accepted[lost]]).clamp(min=0)
    weights[weights.sum(1) <= 0] = 1.0
    ids[rows, accepted] = torch.multinomial(weights, 1, generator=generator)[:, 0]
    ids[torch.arange(gamma + 1) > accepted[:, None]] = END
    return ids, accepted


# What is wrong follows.


def residual_is_the_target(draft_logits, draft_ids, target_logits, *, generator):
    p, q = probabilities(target_logits), probabilities(draft_logits)
    u = torch.rand(draft_ids.shape, dtype=torch.float64, generator=generator)
    return assembled(draft_ids, u * at(q, draft_ids) < at(p, draft_ids), p, generator)


def ratio_upside_down(draft_logits, draft_ids, target_logits, *, generator):
    p, q = probabilities(target_logits), probabilities(draft_logits)
    u = torch.rand(draft_ids.shape, dtype=torch.float64, generator=generator)
    return assembled(draft_ids, u * at(p, draft_ids) < at(q, draft_ids), residual(p, q), generator)


def accepts_all(draft_logits, draft_ids, target_logits, *, generator):
    p = probabilities(target_logits)
    return assembled(draft_ids, torch.ones_like(draft_ids, dtype=torch.bool), p, generator)


def accepts_none(draft_logits, draft_ids, target_logits, *, generator):
    p = probabilities(target_logits)
    return assembled(draft_ids, torch.zeros_like(draft_ids, dtype=torch.bool), p, generator)


def residual_upside_down(draft_logits, draft_ids, target_logits, *, generator):
    p, q = probabilities(target_logits), probabilities(draft_logits)
    u = torch.rand(draft_ids.shape, dtype=torch.float64, generator=generator)
    weights = torch.cat([(q - p[:-1]).clamp(min=0), p[-1:]])
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, p)
    return assembled(draft_ids, u * at(q, draft_ids) < at(p, draft_ids), weights, generator)


def residual_not_normalised(draft_logits, draft_ids, target_logits, *, generator):
    """An inverse CDF of (p - q)+ whose uniform goes up to 1: what is missing falls to the last token."""
    p, q = probabilities(target_logits), probabilities(draft_logits)
    weights = torch.cat([(p[:-1] - q).clamp(min=0), p[-1:]])
    weights[:, -1] += (1 - weights.sum(1)).clamp(min=0)
    u = torch.rand(draft_ids.shape, dtype=torch.float64, generator=generator)
    return assembled(draft_ids, u * at(q, draft_ids) < at(p, draft_ids), weights, generator)


def one_row_too_far(draft_logits, draft_ids, target_logits, *, generator):
    later = target_logits.roll(-1, 0)
    return standard(draft_logits, draft_ids, later, generator=generator)


def half_precision(draft_logits, draft_ids, target_logits, *, generator):
    """u, p and q in float16: u has 11 bits."""
    p, q = probabilities(target_logits), probabilities(draft_logits)
    u = torch.rand(draft_ids.shape, dtype=torch.float16, generator=generator)
    ok = u < at(p.half(), draft_ids) / at(q.half(), draft_ids)
    return assembled(draft_ids, ok, residual(p, q), generator)


def one_uniform_for_both(draft_logits, draft_ids, target_logits, *, generator):
    """The uniform that rejected also draws the token that replaces."""
    p, q = probabilities(target_logits), probabilities(draft_logits)
    n, gamma = draft_ids.shape
    u = torch.rand(n, gamma, dtype=torch.float64, generator=generator)
    ids, accepted = assembled(draft_ids, u * at(q, draft_ids) < at(p, draft_ids), residual(p, q), generator)
    edges = residual(p, q).cumsum(1)
    lost = (accepted < gamma).nonzero()[:, 0]
    row = accepted[lost]
    again = u[lost, row] * edges[row, -1]
    ids[lost, row] = (edges[row] <= again[:, None]).sum(1).clamp(max=edges.shape[1] - 1)
    return ids, accepted


def draft_uniform_reused(draft_logits, target_logits, n, *, generator):
    """An inverse CDF draws the draft; its uniform is compared with p / q as well."""
    p, q = probabilities(target_logits), probabilities(draft_logits)
    u = torch.rand(n, len(q), dtype=torch.float64, generator=generator)
    edges = q.cumsum(1)
    drafted = torch.stack(
        [torch.searchsorted(edges[j], u[:, j].contiguous(), right=True) for j in range(len(q))], 1
    )
    drafted = drafted.clamp(max=q.shape[1] - 1)
    return assembled(drafted, u * at(q, drafted) < at(p, drafted), residual(p, q), generator)


def noise_of_the_draft(draft_logits, target_logits, n, *, generator):
    """The Gumbel noise that drew the draft also draws the token in place of a rejected one."""
    p, q = probabilities(target_logits), probabilities(draft_logits)
    gamma, vocab = q.shape
    gumbel = -(-torch.rand(n, gamma + 1, vocab, dtype=torch.float64, generator=generator).log()).log()
    drafted = (q.log() + gumbel[:, :gamma]).argmax(-1)
    u = torch.rand(n, gamma, dtype=torch.float64, generator=generator)
    ok = u * at(q, drafted) < at(p, drafted)
    accepted = ok.long().cumprod(1).sum(1)
    instead = (residual(p, q).log() + gumbel).argmax(-1)
    ids = torch.where(
        torch.arange(gamma + 1) < accepted[:, None], torch.cat([drafted, instead[:, -1:]], 1), instead
    )
    ids[torch.arange(gamma + 1) > accepted[:, None]] = END
    return ids, accepted


def same_noise_at_every_place(draft_logits, draft_ids, target_logits, *, generator):
    """An exact match whose target draws one vector of noise for all places."""
    n, gamma = draft_ids.shape
    noise = torch.rand(n, 1, target_logits.shape[1], dtype=torch.float64, generator=generator)
    own = (probabilities(target_logits).log() - (-noise.log()).log()).argmax(-1)
    accepted = (own[:, :-1] == draft_ids).long().cumprod(1).sum(1)
    own[torch.arange(gamma + 1) > accepted[:, None]] = END
    return own, accepted


def drafts_in_bfloat16(draft_logits, target_logits, n, *, generator):
    """Drafted from bfloat16 logits, judged by the float32 ones."""
    drafted = drafted_by(draft_logits.bfloat16(), n, generator)
    return standard(draft_logits, drafted, target_logits, generator=generator)


def trials_in_pairs(draft_logits, target_logits, n, *, generator):
    """Every trial is made twice."""
    ids, accepted = drafting(draft_logits, target_logits, (n + 1) // 2, generator=generator)
    return ids.repeat_interleave(2, 0)[:n], accepted.repeat_interleave(2)[:n]


def half_precision_drafting(draft_logits, target_logits, n, *, generator):
    ids = drafted_by(draft_logits, n, generator)
    return half_precision(draft_logits, ids, target_logits, generator=generator)


# Answers that no trial can give.


def too_many(draft_logits, draft_ids, target_logits, *, generator):
    ids, accepted = standard(draft_logits, draft_ids, target_logits, generator=generator)
    return torch.cat([ids, ids[:, :1]], 1), accepted


def goes_on_after_a_rejection(draft_logits, draft_ids, target_logits, *, generator):
    ids, accepted = standard(draft_logits, draft_ids, target_logits, generator=generator)
    return torch.where(ids == END, 0, ids), accepted


def counts_the_bonus(draft_logits, draft_ids, target_logits, *, generator):
    ids, accepted = standard(draft_logits, draft_ids, target_logits, generator=generator)
    return ids, accepted + 1


def counts_one_more(draft_logits, draft_ids, target_logits, *, generator):
    ids, accepted = standard(draft_logits, draft_ids, target_logits, generator=generator)
    return ids, (accepted + 1).clamp(max=draft_ids.shape[1])


def without_bonus(draft_logits, draft_ids, target_logits, *, generator):
    ids, accepted = standard(draft_logits, draft_ids, target_logits, generator=generator)
    ids[:, -1] = END
    return ids, accepted


def other_drafts(draft_logits, draft_ids, target_logits, *, generator):
    return standard(draft_logits, draft_ids.roll(1, 0), target_logits, generator=generator)


def floats(draft_logits, draft_ids, target_logits, *, generator):
    ids, accepted = standard(draft_logits, draft_ids, target_logits, generator=generator)
    return ids.double(), accepted


def ids_alone(draft_logits, draft_ids, target_logits, *, generator):
    return standard(draft_logits, draft_ids, target_logits, generator=generator)[0]


def ignores_the_generator(draft_logits, draft_ids, target_logits, *, generator):
    fresh = torch.Generator()
    fresh.seed()
    return standard(draft_logits, draft_ids, target_logits, generator=fresh)


def one_answer(draft_logits, draft_ids, target_logits, *, generator):
    n, gamma = draft_ids.shape
    ids = torch.full((n, gamma + 1), END)
    ids[:, 0] = 0
    return ids, torch.zeros(n, dtype=torch.long)


def global_noise(draft_logits, draft_ids, target_logits, *, generator):
    torch.rand(1)
    return standard(draft_logits, draft_ids, target_logits, generator=generator)


def in_place(draft_logits, draft_ids, target_logits, *, generator):
    target_logits.sub_(1.0)
    return standard(draft_logits, draft_ids, target_logits, generator=generator)


def raises(draft_logits, draft_ids, target_logits, *, generator):
    raise RuntimeError("no kernel image")


def without_source(draft_logits, draft_ids, target_logits):
    return draft_ids, draft_ids[:, 0]


def without_n(draft_logits, target_logits, *, generator):
    return draft_logits, target_logits
