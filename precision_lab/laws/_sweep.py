"""The inner loops of :mod:`.argmax`: find where a threshold cuts every token's atoms, and sweep the events
between two thresholds. Loops over tokens and events are compiled, in plain IEEE arithmetic, without
fast-math and with the interpreter lock released. What is done once a window is plain Python, which need not
be compiled."""

from __future__ import annotations

import math
import struct

import numpy as np
from numba import njit

MOMENTS = 6  # terms of the binomial series for a class of equal tokens
# largest (members x odds) at which it is used: the remainder is below SMALL^6 / 6! = 1.3e-12, relative
SMALL = 2.0**-5
KEY, FATE, CLASS = 0, 1, 2  # the columns of events; a class is a whole number
ADD, DIVIDE, MULTIPLY, RATIO = 0, 1, 2, 3  # how weight and noise make a score: see :func:`score`
AS_COMPUTED, TO_BF16, TO_FP16 = 0, 1, 2  # the second rounding of a score
SHIFT = 32  # the furthest that an event is moved by insertion
FEW = 32  # tokens that are sorted by insertion
DIGIT = 9  # bits
DIGITS = 1 << DIGIT
LANES = 8  # scores whose tokens are visited once for all
TURNS = 64  # tokens after which a lane is settled
# The largest -log of the share of a product that one score may leave, so that what lanes spend is no more than
# half of it, and what is left is known to a few ulp
GENTLE = math.log(2.0)
SLIGHT = 2.0**-23  # the same, up to which the order of the tokens of one score is left out; see :func:`share`
INFINITE = np.finfo(np.float64).max  # the key of a score of +inf; that of NaN is inf
jit = njit(nogil=True, cache=True, error_model="numpy")
# Called by compiled functions alone. The two options, which no stub lists, save a second of compilation.
part = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]


@part
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


@part
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


def threshold(x, top, combine):
    """The score of a token of weight ``top`` whose exponential is ``x``: falls from inf at 0 to -inf at inf."""
    if not x > 0:
        return math.inf
    if x == math.inf:
        return -math.inf
    if combine == ADD:
        return top - math.log(x)
    if combine == RATIO:
        return -(x / top) if top else -math.inf
    return top / x


def bits_of(x):
    """The 64 bits of a float64 as a signed integer."""
    return struct.unpack("<q", struct.pack("<d", x))[0]


def float_of(bits):
    return struct.unpack("<d", struct.pack("<q", bits))[0]


def between(low, high, halvings):
    """The float that ``halvings`` bisections of the floats in [low, high) towards high lead to: at least
    low, below high.

    Floats are counted, not measured: 64 bisections leave the last float below high, whatever the two ends."""
    for _ in range(halvings):
        if low < 0.0 < high:
            low = 0.0
            continue
        # below 0 the bits fall as the value rises
        a = bits_of(abs(low) if high > 0.0 else low)
        b = bits_of(high if high > 0.0 else -abs(high))
        low = float_of(a + (b - a) // 2 if high > 0.0 else a - (a - b) // 2)
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


@part
def add(total, i, value):
    """total[i] += value, compensated (Kahan): total[i, 0] is the sum, total[i, 1] what it lacks."""
    y = value - total[i, 1]
    t = total[i, 0] + y
    total[i, 1] = (t - total[i, 0]) - y
    total[i, 0] = t


@part
def spend(product, lacking, fate):
    """One event of ``product``: (what its token gets, what is left, what is left of ``lacking`` with what the
    subtraction rounded away). Both fall in proportion, so that the product stays right, and above 0, however
    small it gets.

    ``fate``: the odds o, or -f = o - 1 where o > 1/2, so that either is known to a few ulp.
    """
    if fate > 0:
        taken = product * fate
        left = product - taken
        lacking += (product - left) - taken - lacking * fate
    else:
        taken = product * (1.0 + fate)
        left = product * -fate
        lacking = lacking * -fate
    return taken, left, lacking


@part
def give_back(product, lacking):
    """``product`` with what it lacks, and what the addition rounds away."""
    total = product + lacking
    return total, lacking - (total - product)


@jit
def next_scores(weights, noise, combine, format, pos, ahead):
    """ahead[c] = the score of the next event of class c, -inf where there is none."""
    for c in range(len(weights)):
        ahead[c] = score(weights[c], noise[pos[c]], combine, format) if pos[c] < len(noise) else -np.inf


@part
def end_of_run(w, noise, combine, format, low, key):
    """The first atom after ``low`` that does not score ``key``, as ``low`` does, and how many were looked at: by
    doubled steps, then by bisection. A weight that absorbs all noise has one score for millions of atoms.
    """
    atoms = len(noise)
    looked_at = 0
    high = low + 1
    width = 1
    while high < atoms and score(w, noise[high], combine, format) == key:
        low = high
        width *= 2
        high = min(high + width, atoms)
        looked_at += 1
    while high - low > 1:
        middle = (low + high) // 2
        if score(w, noise[middle], combine, format) == key:
            low = middle
        else:
            high = middle
        looked_at += 1
    return high, looked_at


@jit
def collect(weights, noise, remaining, combine, format, limit, pos, ahead, events):
    """The events of every class that score at or above ``limit``, class by class, each by falling score, as
    rows (key, fate, class) of ``events``. ``pos``, and ``ahead``, the score of each class's next event,
    move on.

    Returns (how many, atoms read); -1 where there is no room for all."""
    atoms = len(noise)
    room = len(events)
    n = 0
    atoms_read = 0
    for c in range(len(weights)):
        s = ahead[c]
        k = pos[c]
        if s < limit or k >= atoms:
            continue
        w = weights[c]
        while k < atoms and s >= limit:
            if n == room:
                return -1, atoms_read
            was = s
            before = remaining[k]
            k += 1
            atoms_read += 1
            s = score(w, noise[k], combine, format) if k < atoms else -np.inf
            if k < atoms and s == was:  # coarse scores: several atoms, one event
                k, looked_at = end_of_run(w, noise, combine, format, k, was)
                atoms_read += looked_at
                s = score(w, noise[k], combine, format) if k < atoms else -np.inf
            odds = (before - remaining[k]) / before
            events[n, KEY] = was
            events[n, FATE] = odds if odds <= 0.5 else -(remaining[k] / before)
            events[n, CLASS] = c
            n += 1
        pos[c] = k
        ahead[c] = s
    return n, atoms_read


def span(key, inverse, above, limit):
    """The ends of 1 / key, or of -key, between two thresholds; of the keys themselves where those are at the
    end of the floats."""
    with np.errstate(divide="ignore", over="ignore"):
        low, high = np.reciprocal([above, limit]) if inverse else (-above, -limit)
        if low > -1e300 and high < 1e300:
            return float(low), float(high)
        places = 1.0 / key if inverse else -key
    places = places[(places > -1e300) & (places < 1e300)]
    return (float(places.min()), float(places.max())) if len(places) else (math.inf, -math.inf)


@jit
def bucket_sort(n, inverse, low, high, bucket, upto, raw, events):
    """The first ``n`` events of ``raw`` by falling key, equal keys as they come, into ``events``: a counting
    sort on a map of the key that is linear in x, from ``low`` to ``high``, and insertion of what is left.
    ``upto``: (n + 1,) zeros. Returns False where insertion would move an event by more than ``SHIFT``."""
    scale = (n - 1) / (high - low) if high > low else 0.0
    if not scale < 1e300:
        scale = 0.0
    for e in range(n):
        s = ((1.0 / raw[e, KEY] if inverse else -raw[e, KEY]) - low) * scale
        b = 0 if not s > 0 else (n - 1 if s >= n else int(s))
        bucket[e] = b
        upto[b + 1] += 1
    for b in range(n):
        upto[b + 1] += upto[b]
    for e in range(n):
        at = upto[bucket[e]]
        upto[bucket[e]] = at + 1
        events[at, KEY] = raw[e, KEY]
        events[at, FATE] = raw[e, FATE]
        events[at, CLASS] = raw[e, CLASS]
    for e in range(1, n):
        key = events[e, KEY]
        if key > events[e - 1, KEY]:
            fate = events[e, FATE]
            c = events[e, CLASS]
            at = e
            while at > 0 and events[at - 1, KEY] < key:
                if e - at == SHIFT:
                    return False
                events[at, KEY] = events[at - 1, KEY]
                events[at, FATE] = events[at - 1, FATE]
                events[at, CLASS] = events[at - 1, CLASS]
                at -= 1
            events[at, KEY] = key
            events[at, FATE] = fate
            events[at, CLASS] = c
    return True


@part
def sort_tokens(size, tokens, spare, count):
    """Put the first ``size`` tokens, which are distinct, in ascending order: by insertion where they are few,
    else by their digits, the last first. ``count``: (DIGITS + 1,) integers, of any value."""
    if size <= FEW:
        for e in range(1, size):
            token = tokens[e]
            at = e
            while at > 0 and tokens[at - 1] > token:
                tokens[at] = tokens[at - 1]
                at -= 1
            tokens[at] = token
        return
    largest = 0
    for e in range(size):
        largest = max(largest, tokens[e])
    shift = 0
    while largest >> shift:
        for digit in range(DIGITS + 1):
            count[digit] = 0
        for e in range(size):
            count[(tokens[e] >> shift & (DIGITS - 1)) + 1] += 1
        for digit in range(DIGITS):
            count[digit + 1] += count[digit]
        for e in range(size):
            digit = tokens[e] >> shift & (DIGITS - 1)
            at = count[digit]
            count[digit] = at + 1
            spare[at] = tokens[e]
        for e in range(size):
            tokens[e] = spare[e]
        shift += DIGIT


@part
def left_by(i, j, events, first):
    """-log of the share of a product that events i to j leave; inf where one has odds above 1/2."""
    exponent = 0.0
    for e in range(i, j):
        fate = events[e, FATE]
        if not fate > 0:
            return np.inf
        c = int(events[e, CLASS])
        exponent += (first[c + 1] - first[c]) * -math.log1p(-fate)
    return exponent


@part
def enter(i, j, events, lane, odds, listed, entered, entrants):
    """The fates of events i to j into a lane of ``odds``, and their classes into the list ``entrants``, each
    once. Returns the length of the list, which was ``entered``."""
    for e in range(i, j):
        c = int(events[e, CLASS])
        if not listed[c]:
            listed[c] = 1
            entrants[entered] = c
            entered += 1
        odds[c, lane] = events[e, FATE]
    return entered


@part
def gather(entered, entrants, first, members, owner, listed, tokens, spare, count):
    """The tokens of the first ``entered`` classes of ``entrants``, ascending, into ``tokens``. Returns (how
    many, tokens looked at)."""
    crowd = 0
    for at in range(entered):
        crowd += first[entrants[at] + 1] - first[entrants[at]]
    m = 0
    if crowd * 8 > len(members):
        for token in range(len(members)):
            tokens[m] = token
            m += listed[owner[token]]
        return m, len(members)
    for at in range(entered):
        for k in range(first[entrants[at]], first[entrants[at] + 1]):
            tokens[m] = members[k]
            m += 1
    sort_tokens(m, tokens, spare, count)
    return m, crowd


@part
def spend_lanes(m, tokens, owner, odds, start, spent, lacking, gain):
    """Spend each ``start[lane]`` on the first ``m`` tokens, in their order, by ``odds[class, lane]``; the lanes of
    a token side by side. ``spent`` and ``lacking``: (LANES,) of any value, room for what each lane has spent
    since ``start``, taken off every ``TURNS`` tokens, and for what that rounds away. No lane spends more than
    half; see :data:`GENTLE`."""
    spent[:] = 0.0
    lacking[:] = 0.0
    for turn in range(m):
        token = tokens[turn]
        c = owner[token]
        value = 0.0
        for lane in range(LANES):
            taken = (start[lane] - spent[lane]) * odds[c, lane]
            spent[lane] += taken
            value += taken
        add(gain, token, value)
        if turn % TURNS == TURNS - 1:
            for lane in range(LANES):
                left = start[lane] - spent[lane]
                lacking[lane] += (start[lane] - left) - spent[lane]
                start[lane], lacking[lane] = give_back(left, lacking[lane])
                spent[lane] = 0.0


@part
def share(i, j, events, product, exponent, moments, doubt):
    """Give the tokens of events i to j their parts of a score at which hardly anything is spent, whatever their
    order: a token of odds o gets between P o e^-exponent and P o, and the middle of it is within ``doubt``."""
    for e in range(i, j):
        c = int(events[e, CLASS])
        most = product * events[e, FATE]
        add(moments[0], c, most * (1.0 - 0.5 * exponent))
        doubt[c] += 0.5 * most * exponent


@part
def take(product, lacking, exponent):
    """What is left of ``product`` after a share of 1 - e^-exponent, and of ``lacking``, with what that rounds
    away."""
    spent = -math.expm1(-exponent)
    taken = product * spent
    left = product - taken
    return left, lacking + ((product - left) - taken) - lacking * spent


@jit
def spend_all(
    n,
    events,
    first,
    members,
    owner,
    odds,
    listed,
    entrants,
    tokens,
    spare,
    count,
    product,
    lacking,
    gain,
    moments,
    doubt,
):
    """Spend ``product`` on ``n`` ordered events. Returns what is left, in two parts, and the tokens looked
    at.

    Of a score that equal tokens share with others the product before it is kept, in ``start``, and what is
    left of it is known without a look at the tokens; these get their parts once ``LANES`` such scores have
    come."""
    start = np.zeros(LANES)
    spent = np.empty(LANES)
    owed = np.empty(LANES)
    tokens_seen = 0
    lanes = 0
    entered = 0
    settle = False
    i = 0
    turn = 0
    while i < n or entered > 0:
        if settle or i == n:
            m, looked_at = gather(entered, entrants, first, members, owner, listed, tokens, spare, count)
            tokens_seen += looked_at
            if lanes > 0:
                spend_lanes(m, tokens, owner, odds, start, spent, owed, gain)
            else:  # one score that leaves little: one by one
                for at in range(m):
                    taken, product, lacking = spend(product, lacking, odds[owner[tokens[at]], 0])
                    add(gain, tokens[at], taken)
                    product, lacking = give_back(product, lacking)
            for at in range(entered):
                odds[entrants[at]] = 0.0
                listed[entrants[at]] = 0
            entered = 0
            lanes = 0
            settle = False
            continue
        turn += 1
        if not turn & 63:
            product, lacking = give_back(product, lacking)
        c = int(events[i, CLASS])
        crowd = first[c + 1] - first[c]
        j = i + 1
        while j < n and events[j, KEY] == events[i, KEY]:
            other = int(events[j, CLASS])
            crowd += first[other + 1] - first[other]
            j += 1
        f = events[i, FATE]
        if crowd == j - i:  # as many tokens as events: no equal ones; in order of index already
            for e in range(i, j):
                taken, product, lacking = spend(product, lacking, events[e, FATE])
                add(gain, members[first[int(events[e, CLASS])]], taken)
            i = j
            continue
        if j == i + 1 and f > 0 and crowd * f <= SMALL:
            g = product * f
            for r in range(MOMENTS):
                add(moments[r], c, g)
                g *= f
            product, lacking = take(product, lacking, crowd * -math.log1p(-f))
            i = j
            continue
        exponent = left_by(i, j, events, first)
        if exponent > GENTLE:
            settle = True
            if lanes == 0:
                entered = enter(i, j, events, 0, odds, listed, entered, entrants)
                i = j
            continue
        product, lacking = give_back(product, lacking)
        if exponent <= SLIGHT:
            share(i, j, events, product, exponent, moments, doubt)
        else:
            entered = enter(i, j, events, lanes, odds, listed, entered, entrants)
            start[lanes] = product
            lanes += 1
            settle = lanes == LANES
        product, lacking = take(product, lacking, exponent)
        i = j
    return product, lacking, tokens_seen


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
    doubt,
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
    vocab = len(members)
    raw = np.empty((room, 3))  # the events of a window, as they come
    events = np.empty((room, 3))  # the same, best first
    bucket = np.empty(room, np.int32)
    upto = np.empty(room + 1, np.int32)
    owner = np.empty(vocab, np.int32)  # the class of each token
    owner[members] = np.repeat(np.arange(classes, dtype=np.int32), np.diff(first))
    crowd = (
        np.zeros((classes, LANES)),  # the fate of each class at some scores
        np.zeros(classes, np.int8),  # whether it has one, and a list of those that do
        np.empty(classes, np.int32),
        np.empty(vocab, np.int32),  # tokens, and room to sort them
        np.empty(vocab, np.int32),
        np.empty(DIGITS + 1, np.int32),
    )
    ahead = np.empty(classes)  # the score of each class's next event
    next_scores(weights, noise, combine, format, pos, ahead)
    wish = max(1 << 15, classes // 2)  # events that a window should hold; it can hold ``room``
    inverse = combine in (DIVIDE, MULTIPLY)  # the key that is linear in x: 1 / score, or -score
    atoms_read = 0
    tokens_seen = 0
    halvings = 0
    lacking = 0.0
    x = x0
    above = threshold(x0, top, combine)
    while x < x1 and product > stop:
        y = min(max(x + step, math.nextafter(x, math.inf)), x1)
        goal = threshold(y, top, combine)
        limit = between(goal, above, halvings) if goal < above else goal
        tokens_seen += classes
        before = pos.copy(), ahead.copy()
        n, read = collect(weights, noise, remaining, combine, format, limit, pos, ahead, raw)
        atoms_read += read
        if n < 0:  # undo, and try a smaller window
            pos[:], ahead[:] = before
            smaller = (y - x) / 4 if y < math.inf else max(x, 1.0)
            if halvings == 0 and max(x + smaller, math.nextafter(x, math.inf)) < y:
                step = smaller
            else:
                halvings += 1
            continue
        if halvings > 0:
            if n < wish // 2:
                halvings -= 1
        elif n < wish // 2:
            step *= 2
        elif n > 2 * wish and y < math.inf:
            step = (y - x) / 2
        if limit <= goal:
            x, halvings = y, 0
        if n:
            low, high = span(raw[:n, KEY], inverse, above, limit)
            upto[: n + 1] = 0
            if not bucket_sort(n, inverse, low, high, bucket, upto, raw, events):
                events[:n] = raw[np.argsort(-raw[:n, KEY], kind="stable")]
            product, lacking, seen = spend_all(
                n, events, first, members, owner, *crowd, product, lacking, gain, moments, doubt
            )
            tokens_seen += seen
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
