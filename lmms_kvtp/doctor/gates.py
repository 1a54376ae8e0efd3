"""The gates. Each looks for one way in which published pruners were found broken."""

from collections import Counter
from dataclasses import replace

import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from lmms_kvtp.doctor.exam import Exam, divergence, equal, reference
from lmms_kvtp.layer_pruning.none import NoLayerPruning
from lmms_kvtp.leaderboard.gates import Gate

DRAWS = 20
"""Random orders that tokens are compared with."""
MOST = 0.9
"""Share of answers above which one letter is a collapse, unless it is as frequent without pruning."""
ENOUGH = 8
"""Number of questions below which answers are shown, but not judged."""
LEVEL = 0.05
"""p-value below which a method counts as worse than random tokens, and a baseline as better than guessing."""


def keep_all_identity(exam: Exam) -> Gate:
    """With room for every token the method is the unpruned model, bit for bit."""
    name, results = "keep-all identity", exam.results(exam.whole)
    lost = [r for r, b in zip(results, exam.base, strict=True) if r.prepared.prompt.length != b.prepared.prompt.length]
    if lost and not (exam.method.allocator.exact and exam.method.pruner.exact):
        return Gate(name, None, "this method loses tokens even at keep_ratio=1, as published")
    if lost:
        return Gate(name, False, f"keep_ratio=1 changes the length of {len(lost)} of {len(results)} prompts")
    if not exam.method.pruner.identity_at_full:
        return Gate(name, None, "all tokens stay, but this pruner changes them, as published")
    same = equal(results, exam.base)
    return Gate(name, same, "logits are those of the unpruned model" if same else "logits differ at keep_ratio=1")


def changed_output(exam: Exam) -> Gate:
    """At a low budget the model sees something else: a stub that prunes nothing is the baseline under another name."""
    if exam.keeps_everything:
        return Gate("changed output", None, "the method keeps everything, and says so")
    gaps = [divergence(pruned.logits, base.logits) for pruned, base in zip(exam.pruned, exam.base, strict=True)]
    changed = not equal(exam.pruned, exam.base) and max(gaps) > 0
    detail = f"KL from the unpruned model {min(gaps):.2g} to {max(gaps):.2g} nats at {exam.low.keep_ratio:.0%}"
    return Gate("changed output", changed, detail if changed else "nothing changes: is anything pruned?")


def exact_budget(exam: Exam) -> Gate:
    """As many tokens enter as the ratio says, no more and no less."""
    own = exam.method.keep_ratio
    ratios = [own] if own == 1 else sorted({exam.low.keep_ratio, own, 0.5})
    wrong = []
    for ratio in ratios:
        method = replace(exam.method, keep_ratio=ratio, layer_pruning=NoLayerPruning())
        for result, video in zip(exam.results(method), exam.encoded, strict=True):
            kept = sum(len(packed.frame) for packed in result.prepared.packed)
            wanted = method.total(video.tokens.num_frames, video.tokens.capacity)
            if kept != wanted:
                wrong.append(f"{kept} instead of {wanted} at {ratio:.0%}")
    if not (exam.method.allocator.exact and exam.method.pruner.exact):
        return Gate("exact budget", None, f"this method misses its budget, as published: {wrong[0] if wrong else 'no'}")
    return Gate("exact budget", not wrong, "; ".join(wrong[:3]) or f"exact at {', '.join(f'{r:.0%}' for r in ratios)}")


def order(exam: Exam) -> Gate:
    """Tokens stand frame by frame, row by row, and each looks like the place where it stands."""
    for result, video in zip(exam.pruned, exam.encoded, strict=True):
        [packed] = result.prepared.packed
        place = packed.frame * video.tokens.capacity + packed.patch
        if bool((place.diff() < 0).any()):
            return Gate("order", False, "tokens are not in the order of frames and rows")
        original = F.normalize(video.tokens.embeds.flatten(0, 1)[place.to(packed.embeds.device)].float(), dim=1)
        kept = F.normalize(packed.embeds.float(), dim=1)
        own, drawn = _likeness(kept, original), _shuffled(kept, original)
        if len(kept) > 2 and own <= drawn:
            detail = f"tokens are like their places ({own:.3f}) no more than like others ({drawn:.3f})"
            return Gate("order", False, detail)
    return Gate("order", True, f"tokens resemble their places more than in each of {DRAWS} random orders")


def determinism(exam: Exam) -> Gate:
    """A second run and one in another order of videos give the same: no new draw, nothing left of another video."""
    before = exam.pruned
    backwards = [
        exam.run(exam.low, video, asked[0])
        for video, asked in reversed(list(zip(exam.encoded, exam.questions, strict=True)))
    ]
    again, turned = equal(exam.results(exam.low), before), equal(backwards[::-1], before)
    detail = "same logits again" + ("" if again else ": no") + ", in another order" + ("" if turned else ": no")
    return Gate("determinism", again and turned, detail)


def hooks_removed(exam: Exam) -> Gate:
    """The model is the same after the method as before it."""
    before, hooks = exam.base, exam.hooks()
    assert exam.results(exam.low) and exam.answers(exam.low)
    left = exam.hooks() - hooks
    same = equal(exam.results(exam.full), before)
    if left or not same:
        return Gate("hooks removed", False, f"{left} hooks stay, unpruned logits {'as before' if same else 'changed'}")
    return Gate("hooks removed", True, "no hook stays, and the unpruned model answers as before")


def non_empty_answers(exam: Exam) -> Gate:
    """Every question gets some text."""
    empty = sum(not text.strip() for text in exam.own_answers)
    return Gate("non-empty answers", not empty, f"{empty} of {len(exam.own_answers)} answers are empty")


def answer_letters(exam: Exam) -> Gate:
    """Answers do not collapse into one letter, or into none, where those of the unpruned model do not."""
    own, base = (exam.letters(texts) for texts in (exam.own_answers, exam.base_answers))
    shown = ", ".join(f"{letter or 'none'} {count}" for letter, count in Counter(own).most_common())
    if len(own) < ENOUGH:
        return Gate("answer letters", None, f"{shown}; {len(own)} questions are too few")
    most, _ = Counter(own).most_common(1)[0]
    collapsed = own.count(most) > MOST * len(own) > base.count(most)
    return Gate("answer letters", not collapsed, shown)


def random_against(exam: Exam) -> Gate:
    """The method is not random pruning under another name, and no worse than it."""
    if exam.keeps_everything:
        return Gate("random control", None, "the method keeps everything, and says so")
    drawn = exam.results(replace(exam.control, keep_ratio=exam.low.keep_ratio))
    own = exam.method.pruner
    if equal(drawn, exam.pruned) and type(own) is not type(exam.control.pruner):
        return Gate("random control", False, "logits are those of random tokens")
    if not all(asked.target for _, asked in exam.pairs):
        return Gate("random control", None, "these questions have no known answers")
    ours, theirs = exam.right(exam.own_answers), exam.right(exam.answers(exam.control))
    lost = sum(b > a for a, b in zip(ours, theirs, strict=True))
    gained = sum(a > b for a, b in zip(ours, theirs, strict=True))
    worse = lost > gained and float(scipy.stats.binomtest(lost, lost + gained, alternative="greater").pvalue) < LEVEL
    detail = f"{sum(ours)} of {len(ours)} right, random tokens {sum(theirs)}"
    return Gate("random control", not worse, detail)


def baseline_logits(exam: Exam) -> Gate:
    """The unpruned model computes what another implementation of it computes."""
    passed, detail = reference(exam.vlm)
    return Gate("baseline logits", passed, detail)


def baseline_accuracy(exam: Exam) -> Gate:
    """The unpruned model is as good as recorded or, where nothing is recorded, better than guessing."""
    known = [asked for _, asked in exam.pairs if asked.target and asked.options]
    if len(known) < ENOUGH or len(known) < len(exam.pairs):
        return Gate("baseline accuracy", None, f"{len(known)} questions with known answers are too few")
    right = sum(exam.right(exam.base_answers))
    if exam.expected is not None:
        before, margin = exam.expected.accuracy, exam.expected.margin(len(known))
        detail = f"{right} of {len(known)} right without pruning, recorded {before:.1%} ± {margin:.1%}"
        return Gate("baseline accuracy", abs(right / len(known) - before) <= margin, detail)
    chance = sum(1 / len(asked.options) for asked in known) / len(known)
    p = float(scipy.stats.binomtest(right, len(known), chance, alternative="greater").pvalue)
    detail = f"{right} of {len(known)} right without pruning, guessing gives {chance:.0%} (p = {p:.2g})"
    return Gate("baseline accuracy", p < LEVEL, detail)


GATES = (
    *(baseline_logits, keep_all_identity, changed_output, exact_budget, order, determinism),
    *(hooks_removed, non_empty_answers, answer_letters, random_against, baseline_accuracy),
)
"""All gates, in the order in which they run."""


def examine(exam: Exam) -> list[Gate]:
    """Put the exam through all gates."""
    return [gate(exam) for gate in GATES]


def _likeness(kept: Tensor, original: Tensor) -> float:
    """Mean cosine of kept tokens with the original tokens of their places."""
    return float((kept * original).sum(dim=1).mean())


def _shuffled(kept: Tensor, original: Tensor) -> float:
    """The highest likeness that one of DRAWS random orders reaches."""
    draw = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(kept), generator=draw).to(kept.device) for _ in range(DRAWS)]
    return max(_likeness(kept[order], original) for order in orders)
