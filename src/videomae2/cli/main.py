"""`videomae2 COMMAND`: finds the command, and turns what goes wrong into one line and an exit code.

Exit codes: 0 done, 1 an error of ours, 2 a mistake the user can mend, 130 or 143 interrupted. `--debug` shows
tracebacks.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata

from cyclopts import App, CycloptsError, MissingArgumentError

from videomae2.cli import costs as commands_cost
from videomae2.cli import runs as commands_train
from videomae2.cli import tools as commands_files
from videomae2.cli.settings_help import settings_help
from videomae2.errors import Stopped, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code; never raises for a user's
    mistake.
    """
    # Before torch loads: threads that wait by spinning stall a training step a hundredfold where loader
    # processes or other
    # programs want the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    try:
        return _run(tokens)
    except (UserError, CycloptsError) as error:
        return _fail(_one_line(error), 2, debug)
    except Stopped as stopped:  # a run that was asked to stop saved itself first, and says so
        print(_one_line(stopped), file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        return _fail("interrupted", 130, debug)
    except BrokenPipeError:  # whoever read our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the last line of defence: the reason in one line, the traceback on request
        return _fail(
            f"{type(error).__name__}: {_one_line(error)}; rerun with --debug for the traceback", 1, debug
        )


def build_app() -> App:
    """The tree of commands."""
    app = App(
        name="videomae2",
        help="VideoMAE V2, whole: pre-train, fine-tune, evaluate, predict and reconstruct, from raw video files.",
        help_epilogue="`--debug` with any command shows the traceback of an error.",
        version=lambda: metadata.version("videomae2"),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        help_on_error=False,
        suppress_keyboard_interrupt=False,
    )
    for command in (commands_train.pretrain, commands_train.finetune, commands_train.evaluate):
        name = command.__name__
        app.command(
            command, name=name, usage=f"Usage: videomae2 {name} [PAGE.toml | RUN] [--SECTION.KEY VALUE ...]"
        )
    app.command(commands_files.predict)
    app.command(commands_files.reconstruct)
    weights = App(name="weights", help="Look into checkpoints and convert them between layouts.")
    weights.command(commands_files.show_weights, name="show")
    weights.command(commands_files.convert_weights, name="convert")
    data = App(
        name="data", help="Look at a manifest, a file list or a folder, and check that its videos decode."
    )
    data.command(commands_files.show_data, name="show")
    data.command(commands_files.check_data, name="check")
    app.command(weights)
    app.command(data)
    app.command(commands_cost.cost)
    app.command(commands_files.sprites)
    app.command(commands_files.quickstart)
    return app


def _run(tokens: list[str]) -> int:
    result = build_app()(tokens)
    if tokens and tokens[0] in commands_train.SETTINGS and {"--help", "-h"} & set(tokens):
        print(settings_help(commands_train.SETTINGS[tokens[0]]()))
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return code


def _one_line(error: BaseException) -> str:
    if isinstance(error, MissingArgumentError) and error.argument is not None and error.command_chain:
        command = f"videomae2 {' '.join(error.command_chain)}"
        return f"{command} needs {error.argument.name}; {command} --help says more"
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
