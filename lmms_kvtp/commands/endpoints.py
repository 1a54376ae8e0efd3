"""The models that a command line names."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass

from lmms_kvtp.skvqa_build.budget import Prices, Spent
from lmms_kvtp.skvqa_build.build import Recipe
from lmms_kvtp.skvqa_build.chat import Chat
from lmms_kvtp.skvqa_build.endpoint import Endpoint
from lmms_kvtp.skvqa_build.refinement import RULE
from lmms_kvtp.skvqa_build.scoring import ClipScorer
from lmms_kvtp.skvqa_build.store import Store
from lmms_kvtp.video.sampling import FrameOptions

ENDPOINT = "endpoint:"


def add_endpoint_arguments(parser: ArgumentParser) -> None:
    """Who refines questions, where endpoints are, and what they may cost."""
    parser.add_argument("--refiner", default=RULE, help="rule, or endpoint:MODEL (default %(default)s)")
    parser.add_argument("--endpoint", help="base URL of an OpenAI-compatible server; its key is $OPENAI_API_KEY")
    numbers = [
        ("--concurrency", int, 8, "requests in flight"),
        ("--timeout", float, 120.0, "seconds for one attempt"),
        ("--retries", int, 6, "of a request"),
        ("--price-input", float, 0.0, "dollars for a million input tokens"),
        ("--price-output", float, 0.0, "dollars for a million output tokens"),
    ]
    for name, kind, default, text in numbers:
        parser.add_argument(name, type=kind, default=default, help=f"{text} (default %(default)s)")
    parser.add_argument("--budget", type=float, help="dollars, over all starts with the same store (default: no limit)")


@dataclass(frozen=True)
class _Endpoints:
    """Endpoints of one build share their account."""

    arguments: Namespace
    spent: Spent

    def open(self, model: str) -> Endpoint:
        if not model:
            raise ValueError("endpoint: needs the name of a model, such as endpoint:gpt-4o")
        given = self.arguments
        prices = prices_of(given)
        return Endpoint(
            model,
            given.endpoint,
            concurrency=given.concurrency,
            timeout=given.timeout,
            retries=given.retries,
            prices=prices,
            spent=self.spent,
        )


def choose(arguments: Namespace, store: Store) -> Recipe:
    """The recipe of the arguments of `skvqa build`; nothing is loaded yet.

    Raises:
        ValueError: a name is unknown, or parts do not go together.
    """
    endpoints = _Endpoints(arguments, spent([arguments.captioner, arguments.scorer, arguments.refiner], store))
    captioner = _captioner(arguments.captioner, endpoints)
    scorer = _scorer(arguments.scorer, captioner, endpoints)
    return Recipe(
        scorer,
        captioner,
        _refiner(endpoints),
        FrameOptions(max_frames_num=arguments.max_frames_num, fps=arguments.fps),
        arguments.clip_size,
        arguments.alpha,
        arguments.temperature,
    )


def choose_refiner(arguments: Namespace, store: Store) -> Chat | None:
    """What --refiner names, on an account of its own; None for fixed rules.

    Raises:
        ValueError: the name is unknown.
    """
    return _refiner(_Endpoints(arguments, spent([arguments.refiner], store)))


def _refiner(endpoints: _Endpoints) -> Chat | None:
    name = endpoints.arguments.refiner
    if name == RULE:
        return None
    if not name.startswith(ENDPOINT):
        raise ValueError(f"--refiner {name}: wanted rule or endpoint:MODEL")
    return endpoints.open(name.removeprefix(ENDPOINT))


def _captioner(name: str, endpoints: _Endpoints) -> Chat | None:
    from lmms_kvtp.skvqa_build.local import LocalModel

    if name == "none":
        return None
    if name.startswith(ENDPOINT):
        return endpoints.open(name.removeprefix(ENDPOINT))
    return LocalModel(name)


def _scorer(name: str, captioner: Chat | None, endpoints: _Endpoints) -> ClipScorer:
    from lmms_kvtp.encoders.siglip import Siglip
    from lmms_kvtp.skvqa_build.local import LocalModel
    from lmms_kvtp.skvqa_build.scorers import ChatScorer, ImageSimilarity, LanguageModel, TextSimilarity

    kind, _, checkpoint = name.partition(":")
    if kind == "siglip":
        return ImageSimilarity(Siglip(checkpoint) if checkpoint else Siglip())
    if kind == "text":
        return TextSimilarity(checkpoint) if checkpoint else TextSimilarity()
    if kind == "endpoint":
        return ChatScorer(endpoints.open(checkpoint))
    if name != "captioner":
        raise ValueError(f"--scorer {name}: wanted captioner, endpoint:MODEL, text[:CHECKPOINT] or siglip[:CHECKPOINT]")
    if isinstance(captioner, LocalModel):
        return LanguageModel(captioner)
    if captioner is None:
        raise ValueError("--scorer captioner needs a captioner; use --scorer siglip to do without")
    return ChatScorer(captioner)


def prices_of(arguments: Namespace) -> Prices:
    """As given.

    Raises:
        ValueError: there is a budget and no price.
    """
    return Prices(arguments.price_input, arguments.price_output, arguments.budget)


def spent(names: Sequence[str], store: Store) -> Spent:
    """What all starts so far spent at the endpoints among the names of models."""
    paid = {name.removeprefix(ENDPOINT) for name in names if name.startswith(ENDPOINT)}
    usage = [used for used in store.usage() if used.model in paid]
    return Spent(sum(used.input_tokens for used in usage), sum(used.output_tokens for used in usage))
