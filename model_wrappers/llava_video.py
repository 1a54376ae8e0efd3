"""The harness model `llava_video_kvtp`: requests in, answers with their costs out."""

import atexit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from lmms_kvtp.cost.sample import forget, record
from lmms_kvtp.harness.plugin import check_harness, cli_arguments, publish
from lmms_kvtp.harness.requests import is_padding, read_ask, read_options, typed_options
from lmms_kvtp.harness.results import notes_on, open_session, report, result, say_resumed
from lmms_kvtp.pipeline import Answer
from lmms_kvtp.run.answerer import Answerer, Lane, SampleError
from lmms_kvtp.run.asks import Ask, check_files, flatten, read_visuals
from lmms_kvtp.run.build import build, choose_device
from lmms_kvtp.run.journal import Session
from lmms_kvtp.run.options import Images, RunOptions, check_family, parse_arguments
from lmms_kvtp.run.ranks import Place, gather, own_rank, send_back, share_out
from lmms_kvtp.run.source import tree
from lmms_kvtp.types import GenerationOptions

EMBEDDED = "skvqa_synth"
"""Beginning of the names of tasks that are made for the embedded model."""


class LlavaVideoKvtp(lmms):  # type: ignore[misc]
    """LLaVA-Video with pruned vision tokens; KVTP with PruMerge where no other parts are named.

    A subclass with other `defaults` is another model id; see docs/add_a_pruner.md.
    """

    is_simple = True
    family: ClassVar[str | None] = "llava_video"
    """Back end whose checkpoints this id loads; None for any."""
    pretrained: ClassVar[str] = RunOptions.pretrained
    """The checkpoint where `--model_args` names none."""
    images: ClassVar[Images] = RunOptions.images
    """How a task's images are shown where `--model_args` does not say."""
    defaults: ClassVar[Mapping[str, str]] = {}
    """The method where `--model_args` is silent, as far as it differs from KVTP with PruMerge."""

    def __init__(self, **settings: Any) -> None:
        """Load model and method.

        Args:
            settings: `--model_args`, whose names hold dots and cannot be parameters, and `batch_size` and `device`.
        """
        super().__init__()
        check_harness()
        given = {"pretrained": self.pretrained, "images": self.images, **settings}
        check_family(given, self.family)
        self.arguments = parse_arguments(given, self.family)
        self.accelerator = Accelerator()
        atexit.register(self.accelerator.end_training)  # leaves the group of ranks, which the harness never does
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if self.arguments.load.device_map and self._world_size > 1:
            raise ValueError(
                f"device_map={self.arguments.load.device_map} splits the model of one process, and {self._world_size} "
                "were started: start one, or leave device_map out"
            )
        self._device = choose_device(self.arguments.load.device, self.accelerator)
        self.built = build(self.arguments, self._device, self.defaults)
        self.session: Session | None = None
        self._typed: frozenset[str] = frozenset()

    @property
    def device(self) -> torch.device:
        """Device of the model; the harness puts its own small tensors there."""
        return self._device

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer questions, video by video; all requests of a run arrive in one call, over all tasks.

        SampleError where a sample cannot be answered, and errors are not skipped.
        """
        with self._running(requests) as session:
            asks = {i: self._ask(request) for i, request in enumerate(requests) if not is_padding(request)}
            own, everywhere = share_out(asks)
            if self.arguments.run.on_error == "raise":
                check_files(everywhere)
            say_resumed(self.arguments.run, session, sum(session.has(ask) for ask in own.values()))
            made: dict[Place, Answer] = {}
            failure: SampleError | None = None
            answerer = Answerer(self._lanes(session), self.arguments.frames)
            count = len(own) * len(answerer.lanes)
            try:
                with closing(answerer.answer_all(own)) as found:  # so that Ctrl-C ends decoders, wherever it strikes
                    for lane, place, answer in tqdm(found, "Answering", count, disable=self.rank != 0):
                        if lane == 0:
                            made[place] = answer
            except SampleError as error:
                failure = error
            answers = send_back(made, failure)
            mine = {i: answers[place] for place in answers for rank, i in [place] if rank == own_rank()}
            for i, ask in asks.items():
                if mine[i].error is None:
                    record(ask.question.doc_key, mine[i].cost)
            self._conclude(session, list(answers.values()))
        return [
            result([mine[i]], self.built.vlm.toy) if i in mine else GenerationResult("") for i in range(len(requests))
        ]

    def _lanes(self, session: Session) -> list[Lane]:
        """Make the lanes of the run; the harness gets the answers of the first."""
        return [Lane(self.built, self.arguments.run, session)]

    def _conclude(self, session: Session, answers: Sequence[Answer]) -> None:
        """Say what happened on all ranks."""
        ranks = gather((session.resumed, session.failures))
        failures = [failure for _, theirs in ranks for failure in theirs]
        session.resumed_elsewhere = sum(resumed for resumed, _ in ranks) - session.resumed
        session.failed_elsewhere = len(failures) - len(session.failures)
        report(answers, failures, self.built.vlm.toy)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Hold conversations: the task makes each turn from the answers so far, and tokens are selected anew for it."""
        results = []
        with self._running(requests) as session:
            answerer = Answerer([Lane(self.built, self.arguments.run, session)], self.arguments.frames)
            answers: dict[Place, Answer] = {}
            failure: SampleError | None = None
            try:
                for request in tqdm(requests, desc="Answering", disable=self.rank != 0):
                    texts, rounds = ([""], []) if is_padding(request) else self._converse(answerer, request)
                    answers |= {(own_rank(), len(answers) + turn): answer for turn, answer in enumerate(rounds)}
                    results.append(replace(result(rounds, self.built.vlm.toy), text=texts))
            except SampleError as error:
                failure = error
            everywhere = send_back(answers, failure)
            say_resumed(self.arguments.run, session, session.resumed)
            self._conclude(session, list(everywhere.values()))
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: the harness garbles these responses before it scores them."""
        tasks = ", ".join(sorted({request.task_name for request in requests}))
        raise NotImplementedError(
            f"{tasks} asks for log-likelihoods. lmms-eval 0.7.3 turns these responses into text before it scores them, "
            "so every score would be wrong; choose a variant of the task that generates its answer"
        )

    def _converse(self, answerer: Answerer, request: Any) -> tuple[list[str], list[Answer]]:
        next_turn, doc = request.args[3], self._document(request)
        prompt, load, _ = self._told(request, doc)
        texts: list[str] = []
        rounds: list[Answer] = []
        done, state = False, None
        while not done:
            ask = self._ask(request, prompt, load)
            rounds += answerer.answer([ask])
            if rounds[-1].error is None:
                record(ask.question.doc_key, rounds[-1].cost)
            texts.append(rounds[-1].text)
            visuals, prompt, done, texts, state = next_turn(
                doc, previous_output=texts, round_idx=len(rounds), previous_round_info=state
            )
            texts, load = list(texts), partial(flatten, visuals)
        return texts, rounds

    def apply_chat_template(self, *arguments: Any, **settings: Any) -> str:
        """Refused, for `--apply_chat_template`: the model's own template is always applied."""
        raise NotImplementedError("--apply_chat_template: the model's own template is always applied; leave it out")

    chat_template = property(apply_chat_template)
    """What the harness reads of a model for the same flag."""

    def _document(self, request: Any) -> Mapping[str, Any]:
        doc_id, task, split = request.args[-3:]
        doc: Mapping[str, Any] = self.task_dict[task][split][doc_id]
        return doc

    def _index_encoders(self, requests: Sequence[Any]) -> dict[str, Any]:
        """By which encoder the questions of each task were scored, where its documents say so (tasks/skvqa)."""
        rows = {task: self.task_dict[task][split] for task, split in {request.args[-2:] for request in requests}}
        told = {task: some for task, some in rows.items() if "index_encoder" in getattr(some, "column_names", ())}
        return {task: some["index_encoder"] for task, some in told.items()}

    def _told(self, request: Any, doc: Mapping[str, Any]) -> tuple[str, Callable[[], list[Any]], Mapping[str, Any]]:
        """What a request holds: the text of its question, what loads the visuals, and settings of generation."""
        return request.args[0], partial(read_visuals, request.args[2], doc), request.args[1]

    def _ask(self, request: Any, prompt: str | None = None, load: Callable[[], list[Any]] | None = None) -> Ask:
        doc = self._document(request)
        text, visuals, settings = self._told(request, doc)
        defaults = GenerationOptions(max_new_tokens=self.arguments.run.max_new_tokens, seed=self.arguments.run.seed)
        options = read_options(settings, defaults, self._typed)
        ask = read_ask(request, doc, options, text if prompt is None else prompt, load or visuals)
        assert self.session
        repeat = self.session.count(ask)  # `--repeats` sends the same request several times
        return replace(ask, options=replace(options, seed=options.seed + repeat))

    @contextmanager
    def _running(self, requests: Sequence[Any]) -> Iterator[Session]:
        """Open the session of a run and record it in the results; where the run breaks off, show the way to go on."""
        self._check_tasks({request.task_name for request in requests})
        command = cli_arguments(requests)
        self._typed = typed_options(command)
        if self.session is None:
            forget()  # costs of an earlier run in this process
            self.session = open_session(self.arguments.run, self.built.setup, command, self.rank)
        journal, notes = self.session.journal, notes_on(self.built.method, self._index_encoders(requests))
        for task, note in notes.items():
            logger.warning(f"{task}: {note}")
        try:
            yield self.session
        except (SampleError, KeyboardInterrupt, OSError):
            if journal:
                logger.error(f"all answers so far are in {journal.path}; go on with resume={journal.path}")
            raise
        finally:
            run, ended = self.arguments.run, self.session
            told = {
                "tree": tree(),
                "journal": str(journal.path) if journal else None,
                "resumed": ended.resumed + ended.resumed_elsewhere,
                "failed": len(ended.failures) + ended.failed_elsewhere,
                "batch_size": run.batch_size,
                "share_prefix": run.share_prefix,
                "verdicts": run.verdicts,
                "notes": notes,
            }
            publish(command, {**self.built.setup, **told})

    def _check_tasks(self, tasks: set[str]) -> None:
        """Refuse answers that mean nothing: of the embedded model, and by a predictor that has seen the questions."""
        other = sorted(task for task in tasks if not task.startswith(EMBEDDED))
        if self.built.vlm.toy and other and not self.arguments.run.allow_toy:
            raise ValueError(
                f"pretrained=tiny is a toy made for {EMBEDDED}; on {', '.join(other)} its answers mean nothing. "
                "Name a real checkpoint, or set allow_toy=true"
            )
        predictor = self.built.method.predictor
        seen = [task for task in other if predictor and predictor.has_seen(task)]
        if predictor and seen and not self.arguments.run.allow_seen:
            raise ValueError(
                f"predictor={predictor.name} was trained on evaluation questions of {', '.join(seen)}, says its "
                "training.json; train one on other data, or set allow_seen=true"
            )
