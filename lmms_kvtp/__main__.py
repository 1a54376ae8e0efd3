"""`lmms-kvtp`: the command line beside the harness's own."""

import argparse
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from typing import NoReturn

from lmms_kvtp import __version__
from lmms_kvtp.rendering import Terminal, visible

COMMANDS = {
    "list": ("lmms_kvtp.commands.list", "show every component with its paper and what it reads"),
    "demo": ("lmms_kvtp.commands.demo", "compare methods on the embedded model through the harness"),
    "skvqa": ("lmms_kvtp.commands.skvqa", "build, check and compare indexes of SparseKV-QA"),
    "leaderboard": ("lmms_kvtp.commands.leaderboard", "make tables, plots and a page of finished runs"),
    "visualize": ("lmms_kvtp.commands.visualize", "show what each method keeps of a video, and why"),
    "compare": ("lmms_kvtp.commands.compare", "compare methods with all tokens on your own videos and questions"),
    "sweep": ("lmms_kvtp.commands.sweep", "many methods and ratios in one pass over the videos"),
    "table": ("lmms_kvtp.commands.table", "the embedded benchmark's tables and figures"),
    "check": ("lmms_kvtp.commands.check", "find missing media, and forecast memory and hours, before weights load"),
    "doctor": ("lmms_kvtp.commands.doctor", "run the gates that a method must pass before its scores count"),
    "bench": ("lmms_kvtp.commands.bench", "where the time of a run goes, beside the least that it could take"),
    "flops": ("lmms_kvtp.commands.flops", "count a method's operations from sizes alone, beside the papers' figures"),
    "prove": ("lmms_kvtp.commands.prove", "run on real weights what could not be run here, into one file to send in"),
    "reproduce": ("lmms_kvtp.commands.reproduce", "the commands behind the paper's tables and figures"),
    "train": ("lmms_kvtp.commands.train", "train the relevance predictor"),
    "eval": ("lmms_kvtp.commands.eval", "measure relevance predictors without a language model"),
}
"""Module with `add_arguments(parser)` and `main(arguments)`, and line of help, of each command."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with an argument, and where the right ones are listed."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit code. Bad input ends in one clear line, not in a traceback."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    whole = argparse.RawDescriptionHelpFormatter  # which leaves the versions on one line
    parser = Parser("lmms-kvtp", description="KVTP and other video-token pruners for lmms-eval.", formatter_class=whole)
    names = ("lmms_eval", "torch", "transformers", "decord", "av")
    found = ", ".join(f"{name} {version(name)}" for name in names if find_spec(name))
    told = f"lmms-kvtp {__version__}, python {sys.version.split()[0]}, {found}"
    parser.add_argument("--version", action="version", version=told, help="versions that a report of a bug needs")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((a for a in arguments if not a.startswith("-")), None)
    for name, (module, text) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text)
        if name == chosen:  # only the chosen command is imported: `lmms-kvtp list` loads no training code
            importlib.import_module(module).add_arguments(subparser)
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # in the C locale, ± is better lost than the table
    logging.basicConfig(format="%(message)s", stream=Terminal(sys.stderr))
    logging.getLogger("lmms_kvtp").setLevel(logging.INFO)  # not of libraries
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of the settings of every SigLIP
    try:
        os.getcwd()  # where it is gone, MKL would end the process
        with redirect_stdout(Terminal(sys.stdout)):
            code = int(importlib.import_module(COMMANDS[options.command][0]).main(options) or 0)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stopped:
        parser.exit(130, f"\nlmms-kvtp {options.command}: stopped\n{stopped or 'start it again: nothing was kept'}\n")
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        file = error.filename and f"{error.filename}: {error.strerror}; check this path, or give another"
        if "temporary directory" in str(error.strerror):
            file = f"{error.strerror}; set TMPDIR to a writable folder"
        if not os.stat(os.curdir).st_nlink:
            file = "the working folder is gone; go to another"
        parser.exit(2, visible(f"lmms-kvtp {options.command}: {file or error}\n"))
    except (ValueError, LookupError) as error:
        parser.exit(2, visible(f"lmms-kvtp {options.command}: {error}\n"))


if __name__ == "__main__":
    sys.exit(main())
