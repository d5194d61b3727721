"""A reading is believed only if it draws the same ids as the function, from the same generator state."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError, PrecisionLabError
from ...types import Array
from .anatomy import DTYPE_NAMES, Draw, GatedDraw, LibraryDraw, RaceDraw, ThresholdDraw, draws_of
from .calling import Calling, global_state, start
from .chain import NoiseMap
from .plants import planting
from .record import DECLARE, Plant, Record, Step, record, refused, without_checks
from .tokens import repeated

# (draws, rows, vocabulary) of the calls: 4,690 draws in all, with ties and -inf among the logits.
SHAPES = ((512, 8, 50), (3, 2, 257), (64, 3, 1000), (2, 1, 4099), (192, 2, 128))
ENOUGH = 4096
CPU = torch.device("cpu")
_AT_ONCE = 1 << 22  # values of noise in one call of a function that takes one vocabulary only
PLANTED = (0.02, 0.5)  # shares of random values that are replaced by rare ones
_BLUR = 8.0  # ulp of the score within which a monotone operation after the sum may make equals


@dataclass(frozen=True)
class Confirmed:
    """``draws`` ids agreed over ``shapes``; ``signature``: what was the same in all; ``shared``: axes along
    which noise is shared; ``tie``: which of equal best scores won; ``skipped``: shapes that the function
    does not take, and why."""

    draws: int
    shapes: tuple[tuple[int, int, int], ...]
    signature: str
    shared: tuple[str, ...]
    tie: str
    skipped: tuple[str, ...] = ()


def shapes_for(calling: Calling, row: Tensor, draws: int) -> tuple[tuple[int, int, int], ...]:
    """:data:`SHAPES`, or calls of two and three rows of the vocabulary of ``row``, for a function that
    takes no other one. Calls for one draw (``draws`` = 1) have as many rows as the others have draws and
    rows."""
    shapes = _shapes_taken(calling, row)
    return shapes if draws > 1 else tuple((1, n * rows, vocab) for n, rows, vocab in shapes)


def _shapes_taken(calling: Calling, row: Tensor) -> tuple[tuple[int, int, int], ...]:
    vocab, state = len(row), start(0, row.device)
    takes = 0
    for n, rows, size in SHAPES[1:]:
        try:
            calling.seeded(trial_logits(rows, size, 0).to(row.device, row.dtype), min(n, 2), state)
        except PrecisionLabError:
            raise
        except (Exception, SystemExit):  # whatever it is, it is told if no shape at all is taken
            continue
        takes += 1
    if takes:
        return SHAPES
    most = max(_AT_ONCE // vocab, 6)
    calls = -(-ENOUGH // most)
    return tuple((max(most // (2 + k % 2), 2), 2 + k % 2, vocab) for k in range(max(calls + 1, 2)))


def trial_logits(rows: int, vocab: int, seed: int) -> Tensor:
    """(rows, vocab) float32 of sd 3, with equal logits next to each other and a tenth of -inf in every row
    but the first."""
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, vocab, generator=rng)
    logits[:, 1::7] = logits[:, :-1:7][:, : logits[:, 1::7].shape[1]]
    logits[1:, 3::10] = -torch.inf
    return logits


def confirm(
    calling: Calling,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    shapes: tuple[tuple[int, int, int], ...] = SHAPES,
) -> Confirmed:
    """Read the function at several shapes and replay it. InputError with the first difference, or where too
    few draws can be compared."""
    done: list[tuple[int, int, int]] = []
    skipped: list[str] = []
    signatures: dict[str, tuple[int, int, int]] = {}
    shared: set[str] = set()
    ties: set[str] = set()
    failure: BaseException | None = None
    for number, (n, rows, vocab) in enumerate(shapes):
        logits = trial_logits(rows, vocab, number).to(device, dtype)
        state = start(number, device)
        try:
            plain = calling.seeded(logits.clone(), n, state)
        except PrecisionLabError:
            raise
        except (Exception, SystemExit) as error:  # a function may be made for one vocabulary
            failure = error
            skipped.append(f"{(n, rows, vocab)}: {type(error).__name__}: {str(error)[:80]}")
            continue
        taken, draws = read(calling, logits, n, state)
        same_again(calling, logits, n, state, taken.ids, plain)
        ties |= replay(draws, (n, rows, vocab))
        signatures.setdefault(" | ".join(sorted({signature(draw) for draw in draws})), (n, rows, vocab))
        shared |= sharing(draws, n, rows, vocab)
        if repeated(taken, draws):
            shared.add("draws")
        done.append((n, rows, vocab))
    _enough(calling, done, skipped, failure)
    ties |= _rare(calling, done, dtype, device)
    _moves(calling, done[0], dtype, device)
    if len(signatures) > 1:
        found = "; ".join(f"at (n, rows, vocab) = {shape}: {text}" for text, shape in signatures.items())
        raise refused(
            f"{calling.name}, which draws differently by shape: {found}", "one recipe for every shape"
        )
    ties.discard("none seen")
    total = sum(n * rows for n, rows, _ in done)
    tie = "neither the first nor the last" if len(ties) > 1 else (ties.pop() if ties else "first")
    return Confirmed(total, tuple(done), next(iter(signatures)), tuple(sorted(shared)), tie, tuple(skipped))


def by_itself(calling: Calling, logits: Tensor, n: int, state: Tensor) -> Tensor:
    """The ids of one call that nobody records. InputError with what the function raises."""
    try:
        return calling.seeded(logits.clone(), n, state)
    except PrecisionLabError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's function raises
        raise _raising(calling, error, logits, n) from error


def same_again(
    calling: Calling, logits: Tensor, n: int, state: Tensor, recorded: Tensor, plain: Tensor
) -> None:
    """The recorded call drew what the function draws by itself. InputError if not: it says whether the
    checks that torch.distributions makes of its arguments, which are off while a call is recorded, are what
    decided."""
    if torch.equal(recorded.reshape(-1), plain.reshape(-1)):
        return
    with without_checks():
        unchecked = by_itself(calling, logits, n, state)
    if torch.equal(recorded.reshape(-1), unchecked.reshape(-1)):
        raise refused(
            f"{calling.name}, which draws otherwise where torch.distributions finds fault with its arguments, as with "
            f"these {DTYPE_NAMES[logits.dtype]} logits {tuple(logits.shape)}",
            "one recipe, and no exception that is caught",
            "leave out the try, or normalise probabilities in float32",
        )
    raise refused(
        f"{calling.name}, which draws other ids when it is called again from one generator state",
        "ids that depend on the logits and the generator alone",
    )


def _rare(calling: Calling, done: list, dtype: torch.dtype, device: torch.device) -> set[str]:
    """The replay again, with planted values too rare to be drawn; which of equal scores won."""
    ties: set[str] = set()
    for share in PLANTED:
        for n, rows, vocab in sorted(done, key=lambda shape: shape[0] * shape[2])[:2]:
            logits = trial_logits(rows, vocab, 1).to(device, dtype)
            _, draws = read(calling, logits, n, start(1, device), planting(share, n))
            ties |= replay(draws, (n, rows, vocab))
    return ties


def _moves(calling: Calling, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
    """Another state of the generator gives other ids."""
    n, rows, vocab = shape
    logits = trial_logits(rows, vocab, 0).to(device, dtype)
    one = calling.seeded(logits.clone(), n, start(10, device))
    other = calling.seeded(logits.clone(), n, start(11, device))
    if torch.equal(one.reshape(-1), other.reshape(-1)):
        raise refused(
            f"{calling.name}, which draws the same ids whatever the state of the generator",
            "draws from the generator that it is given, or torch's global one",
            "leave the seeding to the caller",
        )


def _enough(calling: Calling, done: list, skipped: list[str], failure: BaseException | None) -> None:
    total = sum(n * rows for n, rows, _ in done)
    if total >= ENOUGH and len(done) > 1:
        return
    if failure is not None and not done:
        raise refused(
            f"{calling.name} raising {type(failure).__name__}: {str(failure)[:200]}",
            "ids for logits (batch, vocab) with -inf for impossible tokens",
            "mend the function; if it is made for one vocabulary, give a row of that many logits",
        ) from failure
    raise refused(
        f"{total} draws of {calling.name} that could be replayed ({'; '.join(skipped)})",
        f"at least {ENOUGH}, by two shapes",
    )


def read(
    calling: Calling, logits: Tensor, n: int, state: Tensor, plant: Plant | None = None
) -> tuple[Record, list[Draw]]:
    """Record one call from a generator state, and find its draws; ``plant``: see :func:`.record.record`.
    InputError where they are of unlike kinds."""
    generator = torch.Generator(device=logits.device)
    generator.set_state(state)
    before = logits.clone()
    other = _other_generators()
    with global_state(logits.device, state):
        try:
            taken = record(lambda given: calling(given, n, generator), logits, plant)
        except PrecisionLabError:
            raise
        except RecursionError:
            raise _too_long(calling) from None
        except (Exception, SystemExit) as error:  # whatever the user's function raises
            raise _raising(calling, error, logits, n) from error
    if not torch.equal(before.nan_to_num(), logits.nan_to_num()):
        raise InputError(
            f"logits changed in place by {calling.name}", "logits left as they were", "clone them first"
        )
    if _other_generators() != other:
        raise refused(
            f"{calling.name}, which draws from the random module or from NumPy's global generator",
            "draws of torch from the generator that it is given, or torch's global one",
        )
    for step in taken.random:
        _own_generator(step, generator, calling)
    try:
        draws = draws_of(taken)
    except RecursionError:
        raise _too_long(calling) from None
    if len(found := sorted({signature(draw) for draw in flattened(draws)})) > 1:
        raise refused(
            f"{calling.name}, which draws by {' and by '.join(found)} in one call", "one recipe for every id"
        )
    return taken, draws


def _other_generators() -> tuple[object, bytes, int]:
    """The states of the global generators of Python and NumPy."""
    _, keys, place, *_ = np.random.get_state(legacy=True)  # noqa: NPY002  # the one that a function may use
    return random.getstate(), np.asarray(keys).tobytes(), int(place)


def _raising(calling: Calling, error: BaseException, logits: Tensor, n: int) -> InputError:
    return refused(
        f"{calling.name} raising {type(error).__name__}: {str(error)[:200]}, for {n} draws of {tuple(logits.shape)}",
        "ids for logits (batch, vocab)",
        "mend the function",
    )


def flattened(draws: list[Draw]) -> list[Draw]:
    """The draws, and of a gate over several its like over each of them alone."""
    found: list[Draw] = []
    for draw in draws:
        if isinstance(draw, GatedDraw):
            found += [replace(draw, draws=[inside]) for inside in draw.draws]
        else:
            found.append(draw)
    return found


def _too_long(calling: Calling) -> InputError:
    return refused(
        f"{calling.name}, whose operations follow on each other in a chain too long to be read",
        "draws that do not depend on the draws before them",
    )


def _own_generator(step: Step, generator: torch.Generator, calling: Calling) -> None:
    used = step.kwargs.get("generator")
    if used is None:
        return
    if used._cdata != generator._cdata:  # type: ignore[attr-defined]  # the same C++ object
        raise refused(
            f"{calling.name}, which draws {step.name} from a generator of its own, at {step.where}",
            "draws from the generator that it is given, or torch's global one",
            "take a keyword generator and pass it on",
        )


def signature(draw: Draw) -> str:
    """What a reading is, without numbers that a shape may change."""
    if isinstance(draw, GatedDraw):
        return f"gate {draw.noise.formula()} {draw.rule} then {signature(draw.inside)}"
    weights = re.sub(r"(?<![\w])-?\d[\d.]*(e[+-]?\d+)?|c\[[^\]]*\]|c\b", "#", draw.weights_formula)
    if isinstance(draw, LibraryDraw):
        return f"multinomial of {weights}, replacement {draw.replacement}, {'one' if draw.draws == 1 else 'several'}"
    noise = f"{draw.noise.formula()} {[str(dtype) for dtype in draw.noise.dtypes()]}"
    if isinstance(draw, ThresholdDraw):
        return f"{draw.rule} of {weights} by {noise}, beyond: {draw.beyond}"
    blurred = [step.name for step in draw.blurred]
    return f"{draw.combine} {weights} by {noise} in {draw.score}, {blurred}, {draw.decision.name}"


# -- the same ids from the reading


def noise_values(noise: NoiseMap) -> Tensor:
    """The noise where it meets the logits, made from the recorded draws by the map of one value."""
    if noise.reads_logits:
        return noise.in_place()
    drawn = torch.cat([step.outputs[0].kept.reshape(-1) for step in noise.draws])  # type: ignore[union-attr]
    places = noise.places()
    if places is None or bool((places < 0).any()):
        raise refused("noise in a buffer that is not all filled", "a random value for every token")
    return noise(drawn)[places.to(drawn.device)]


def replay(draws: list[Draw], shape: tuple[int, int, int]) -> set[str]:
    """Ids of the reading against those recorded, for every draw; which of equal scores won, where equals
    were seen.
    InputError with the first difference."""
    ties: set[str] = set()
    for draw in draws:
        if isinstance(draw, GatedDraw):
            assert draw.index.kept is not None
            _same(_gate_ids(draw), draw.index.kept, draw, shape)
            ties |= replay(draw.draws, shape)
        else:
            ties.add(_replay(draw, shape))
    return ties


def _replay(draw: RaceDraw | ThresholdDraw | LibraryDraw, shape: tuple[int, int, int]) -> str:
    """Ids of the reading against those recorded; which of equal scores won, where equals were seen."""
    index = draw.index.kept
    assert index is not None
    if isinstance(draw, RaceDraw):
        return _compare_race(draw, index, shape)
    found = _threshold_ids(draw) if isinstance(draw, ThresholdDraw) else _library_ids(draw)
    _same(found, index, draw, shape)
    return "none seen"


def _same(found: Tensor, index: Tensor, draw: Draw, shape: tuple[int, int, int]) -> None:
    wrong = found.reshape(-1) != index.reshape(-1)
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        raise _difference(at, int(found.reshape(-1)[at]), int(index.reshape(-1)[at]), draw, shape)


def _difference(at: int, mine: int, theirs: int, draw: Draw, shape: tuple[int, int, int]) -> InputError:
    return refused(
        f"draw {at} of (n, rows, vocab) = {shape}: the function's index is {theirs}, that of its reading "
        f"({signature(draw)}) is {mine}",
        "the same ids from the same generator state",
        f"the reading is not believed and no law is given: {DECLARE}",
    )


def race_scores(draw: RaceDraw) -> Tensor:
    """The rounded scores, in the shape of the join."""
    noise = noise_values(draw.noise)
    _as_made(draw.noise, noise)
    _one_for_each_token(draw)
    noise = noise * draw.noise_sign
    if draw.combine == "add":
        scores = draw.weights + noise
    elif draw.combine == "divide":
        scores = draw.weights / noise
    elif draw.combine == "multiply":
        scores = draw.weights * noise
    else:
        scores = -(noise / draw.weights)
    scores = scores.to(draw.score)
    if draw.ruled_out is None:
        return scores
    lowest = -torch.inf if draw.lowest == -torch.inf else torch.finfo(draw.score).min
    return scores.masked_fill(draw.ruled_out, lowest)


def _as_made(noise: NoiseMap, values: Tensor) -> None:
    """The map of one value gives what the function made, bit for bit: torch rounds otherwise in some layouts."""
    if noise.reads_logits:
        return
    made = noise.in_place()
    same = (made == values) | (made.isnan() & values.isnan())
    if not bool(same.all()):
        raise refused(
            f"noise {noise.formula()} that torch rounds otherwise in the layout in which the function makes it",
            "noise made of contiguous tensors",
            "call .contiguous() on what is drawn",
        )


def _one_for_each_token(draw: RaceDraw) -> None:
    places = draw.noise.places()
    assert places is not None
    rows = places.expand(draw.shape).reshape(-1, draw.shape[-1]).sort(dim=-1).values
    if bool((rows[:, 1:] == rows[:, :-1]).any()):
        raise refused(
            f"one random value for several tokens, at {draw.join.where}",
            "a random value of its own for each token",
        )


def _compare_race(draw: RaceDraw, index: Tensor, shape: tuple[int, int, int]) -> str:
    """Every recorded index has the best score: the first of the best, the last, or, behind a blurring
    operation, one of those within a few ulp. An infinite or NaN score in a row that a softmax makes NaN
    gives index 0."""
    scores = race_scores(draw)
    vocab = scores.shape[-1]
    rows = scores.reshape(-1, vocab).double()
    chosen = index.reshape(len(rows), -1)[:, 0]
    keys = torch.where(rows.isnan().any(dim=1, keepdim=True), rows.isnan().double(), rows)  # NaN wins
    best = keys.amax(dim=1)
    got = keys.gather(1, chosen[:, None])[:, 0]
    first = keys.argmax(dim=1)
    last = vocab - 1 - keys.flip(-1).argmax(dim=1)
    if draw.nan_rows:
        spoiled = ~torch.isfinite(rows.amax(dim=1))
        got = torch.where(spoiled, torch.where(chosen == 0, best, -torch.inf), got)
    short = best - got
    short = torch.where(best == got, torch.zeros_like(short), short)
    allowed = torch.zeros_like(short)
    if draw.blurred:
        allowed = blur(draw) * _size(draw, torch.where(best.isfinite(), best.abs(), torch.zeros_like(best)))
    wrong = ~(short <= allowed)
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        raise _difference(at, int(first[at]), int(chosen[at]), draw, shape)
    tied = (first != last) & (short == 0)
    if draw.blurred or not bool(tied.any()):
        return "none seen"
    if bool((chosen[tied] == first[tied]).all()):
        return "first"
    if bool((chosen[tied] == last[tied]).all()):
        return "last"
    return "neither the first nor the last"


def _size(draw: RaceDraw, best: Tensor) -> Tensor:
    """What the rounding of the operations after the join is relative to."""
    if draw.combine == "add":
        return 1 + draw.shift + best
    if any(step.name == "log" for step in draw.blurred):
        return best * (1 + best.log().abs().nan_to_num(posinf=0.0))
    return best


def blur(draw: RaceDraw) -> float:
    """How much of a score, relative to 1 + its size, the operations after the join can round away."""
    digits = {"fp16": 11, "bf16": 8, "fp32": 24, "fp64": 53}
    narrowest = min(digits[DTYPE_NAMES[step.outputs[0].dtype]] for step in draw.blurred)
    return _BLUR * len(draw.blurred) * 2.0**-narrowest


def _threshold_ids(draw: ThresholdDraw) -> Tensor:
    uniform = noise_values(draw.noise)
    _as_made(draw.noise, uniform)
    index = draw.index.kept
    assert index is not None
    if draw.compare.name in ("searchsorted", "bucketize"):
        right = draw.rule == "u < c"
        sums = draw.sums.cummax(-1).values
        return torch.searchsorted(sums, uniform.contiguous(), right=right)
    passed = uniform < draw.sums if draw.rule == "u < c" else uniform <= draw.sums
    first = passed.to(torch.int8).argmax(-1)
    if draw.beyond == "last + 1":
        first = torch.where(passed.any(-1), first, passed.shape[-1])
    return first


def _library_ids(draw: LibraryDraw) -> Tensor:
    """``torch.multinomial`` on CPU, from the same generator state: a race of p over exponentials, or, for
    several draws with replacement, a search of 53-bit uniforms in sequential sums divided by the last."""
    probs = draw.probs
    generator = torch.Generator(device=probs.device)
    assert draw.decision.state is not None
    generator.set_state(draw.decision.state)
    if not draw.races and probs.device.type != "cpu":
        raise refused(
            "several draws with replacement by torch.multinomial on a GPU", "one draw a call, or a CPU"
        )
    if draw.races:
        scores = probs / torch.empty_like(probs, memory_format=torch.contiguous_format).exponential_(
            generator=generator
        )
        return (
            scores.topk(draw.draws, dim=-1).indices if draw.draws > 1 else scores.argmax(dim=-1, keepdim=True)
        )
    sums = sequential_sums(probs)
    uniform = torch.rand((*probs.shape[:-1], draw.draws), dtype=torch.float64, generator=generator)
    return torch.searchsorted(sums.double(), uniform)


def sequential_sums(probs: Tensor) -> Tensor:
    """Sums one after another in the dtype of ``probs`` (float32 for half precision), divided by the last,
    which is 1."""
    wide = np.float64 if probs.dtype == torch.float64 else np.float32
    sums: Array = np.cumsum(probs.double().cpu().numpy().astype(wide), axis=-1, dtype=wide)
    found = torch.from_numpy(sums / sums[..., -1:])
    found[..., -1] = 1
    return found


def _gate_ids(draw: GatedDraw) -> Tensor:
    uniform = noise_values(draw.noise)
    _as_made(draw.noise, uniform)
    inside = draw.inside_ids.kept
    assert inside is not None
    opened = {
        "<": torch.lt,
        "<=": torch.le,
        ">": torch.gt,
        ">=": torch.ge,
    }[draw.rule](uniform, draw.rate)
    return torch.where(opened, inside, draw.other)


# -- who shares noise


def sharing(draws: list[Draw], n: int, rows: int, vocab: int) -> set[str]:
    """Axes along which one random value serves several scores: "draws", "rows", "tokens". The three sizes
    must differ."""
    found: set[str] = set()
    used: list[int] = []
    for inner in _ungated(draws):
        if isinstance(inner, LibraryDraw):
            continue
        used += [step.number for step in inner.noise.draws]
        if isinstance(inner, RaceDraw) and len({n, rows, vocab}) == 3:
            found |= _shared_axes(
                inner, {n * rows: "draws and rows", n: "draws", rows: "rows", vocab: "tokens"}
            )
    if len(used) > len(set(used)):
        found.add("several draws")
    return found


def _ungated(draws: list[Draw]) -> list[RaceDraw | ThresholdDraw | LibraryDraw]:
    found: list[RaceDraw | ThresholdDraw | LibraryDraw] = []
    for draw in draws:
        if isinstance(draw, GatedDraw):
            found += _ungated(draw.draws)
        else:
            found.append(draw)
    return found


def _shared_axes(draw: RaceDraw, names: dict[int, str]) -> set[str]:
    places = draw.noise.places()
    if places is None:
        return set()
    places = places.expand(draw.shape)
    found = set()
    for axis, size in enumerate(draw.shape):
        if size > 1 and bool((places == places.select(axis, 0).unsqueeze(axis)).all()):
            found.add(names.get(size, f"axis {axis}"))
    return found
