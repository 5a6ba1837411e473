"""`videomae2 COMMAND`: finds the command, and turns what goes wrong into one line and an exit code.

Exit codes: 0 done, 1 an error of ours, 2 what the user can mend (a mistake, too little memory, a file that
the system refuses), 130 or 143 interrupted. `--debug` shows tracebacks.
"""

import dataclasses
import io
import os
import re
import sys
import traceback
import typing
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from cyclopts import UNSET, App, ArgumentCollection, CycloptsError, MissingArgumentError, UnknownOptionError

from videomae2.bounds import SHOWN, from_words, meant_key, shortened
from videomae2.cli import runs, tools
from videomae2.engine.launch import abandon, rank_of_environment
from videomae2.errors import Stopped, UserError
from videomae2.files import no_room, refusal
from videomae2.options import LINE, Setting


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code.

    A user's mistake is told in one line and never raises.
    """
    # Before torch loads: threads that wait by spinning stall a training step a hundredfold where loader
    # processes or other programs want the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _print_anything()
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = _run(tokens)
        sys.stdout.flush()  # at exit it would be too late to say that it could not be written
        return code
    except (UserError, CycloptsError) as error:  # the same on all processes of a group
        return 2 if _another_tells() else _fail(_one_line(error), 2, debug)
    except Stopped as stopped:  # a run that was asked to stop saved itself first, and says so
        if not _another_tells():
            print(_one_line(stopped), file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        abandon()
        return _fail("interrupted", 130, debug)
    except BrokenPipeError:  # whoever read our output, such as `head`, has had enough
        _print_no_more()
        return 0
    except Exception as error:  # the last line of defence: the reason in one line, the traceback on request
        abandon()
        refused = refusal(error)
        if refused is not None and no_room(refused):  # files are named where they are written
            _print_no_more()
            return _fail(
                f"what was to be printed could not be: {refused.strerror}; make room there", 2, debug
            )
        if reason := _of_the_machine(error):
            return _fail(reason, 2, debug)
        return _fail(
            f"{type(error).__name__}: {_one_line(error)}; rerun with --debug for the traceback", 1, debug
        )


def build_app() -> App:
    """The tree of commands."""
    app = App(
        name="videomae2",
        help="VideoMAE V2, whole: pre-train, fine-tune, evaluate, predict and reconstruct, "
        "from raw video files.",
        help_epilogue="`--debug` with any command shows the traceback of an error.",
        version=lambda: metadata.version("videomae2"),
        version_flags=("--version", "-V"),
        help_format="plaintext",  # importing a Markdown parser takes a quarter of the start
        config=_judge,
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        help_on_error=False,
        suppress_keyboard_interrupt=False,
    )
    for command in runs.commands():
        app.command(runs.help_app(command))
    app.command(tools.predict)
    app.command(tools.detect)
    app.command(tools.reconstruct)
    app.command(runs.weights_app())
    app.command(runs.data_app())
    app.command(tools.features)
    app.command(tools.localize)
    app.command(tools.cost)
    app.command(tools.sprites)
    app.command(tools.quickstart)
    app.register_install_completion_command(help="Let the shell complete commands and options.")
    return app


def _run(tokens: list[str]) -> int:
    if tokens[:1] == ["help"]:
        tokens = [*tokens[1:], "--help"]
    asks = not {"--help", "-h"}.isdisjoint(tokens)
    if tokens and tokens[0] in runs.commands() and not asks:
        runs.run(tokens[0], tokens[1:])
        return 0
    result = build_app()(tools.in_our_names(tokens))
    return result if isinstance(result, int) else 0


def _another_tells() -> bool:
    """Whether this is one of several processes that were started together, and not the one that speaks."""
    try:
        return rank_of_environment() > 0
    except UserError:  # of an environment that says nothing sensible
        return False


def _print_no_more() -> None:
    """Throw away what is still to be written to the standard output, which Python would try again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code


def _print_anything() -> None:
    """Escape what a terminal or a pipe cannot show: names of files need not be text, nor terminals UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one sentence: neither the line of our source that gave it nor its kind helps a user."""
    if not _another_tells():
        print(f"warning: {shortened(str(message))}", file=sys.stderr)


_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad_alloc|invalid .* size", re.I
)


def _of_the_machine(error: Exception) -> str:
    """What the system refused, memory or a file, as one sentence; empty for what is no refusal of its."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return (
            "this needs more memory than there is; try a smaller batch, fewer or smaller frames, or a "
            "smaller network (videomae2 cost says what one needs)"
        )
    if isinstance(error, OSError) and error.strerror:
        name = f" of {shortened(str(error.filename))}" if error.filename is not None else ""
        return f"the system refused the use{name}: {error.strerror}; give another name or mend it"
    return ""


def _judge(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse what an argument's type or the bounds beside it do not allow, in the words of settings.

    Cyclopts calls this before it converts, and would round `--count 1.5` to 2.
    """
    for argument in arguments:
        kind, default = argument.field_info.annotation, argument.field_info.default
        if _takes_text(kind):  # and any text is a path
            continue
        known = Setting(
            argument.name, kind, dataclasses.MISSING if default is argument.field_info.empty else default
        )
        for token in argument.tokens:
            if token.implicit_value is UNSET:  # else a flag that stands alone
                known.take(from_words(kind, [token.value]), LINE)


def _takes_text(kind: Any) -> bool:
    """Whether an annotated type, or a part of it, is text or a path."""
    return kind in (Path, str) or any(_takes_text(part) for part in typing.get_args(kind))


def _one_line(error: BaseException) -> str:
    if isinstance(error, MissingArgumentError) and error.argument is not None and error.command_chain:
        command = f"videomae2 {' '.join(error.command_chain)}"
        return f"{command} needs {error.argument.name}; {command} --help says more"
    text = " ".join(str(error).split())
    if isinstance(error, UnknownOptionError):
        name = shortened((error.token.keyword or error.token.value).partition("=")[0])
        meant = meant_key(name.lstrip("-"), [each.name.lstrip("-") for each in error.argument_collection])
        text = f"unknown option {name}; " + (f"did you mean --{meant}?" if meant else "--help lists them all")
    if isinstance(error, CycloptsError):  # it quotes what came at any length
        text = re.sub(rf"\S{{{SHOWN},}}", lambda found: f"{found[0][:SHOWN]}...", text)
    return text


if __name__ == "__main__":
    sys.exit(main())
