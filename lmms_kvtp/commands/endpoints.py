"""The models that a command line names, for the commands that build an index or refine questions."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from lmms_kvtp.commands.arguments import add_numbers
from lmms_kvtp.questions import RULE
from lmms_kvtp.shipped import TINY
from lmms_kvtp.skvqa_build.store import Store

if TYPE_CHECKING:
    from lmms_kvtp.skvqa_build.build import IndexSettings
    from lmms_kvtp.skvqa_build.chat import ChatModel
    from lmms_kvtp.skvqa_build.endpoint import Endpoint, Prices, Spent
    from lmms_kvtp.skvqa_build.scorers import ClipScorer

ENDPOINT = "endpoint:"


def add_endpoint_arguments(parser: ArgumentParser) -> None:
    """Add who refines questions, where endpoints are, and what they may cost."""
    parser.add_argument("--refiner", default=RULE, help="rule, or endpoint:MODEL (default %(default)s)")
    parser.add_argument("--endpoint", help="base URL of an OpenAI-compatible server; its key is $OPENAI_API_KEY")
    numbers = [
        ("--concurrency", 8, "requests in flight"),
        ("--timeout", 120.0, "seconds for one attempt"),
        ("--retries", 6, "of a request"),
        ("--price-input", 0.0, "dollars for a million input tokens"),
        ("--price-output", 0.0, "dollars for a million output tokens"),
    ]
    add_numbers(parser, numbers)
    budget = "dollars, over all starts with the same store; calls in flight when they are spent, at most --concurrency,"
    parser.add_argument("--budget", type=float, help=f"{budget} are still paid for (default: no limit)")


Opener: TypeAlias = "Callable[[str], Endpoint]"
"""Opens `endpoint:MODEL`; the endpoints of one build share their account."""


def _opener(arguments: Namespace, names: Sequence[str], store: Store) -> Opener:
    from lmms_kvtp.skvqa_build.endpoint import Endpoint

    spent = spent_so_far(names, store)

    def open_endpoint(name: str) -> Endpoint:
        model = name.removeprefix(ENDPOINT)
        if not model:
            raise ValueError("endpoint: needs the name of a model, such as endpoint:gpt-4o")
        limits = {name: getattr(arguments, name) for name in ("concurrency", "timeout", "retries")}
        return Endpoint(model, arguments.endpoint, prices=prices_of(arguments), spent=spent, **limits)

    return open_endpoint


def choose_settings(arguments: Namespace, store: Store) -> "IndexSettings":
    """Read the settings of `skvqa build`, and load nothing; ValueError where a name is unknown or parts do not fit."""
    from lmms_kvtp.skvqa_build.build import IndexSettings
    from lmms_kvtp.video.sampling import FrameOptions

    opener = _opener(arguments, [arguments.captioner, arguments.scorer, arguments.refiner], store)
    captioner = _captioner(arguments.captioner, opener)
    scorer = _scorer(arguments.scorer, captioner, opener, arguments.one_by_one)
    refiner, frames = _refiner(arguments.refiner, opener), FrameOptions(arguments.max_frames_num, arguments.fps)
    numbers = {name: getattr(arguments, name) for name in ("clip_size", "alpha", "temperature")}
    return IndexSettings(scorer, captioner, refiner, frames, **numbers)


def choose_refiner(arguments: Namespace, store: Store) -> "ChatModel | None":
    """Open what --refiner names, on an account of its own; None for fixed rules. ValueError where it is unknown."""
    return _refiner(arguments.refiner, _opener(arguments, [arguments.refiner], store))


def _refiner(name: str, opener: Opener) -> "ChatModel | None":
    if name == RULE:
        return None
    if not name.startswith(ENDPOINT):
        raise ValueError(f"--refiner {name}: wanted rule or endpoint:MODEL")
    return opener(name)


def _captioner(name: str, opener: Opener) -> "ChatModel | None":
    from lmms_kvtp.skvqa_build.local import LocalModel

    if name == "none":
        return None
    if name == TINY:
        raise ValueError(
            "--captioner tiny: the embedded model answers with a letter and describes nothing; name a checkpoint, "
            "endpoint:MODEL, or none with --scorer siglip:tiny"
        )
    return opener(name) if name.startswith(ENDPOINT) else LocalModel(name)


def _scorer(name: str, captioner: "ChatModel | None", opener: Opener, one_by_one: bool) -> "ClipScorer":
    from lmms_kvtp.encoders.siglip import Siglip
    from lmms_kvtp.skvqa_build.local import LocalModel
    from lmms_kvtp.skvqa_build.scorers import ChatScorer, image_similarity, language_model, text_similarity

    kind, _, checkpoint = name.partition(":")
    if one_by_one and not (name == "captioner" and isinstance(captioner, LocalModel)):
        raise ValueError(f"--one-by-one is for a local captioner that scores, not for --scorer {name}; leave it out")
    if kind == "siglip":
        return image_similarity(Siglip(checkpoint) if checkpoint else Siglip())
    if kind == "text":
        return text_similarity(checkpoint) if checkpoint else text_similarity()
    if kind == "endpoint":
        return ChatScorer(opener(name))
    if name != "captioner":
        raise ValueError(f"--scorer {name}: wanted captioner, endpoint:MODEL, text[:CHECKPOINT] or siglip[:CHECKPOINT]")
    if one_by_one and isinstance(captioner, LocalModel):
        return language_model(captioner)
    if captioner is None:
        raise ValueError("--scorer captioner needs a captioner; use --scorer siglip to do without")
    return ChatScorer(captioner)


def prices_of(arguments: Namespace) -> "Prices":
    """Read prices and budget; ValueError where there is a budget and no price."""
    from lmms_kvtp.skvqa_build.endpoint import Prices

    return Prices(arguments.price_input, arguments.price_output, arguments.budget)


def spent_so_far(names: Sequence[str], store: Store) -> "Spent":
    """Sum up what all starts so far spent at the endpoints among the names of models."""
    from lmms_kvtp.skvqa_build.endpoint import Spent

    paid = {name.removeprefix(ENDPOINT) for name in names if name.startswith(ENDPOINT)}
    usage = [used for used in store.usage() if used.model in paid]
    return Spent(sum(used.input_tokens for used in usage), sum(used.output_tokens for used in usage))
