"""The inner loops of :mod:`.argmax`, compiled: find where a threshold cuts every token's atoms, and sweep
the events between two thresholds. Plain IEEE arithmetic, no fast-math; the interpreter lock is released."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

MOMENTS = 6  # terms of the binomial series for a class of equal tokens
# largest (members x odds) at which it is used: the remainder is below SMALL^6 / 6! = 1.3e-12, relative
SMALL = 2.0**-5
ADD, DIVIDE, MULTIPLY, RATIO = 0, 1, 2, 3  # how weight and noise make a score: see :func:`score`
AS_COMPUTED, TO_BF16, TO_FP16 = 0, 1, 2  # the second rounding of a score
INFINITE = np.finfo(np.float64).max  # the key of a score of +inf; that of NaN is inf
jit = njit(nogil=True, cache=True, error_model="numpy")


@jit
def round_half(x, format):
    """Nearest bfloat16 (``TO_BF16``) or float16 (``TO_FP16``), ties to even, of a float32."""
    bits = np.float32(x).view(np.uint32)
    if (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000):
        return x  # inf, NaN
    if format == TO_BF16:
        bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return np.uint32(bits).view(np.float32)
    if abs(x) < np.float32(2.0**-14):  # subnormal: multiples of 2^-24
        return np.float32((x + np.float32(0.75)) - np.float32(0.75))
    bits = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
    y = np.uint32(bits).view(np.float32)
    return y if abs(y) <= np.float32(65504.0) else np.float32(np.copysign(np.float32(np.inf), y))


@jit
def score(weight, noise, combine, format):
    """The rounded score as float64: w + noise, w / noise, w noise, or -(noise / w), whose largest is the
    least noise / w. NaN, which wins in torch, becomes inf, and inf the largest finite number."""
    if combine == ADD:
        s = weight + noise
    elif combine == DIVIDE:
        s = weight / noise
    elif combine == MULTIPLY:
        s = weight * noise
    else:
        s = -(noise / weight)
    if format != AS_COMPUTED:
        s = round_half(s, format)
    key = np.float64(s)
    if math.isnan(key):
        return np.inf
    return INFINITE if key == np.inf else key


@jit
def threshold(x, top, combine):
    """The score of a token of weight ``top`` whose exponential is ``x``: falls from inf at 0 to -inf at inf."""
    if not x > 0:
        return np.inf
    if x == np.inf:
        return -np.inf
    if combine == ADD:
        return top - math.log(x)
    return -(x / top) if combine == RATIO else top / x


@jit
def between(low, high, halvings):
    """The float that ``halvings`` bisections of the floats in [low, high) towards high lead to: at least
    low, below high.

    Floats are counted, not measured: 64 bisections leave the last float below high, whatever the two ends."""
    for _ in range(halvings):
        if low < 0.0 < high:
            low = 0.0
        elif high > 0.0:
            a, b = np.float64(abs(low)).view(np.int64), np.float64(high).view(np.int64)
            low = np.int64(a + (b - a) // 2).view(np.float64)
        else:  # below 0 the bits fall as the value rises
            a, b = np.float64(low).view(np.int64), np.float64(-abs(high)).view(np.int64)
            low = np.int64(a - (a - b) // 2).view(np.float64)
    return low


@jit
def locate(weights, order, noise, combine, format, limit, out):
    """out[c] = how many atoms of class c score at or above ``limit``; in order of weight, so that answers
    are neighbours."""
    count, guess = len(noise), 0
    for c in order:
        w = weights[c]
        low, high, width = guess - 1, guess, 1  # sought: score(low) >= limit > score(high)
        while low >= 0 and score(w, noise[low], combine, format) < limit:
            high, low, width = low, max(low - width, -1), 2 * width
        width = 1
        while high < count and score(w, noise[high], combine, format) >= limit:
            low, high, width = high, min(high + width, count), 2 * width
        while high - low > 1:
            middle = (low + high) // 2
            if score(w, noise[middle], combine, format) >= limit:
                low = middle
            else:
                high = middle
        out[c] = guess = high


@jit
def add(total, i, value):
    """total[i] += value, compensated (Kahan): total[i, 0] is the sum, total[i, 1] what it lacks."""
    y = value - total[i, 1]
    t = total[i, 0] + y
    total[i, 1] = (t - total[i, 0]) - y
    total[i, 0] = t


@jit
def spend(product, lacking, fate):
    """One event of ``product``: (what its token gets, what is left, ``lacking`` with what the subtraction
    rounded away).

    ``fate``: the odds o, or -f = o - 1 where o > 1/2, so that either is known to a few ulp.
    """
    if fate > 0:
        taken = product * fate
        left = product - taken
        lacking += (product - left) - taken
    else:
        taken = product * (1.0 + fate)
        left = product * -fate
        lacking = lacking * -fate
    return taken, left, lacking


@jit
def give_back(product, lacking):
    """``product`` with what it lacks, and what the addition rounds away."""
    total = product + lacking
    return total, lacking - (total - product)


# Sorting by hand: numba's argsort and slice assignment take eight seconds more to compile.


@jit
def move(pair, who, source, target, from_pair, from_who):
    pair[target, 0] = from_pair[source, 0]
    pair[target, 1] = from_pair[source, 1]
    who[target] = from_who[source]


@jit
def insertion_sort(pair, who, start, stop):
    """Entries start..stop by falling key, equal keys in their order."""
    for i in range(start + 1, stop):
        key = pair[i, 0]
        fate = pair[i, 1]
        owner = who[i]
        j = i - 1
        while j >= start and pair[j, 0] < key:
            move(pair, who, j, j + 1, pair, who)
            j -= 1
        pair[j + 1, 0] = key
        pair[j + 1, 1] = fate
        who[j + 1] = owner


@jit
def settle(pair, who, start, stop, spare, spare_who):
    """Order a bucket by falling key, keeping the order of equal keys; a few entries as a rule. ``spare``:
    room for as many entries at the same places."""
    width = 24
    for at in range(start, stop, width):
        insertion_sort(pair, who, at, min(at + width, stop))
    while width < stop - start:
        for at in range(start, stop, 2 * width):
            left = at
            middle = min(at + width, stop)
            right = middle
            end = min(at + 2 * width, stop)
            for k in range(at, end):
                if left < middle and (right >= end or pair[left, 0] >= pair[right, 0]):
                    move(spare, spare_who, left, k, pair, who)
                    left += 1
                else:
                    move(spare, spare_who, right, k, pair, who)
                    right += 1
        for k in range(start, stop):
            move(pair, who, k, k, spare, spare_who)
        width *= 2


@jit
def sift(tokens, owners, root, size):
    """Put ``root`` in its place in a heap with the largest token on top."""
    while 2 * root + 1 < size:
        child = 2 * root + 1
        if child + 1 < size and tokens[child + 1] > tokens[child]:
            child += 1
        if tokens[root] >= tokens[child]:
            return
        tokens[root], tokens[child] = tokens[child], tokens[root]
        owners[root], owners[child] = owners[child], owners[root]
        root = child


@jit
def sort_tokens(tokens, owners):
    """Distinct tokens ascending, each with its owner: heap sort."""
    size = len(tokens)
    for root in range(size // 2 - 1, -1, -1):
        sift(tokens, owners, root, size)
    for last in range(size - 1, 0, -1):
        tokens[0], tokens[last] = tokens[last], tokens[0]
        owners[0], owners[last] = owners[last], owners[0]
        sift(tokens, owners, 0, last)


@jit
def sweep(
    weights,
    noise,
    remaining,
    first,
    members,
    combine,
    format,
    top,
    x0,
    x1,
    step,
    room,
    stop,
    product,
    pos,
    gain,
    moments,
):
    """All events with a score in [threshold(x1), threshold(x0)), best first.

    ``pos``: (classes,) where each class stands at x0, moved to x1. ``product``: prod_j F_j at x0. An event
    (class c of m equal tokens, atoms a..b of one score) of odds o = 1 - f, f = remaining[b] / remaining[a],
    gives its k-th member P o (1 - o)^k and leaves P (1 - o)^m: mass goes from ``product`` to ``gain`` and
    nothing else happens. For a class alone at its score with m o <= SMALL the k-th gain is sum_r (-1)^r
    C(k, r) P o^(r+1), kept as ``moments``. An event's ``fate`` is o, or -f where o > 1/2, so that either is
    known to a few ulp. What the subtractions from ``product`` round away is gathered in ``lacking`` and
    given back every 64 events: the error is in proportion to the mass spent, not to the number of events.
    Windows are chosen in x. Where no smaller step in x gives fewer events (x at the ends of its floats, or
    a threshold that moves by less than its own rounding), the window is halved in the count of floats
    between its two thresholds instead, down to one score, at which each class has one event: so every
    window fits in the end. Ends early once the product is at most ``stop``. Returns the product left and
    the work done: (atoms read, tokens looked at), windows that were tried in vain included.
    """
    classes = len(weights)
    atoms = len(noise)
    atoms_read = 0
    tokens_seen = 0
    halvings = 0
    wish = max(1 << 15, classes // 2)  # events that a window should hold; it can hold ``room``
    raw = np.empty((room, 2))  # (key, fate) of the events of a window, as they come
    raw_who = np.empty(room, np.int32)  # their classes
    pair = np.empty((room, 2))  # the same, best first
    who = np.empty(room, np.int32)
    bucket = np.empty(room, np.int32)
    upto = np.empty(room + 1, np.int32)
    ahead = np.empty(classes)  # the score of each class's next event
    start = np.empty(classes, np.int64)
    fates = np.zeros(classes)
    lead = members[first[:-1]]  # the first token of each class
    owner = np.empty(len(members), np.int32)  # the class of each token
    level_of = np.full(classes, -1)  # the last crowded score at which a class had an event
    level = 0
    for c in range(classes):
        for k in range(first[c], first[c + 1]):
            owner[members[k]] = c
    inverse = combine == DIVIDE or combine == MULTIPLY  # the key that is linear in x: 1 / score, or -score
    for c in range(classes):
        ahead[c] = score(weights[c], noise[pos[c]], combine, format) if pos[c] < atoms else -np.inf
    lacking = 0.0
    x = x0
    above = threshold(x0, top, combine)
    while x < x1 and product > stop:
        y = min(max(x + step, np.nextafter(x, np.inf)), x1)
        goal = threshold(y, top, combine)
        limit = between(goal, above, halvings) if goal < above else goal
        n, fits = 0, True
        tokens_seen += classes
        for c in range(classes):
            start[c] = pos[c]
        for c in range(classes):
            if ahead[c] < limit or pos[c] >= atoms:
                continue
            k, w, s = pos[c], weights[c], ahead[c]
            while k < atoms and s >= limit:
                if n == room:
                    fits = False
                    break
                was, before = s, remaining[k]
                while k < atoms and s == was:  # coarse scores: several atoms, one event
                    k += 1
                    s = score(w, noise[k], combine, format) if k < atoms else -np.inf
                odds = (before - remaining[k]) / before
                raw[n, 0], raw[n, 1], raw_who[n] = was, odds if odds <= 0.5 else -(remaining[k] / before), c
                n += 1
            atoms_read += k - pos[c]
            if not fits:
                break
            pos[c], ahead[c] = k, s
        if not fits:  # undo, and try a smaller window
            for c in range(classes):
                if pos[c] != start[c]:
                    pos[c] = start[c]
                    ahead[c] = score(weights[c], noise[pos[c]], combine, format)
            smaller = (y - x) / 4 if y < np.inf else max(x, 1.0)
            if halvings == 0 and max(x + smaller, np.nextafter(x, np.inf)) < y:
                step = smaller
            else:
                halvings += 1
            continue
        if halvings > 0:
            if n < wish // 2:
                halvings -= 1
        elif n < wish // 2:
            step *= 2
        elif n > 2 * wish and y < np.inf:
            step = (y - x) / 2
        if limit <= goal:
            x, halvings = y, 0
        if n == 0:
            above = limit
            continue
        # counting sort on a monotone map of the key, then order inside buckets
        low, high = (1.0 / above, 1.0 / limit) if inverse else (-above, -limit)
        if not (low > -1e300 and high < 1e300):
            low, high = np.inf, -np.inf
            for e in range(n):
                s = 1.0 / raw[e, 0] if inverse else -raw[e, 0]
                if s < 1e300 and s > -1e300:
                    low, high = min(low, s), max(high, s)
        scale = (n - 1) / (high - low) if high > low else 0.0
        if not scale < 1e300:
            scale = 0.0
        for b in range(n + 1):
            upto[b] = 0
        for e in range(n):
            s = ((1.0 / raw[e, 0] if inverse else -raw[e, 0]) - low) * scale
            b = 0 if not s > 0 else (n - 1 if s >= n else int(s))
            bucket[e] = b
            upto[b + 1] += 1
        for b in range(n):
            upto[b + 1] += upto[b]
        for e in range(n):
            at = upto[bucket[e]]
            upto[bucket[e]] = at + 1
            pair[at, 0], pair[at, 1], who[at] = raw[e, 0], raw[e, 1], raw_who[e]
        a = 0
        for b in range(n):
            if upto[b] - a > 1:
                settle(pair, who, a, upto[b], raw, raw_who)
            a = upto[b]
        # the sweep
        i = 0
        while i < n:
            if not i & 63:
                product, lacking = give_back(product, lacking)
            j, crowd = i + 1, first[who[i] + 1] - first[who[i]]
            while j < n and pair[j, 0] == pair[i, 0]:
                crowd += first[who[j] + 1] - first[who[j]]
                j += 1
            f = pair[i, 1]
            if crowd == j - i:  # as many tokens as events: no equal ones; in order of index already
                for e in range(i, j):
                    taken, product, lacking = spend(product, lacking, pair[e, 1])
                    add(gain, lead[who[e]], taken)
            elif j == i + 1 and f > 0 and crowd * f <= SMALL:
                g = product * f
                for r in range(MOMENTS):
                    add(moments[r], who[i], g)
                    g *= f
                g = product * -math.expm1(crowd * math.log1p(-f))
                t = product - g
                lacking += (product - t) - g
                product = t
            # most of the vocabulary at one score: all tokens, in order
            elif j > i + 1 and crowd * 8 > len(members):
                for e in range(i, j):
                    fates[who[e]] = pair[e, 1]
                    level_of[who[e]] = level
                tokens_seen += len(members)
                for token in range(len(members)):
                    c = owner[token]
                    if level_of[c] == level:
                        taken, product, lacking = spend(product, lacking, fates[c])
                        add(gain, token, taken)
                        product, lacking = give_back(product, lacking)
                level += 1
            else:  # equal tokens among others at one score: one by one, in order of index
                tokens = np.empty(crowd, np.int64)
                whose = np.empty(crowd, np.int32)
                m = 0
                for e in range(i, j):
                    fates[who[e]] = pair[e, 1]
                    for k in range(first[who[e]], first[who[e] + 1]):
                        tokens[m], whose[m] = members[k], who[e]
                        m += 1
                tokens_seen += crowd
                if j > i + 1:
                    sort_tokens(tokens, whose)
                for turn in range(crowd):
                    taken, product, lacking = spend(product, lacking, fates[whose[turn]])
                    add(gain, tokens[turn], taken)
                    product, lacking = give_back(product, lacking)
            i = j
        above = limit
    return product + lacking, atoms_read, tokens_seen


@jit
def log_product(remaining, first, pos):
    """sum_j log F_j, F_j = remaining[pos] / remaining[0], to a few ulp of the sum: log1p near 1,
    compensated addition."""
    s, lacking, total = 0.0, 0.0, remaining[0]
    for c in range(len(pos)):
        if pos[c]:
            left = remaining[pos[c]]
            log_f = math.log1p(-((total - left) / total)) if 2 * left > total else math.log(left / total)
            y = (first[c + 1] - first[c]) * log_f - lacking
            t = s + y
            lacking = (t - s) - y
            s = t
            if s == -np.inf:
                return s
    return s


@jit
def spread(moments, first, members, gain):
    """Give each member of a class of equal tokens its part: the k-th gets sum_r (-1)^r C(k, r) moments[r]."""
    for c in range(len(first) - 1):
        if moments[0, c, 0] == 0.0:
            continue
        for m in range(first[c], first[c + 1]):
            k, binomial, value = m - first[c], 1.0, 0.0
            for r in range(MOMENTS):
                value += binomial * moments[r, c, 0]
                binomial *= -(k - r) / (r + 1)
            add(gain, members[m], value)
