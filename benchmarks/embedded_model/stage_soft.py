"""Stage `soft`: the language model on symbolic videos, whose tokens are sums of word embeddings.

It stands for the text pre-training of a real language model, and is what makes training on a CPU feasible: what to
look for is learned at a few tokens a frame.
"""

import re
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from benchmarks.embedded_model.language import SUFFIX, Asked, answer_logits, pack, word_id
from benchmarks.embedded_model.lessons import Coach, Riddler, Symbols, right_letters, sketch, symbols
from benchmarks.embedded_model.loop import Optimizer, autocast
from benchmarks.embedded_model.student import EMBEDDING_STD, Classroom, Student
from lmms_kvtp.embedded.draw import SHAPES
from lmms_kvtp.embedded.questions import INSTRUCTION, KINDS, ScriptQuestion
from lmms_kvtp.embedded.script import COLORS, GLYPHS, PLACES

ABOUT = re.compile(f"({'|'.join(GLYPHS)}).*")
PLACE_WEIGHT = 0.7
NOISE = 0.3
BLEEDING = 0.3
"""Odds that a token also shows some of what its neighbour shows, as pooled patches do."""
SPOKEN, CHOSEN, LETTERED, RIDDLE = range(4)


@dataclass(frozen=True)
class SoftStage:
    """One part of the symbolic training: lengths, token layouts, sorts of questions and how many of them."""

    steps: int
    frames: tuple[int, int]
    """Least and largest number of frames of a video."""
    layouts: tuple[tuple[int, int], ...]
    """Rows and columns of a frame's tokens, drawn per batch."""
    batch: int
    questions: int = 8
    per_row: int = 1
    clutter: float = 0.5
    """Odds that a token names a clutter object."""
    odds: tuple[float, float, float, float] = (0.1, 0.2, 0.5, 0.2)
    """Odds of a step with questions answered by a word (learned first), by an option, by a letter, or with riddles."""
    kinds: tuple[str, ...] = KINDS
    riddles: int = 96
    """Number of riddles in a step with them."""
    bare: bool = False
    """Whether questions break off behind the word that they are about, and answers follow at once.

    Then one glance at the video is enough, which is learned in 100 steps; a whole question takes two steps of
    thought, and without this stage stays at chance for hundreds of training steps.
    """
    lr: float = 2e-3
    muon_lr: float = 0.015
    decay_from: float = 1.0


FEW_TOKENS = ((1, 1), (1, 2), (1, 3))

SOFT_STAGES = {
    "look": SoftStage(260, (11, 14), FEW_TOKENS, 16, clutter=0.3, odds=(1.0, 0.0, 0.0, 0.0), bare=True),
    "riddles": SoftStage(160, (11, 14), FEW_TOKENS, 16, clutter=0.3, odds=(0.25, 0.0, 0.0, 0.75), bare=True),
    "words": SoftStage(220, (11, 18), FEW_TOKENS, 16, odds=(0.25, 0.15, 0.0, 0.6)),
    "letters": SoftStage(300, (11, 18), FEW_TOKENS, 14),
    "grids": SoftStage(350, (12, 24), ((1, 3), (2, 2), (3, 3), (4, 4), (6, 6)), 8, 10, 2),
}
"""Parts in order: where to look, what letters stand for, then whole questions, up to a frame's full grid."""


class Lexicon:
    """Word embeddings of places, shapes and colors: what a token about them is made of."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, student: Student) -> None:
        """Share the student's embeddings, which receive its gradients."""
        self.student, device = student, student.newline.device
        known = [[word_id(tokenizer, word) for word in words] for words in (PLACES, SHAPES, COLORS)]
        self.ids = [torch.tensor(ids, device=device) for ids in known]

    def tables(self) -> list[Tensor]:
        """Look up the embeddings of all places, shapes (then nothing) and colors (then nothing)."""
        weight = self.student.llm.model.embed_tokens.weight
        places, shapes, colors = (weight[ids] for ids in self.ids)
        return [places, F.pad(shapes, (0, 0, 0, 1)), F.pad(colors, (0, 0, 0, 1))]

    def embed(self, said: Symbols, rng: torch.Generator) -> Float[Tensor, "b T k D"]:
        """Make a noisy token of each symbol; how strongly it names its object varies."""
        places, shapes, colors = self.tables()
        device = places.device
        where, shape, color = (torch.from_numpy(part).to(device) for part in (said.places, said.shapes, said.colors))
        strength = 0.3 + 0.9 * torch.rand((*shape.shape, 1), generator=rng).to(device)
        things = strength * (shapes[shape] + colors[color])
        bleeds = torch.rand((*shape.shape, 1), generator=rng) < BLEEDING
        shares = 0.7 * torch.rand((*shape.shape, 1), generator=rng) * bleeds
        things = things + shares.to(device) * things.roll(1, dims=2)
        noise = torch.randn((*shape.shape, places.shape[1]), generator=rng).to(device) * NOISE * EMBEDDING_STD
        return PLACE_WEIGHT * places[where][:, :, None] + things + noise


def say(question: ScriptQuestion, mode: int, bare: bool = False) -> Asked:
    """Put a question with its answer's word, with options and that word, or with options and its letter."""
    if bare and question.kind != "scene":
        return ABOUT.sub(r"\1", question.text), f" {question.answer_text}"
    if mode == SPOKEN and question.kind != "scene":  # which has no answer without options
        return question.text, f" {question.answer_text}"
    if mode in (SPOKEN, CHOSEN):
        return question.prompt.removesuffix(INSTRUCTION), f" {question.answer_text}"
    return question.prompt, question.answer


def train_soft(room: Classroom, name: str, stage: SoftStage) -> None:
    """Train the language model and the newline on symbolic videos."""
    student, tokenizer, device, log = room.student, room.tokenizer, room.device, room.log
    dice, rng = np.random.default_rng([room.seed, crc32(name.encode())]), torch.Generator().manual_seed(room.seed)
    optimizer = Optimizer([student.llm, student.newline], stage.steps, stage.lr, stage.muon_lr, stage.decay_from)
    lexicon, riddler, coaches = Lexicon(tokenizer, student), Riddler(dice), (Coach(dice), Coach(dice), Coach(dice))
    suffix = "" if stage.bare else SUFFIX
    nothing = torch.zeros(1, 0, student.newline.shape[0], device=device)
    for step in log.steps(name, stage.steps):
        mode = int(dice.choice(4, p=stage.odds))
        questions: list[ScriptQuestion] = []
        if mode == RIDDLE:
            video = nothing
            text = pack(tokenizer, [[riddler.draw(stage.bare) for _ in range(stage.riddles)]], 1, suffix)
        else:
            length = int(dice.integers(stage.frames[0], stage.frames[1] + 1))
            scripts = [sketch(dice, length, int(dice.integers(3, 5)) if length > 15 else 3) for _ in range(stage.batch)]
            drawn = [coaches[mode].draw(script, stage.questions, stage.kinds) for script in scripts]
            questions = [question for row in drawn for question in row]
            asked = [[say(question, mode, stage.bare) for question in row] for row in drawn]
            text = pack(tokenizer, asked, stage.per_row, suffix)
            rows, columns = stage.layouts[dice.integers(len(stage.layouts))]
            said = symbols(dice, scripts, rows * columns, stage.clutter)
            tokens = lexicon.embed(said, rng)
            video = student.with_newlines(tokens.view(*tokens.shape[:2], rows, columns, -1))
        with autocast(device):
            logits, targets = answer_logits(student.llm, student.with_prefix(video), text.to(device))
        loss = F.cross_entropy(logits.float(), targets)
        optimizer.step(loss)
        right = right_letters(logits, targets)
        if mode == RIDDLE:
            riddler.note(right.float().mean().item())
        else:
            coaches[mode].note(questions, right)
        if log.due(step):
            modes = {"say": coaches[SPOKEN], "choose": coaches[CHOSEN]}
            words = {f"{how}_{kind}": one for how, coach in modes.items() for kind, one in coach.accuracy.items()}
            log.add(name, step, loss=loss.item(), riddle=riddler.accuracy, **coaches[LETTERED].accuracy, **words)
