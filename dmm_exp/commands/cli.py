"""The command line: Hydra's plumbing, and nothing that computes."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dmm_exp.config.folders import config_directory, leave_this_folder
from dmm_exp.config.processes import rank, ranks
from dmm_exp.console.terminal import Closed, leave_output, safe_output
from dmm_exp.errors import UserError, did_you_mean, storage_errors

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dmm_exp.config.preflight import Composer
    from dmm_exp.config.schema import Config

USAGE_ERROR = 2
ASKS = ("help", "hydra_help", "info", "shell_completion", "version")  # options that ask for no work
ONE_OF = ("run", "multirun", "info", "cfg", "shell_completion", "hydra_help")  # options of which Hydra takes one
AGAIN = 0.05  # seconds after which an interruption that Python passed over comes again
CLEANING = 30.0  # seconds after a signal to end during which further ones are ignored, so that all is cleaned up


def main() -> None:
    """Run ``python -m dmm_exp`` or ``dmm-exp``, or the command that the first word names: ``dmm-exp export``."""
    _import_from_here()
    command = COMMANDS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if command is not None:
        del sys.argv[1]
    _end(command or _runs)


def scores() -> None:
    """Run ``python -m dmm_exp.scores``."""
    _end(_scores)


def compare() -> None:
    """Run ``python -m dmm_exp.compare``."""
    _end(_compare)


def artifacts() -> None:
    """Run ``python -m dmm_exp.artifacts``."""
    _end(_artifacts)


def export() -> None:
    """Run ``python -m dmm_exp.export``."""
    _end(_export)


def unlearn() -> None:
    """Run ``python -m dmm_exp.unlearn``."""
    _end(_unlearn)


def verify() -> None:
    """Run ``python -m dmm_exp.verify``."""
    _end(_verify)


def _import_from_here() -> None:
    """Let ``dmm-exp`` find modules in the current folder, as ``python -m dmm_exp`` does.

    Neither does where a run's folder is run again: the current folder may then be the stranger's, whose modules would
    be taken for those of packages.
    """
    if any(word.startswith(("--config-p", "-cp")) for word in sys.argv[1:]):
        leave_this_folder()
    elif not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


def _end(command: Callable[[], int]) -> None:
    """Run a command and exit with its code.

    Bad input, and an output that cannot be written, end with one sentence and exit code 2, Ctrl-C with exit code 130,
    and SIGTERM like Ctrl-C, with 143.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come back here, where they become sentences
    with interruptions() as received:
        try:
            with safe_output():
                code = _code(command, received)
        except Closed as error:
            code = USAGE_ERROR
            leave_output(f"error: standard output cannot be written ({error})")
        sys.exit(code)


def _code(command: Callable[[], int], received: Interruptions) -> int:
    """Run a command and return the exit code."""
    try:
        with received.heeded(), storage_errors():
            return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except (KeyboardInterrupt, Exception) as error:
        if received.first is None and not isinstance(error, KeyboardInterrupt):
            raise  # and not what Python or a library made of an interruption, as in the making of a class
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 128 + (received.first or signal.SIGINT)


class Ended(KeyboardInterrupt):
    """A signal to end came.

    It is no plain ``KeyboardInterrupt``: where one comes out of ``exec`` or ``eval`` of a text, as in a module that
    makes data classes, Python ends itself by SIGINT at its end, whoever caught it.
    """


@dataclass
class Interruptions:
    """Signals to end that this process got.

    Attributes:
        first: the number of the first one.
        since: when it came.
        heeding: whether a signal breaks off what is done. It does while a command runs, and neither before, when the
            command has not begun, nor after, when only its exit code is left.
    """

    first: int | None = None
    since: float = 0.0
    heeding: bool = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Let a signal that came before, or that comes while the body runs, raise ``KeyboardInterrupt``."""
        self.heeding = True
        try:
            if self.first is not None:
                raise Ended
            yield
        finally:
            self.heeding = False

    def note(self, number: int, frame: object) -> None:
        """Take notice of a signal. Those that come after the first one do not break off the clean-up."""
        if self.first is not None and time.monotonic() - self.since < CLEANING:
            return
        self.first, self.since = self.first or number, time.monotonic()
        if self.heeding:
            raise Ended

    def repeat(self, passed_over: Callable[[Any], object], lost: Any) -> None:
        """Let an interruption come again that was raised where Python passes over errors, as in a callback of its own.

        Args:
            passed_over: what is done about other errors of this kind.
            lost: what Python says of the error (see ``sys.unraisablehook``).
        """
        if not isinstance(lost.exc_value, Ended):
            passed_over(lost)
            return
        self.since = -CLEANING
        signal.signal(signal.SIGALRM, self.note)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)


@contextmanager
def interruptions() -> Iterator[Interruptions]:
    """Take notice of SIGTERM and Ctrl-C while the body runs, and say by what is given when they break something off.

    Signals that come while Python itself ends are ignored, so that the exit code is that of the command. Signals that
    the caller of this process ignores stay ignored. Ranks of ``torchrun`` end at once, as it expects: they may be
    waiting for one another outside of Python.
    """
    found = Interruptions()
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    alone = threading.current_thread() is threading.main_thread() and ranks() == 1
    before = {number: handler for number, handler in usual.items() if alone and signal.getsignal(number) == handler}
    hook, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    for number in before:
        signal.signal(number, found.note)
    if before:
        sys.unraisablehook = partial(found.repeat, hook)
    try:
        yield found
    finally:
        sys.unraisablehook = hook
        if signal.getsignal(signal.SIGALRM) == found.note:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
        for number, handler in before.items():
            signal.signal(number, handler)
        atexit.unregister(_ignore)
        atexit.register(_ignore, list(before))  # the last that is registered is the first that is called


def _ignore(numbers: list[signal.Signals]) -> None:
    """Ignore signals for the rest of this process."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _runs() -> int:
    if rank() > 0:
        from dmm_exp.executors.distributed import serve

        serve()
        return 0
    try:
        return _work()
    finally:
        if ranks() > 1:
            from dmm_exp.executors import close_executors

            close_executors()


def _work() -> int:
    with _checked_arguments() as (arguments, cells):
        return _done(arguments, cells)


def _done(arguments: Any, cells: list[Config]) -> int:
    if (arguments.help and _own(arguments)) or (arguments.cfg == "job" and _composes(arguments)):
        return _show(arguments)
    if arguments.config_path and cells and cells[0].dry_run:
        return _accepted(arguments, cells)
    run, refused = _hydra(_run, arguments.typed)
    if not (arguments.multirun and cells):
        run()
        if refused:
            raise refused[0]
        return 0
    from dmm_exp.runs import batch as sweep

    sweep.begin(arguments.overrides)
    if cells[0].dry_run:
        from dmm_exp.store.temporary import temporary_folder

        with temporary_folder() as folder:  # for what Hydra itself writes of a sweep
            sys.argv.insert(1, f"hydra.sweep.dir={folder}")
            run()
        return 0
    folder = sweep.prepared(cells[0])
    run()
    return sweep.finish(folder, len(cells))


def _scores() -> int:
    """Do what ``job=scores`` asks for."""
    sys.argv.insert(1, "job=scores")
    return _runs()


def _accepted(arguments: Any, cells: list[Config]) -> int:
    """Say of a folder that is run again what it would do; nothing of it is imported or made for that."""
    from dmm_exp.runs.job import print_accepted

    for cell in cells:
        print_accepted(cell, arguments.choices)
    return 0


def _compare() -> int:
    from dmm_exp.compare.command import compare_runs

    return compare_runs(sys.argv[1:])


def _artifacts() -> int:
    from dmm_exp.artifacts.command import artifacts

    return artifacts(sys.argv[1:])


def _export() -> int:
    from dmm_exp.export.command import export_figures

    return export_figures(sys.argv[1:])


def _unlearn() -> int:
    arguments = _arguments()
    from dmm_exp.deletion.command import HELP, unlearn_command

    if arguments.help:
        print(HELP)
        return 0
    if arguments.multirun:
        raise UserError("-m: a deletion is one request; start the command once for each")
    print(unlearn_command(arguments.overrides, _more(arguments)))
    return 0


def _verify() -> int:
    from dmm_exp.records.verify_command import verify

    return verify(sys.argv[1:])


@contextmanager
def _checked_arguments() -> Iterator[tuple[Any, list[Config]]]:
    """Give the command line, after comparing it with what exists, and the configurations that it stands for.

    There are none where it asks for no work. Hydra is left the command line as it is meant.
    """
    from dmm_exp.config.files import limited_files
    from dmm_exp.config.schema import register

    register()
    arguments = _arguments()
    arguments.typed = list(sys.argv)
    with limited_files(), _run_again(arguments):
        cells = _check(arguments) if _composes(arguments) else []
        yield arguments, cells


@contextmanager
def _run_again(arguments: Any) -> Iterator[None]:
    """Put a checked copy in the place of a folder that is run again."""
    if arguments.config_path is None:
        if arguments.trust:
            raise UserError(
                f"--trust {arguments.trust[0]}: is for a folder that is run again; give --config-path FOLDER"
            )
        yield
        return
    from dmm_exp.config.rerun import checked_copy

    if asked := [name for name in ASKS if getattr(arguments, name, None)]:
        raise UserError(
            f"--{asked[0].replace('_', '-')}: shows nothing of a folder; expected no --config-path beside it"
        )
    name = (arguments.config_name or "config").removesuffix(".yaml")
    with checked_copy(Path(arguments.config_path), name, arguments.trust) as (copy, choices):
        arguments.config_path, arguments.config_name, arguments.choices = str(copy), None, choices
        yield


def _hydra(task: Callable[[Any], object], typed: list[str]) -> tuple[Callable[[], Any], list[UserError | Closed]]:
    """Return a function that lets Hydra compose the command line and run a task on it, and what the task refuses.

    Bad input reaches the caller past Hydra's own words for failed jobs. The task finds the command line as typed.
    """
    import hydra

    refused: list[UserError | Closed] = []
    made = hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")
    return partial(_composing, made(partial(_caught, refused, task, typed))), refused


def _composing(run: Callable[[], Any]) -> None:
    """Run what Hydra composes; what it cannot compose is said in one sentence."""
    from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException

    try:
        run()
    except (ConfigCompositionException, MissingConfigException, OverrideParseException) as error:
        raise UserError(str(error.__cause__ or error)) from error


def _caught(refused: list[UserError | Closed], task: Callable[[Any], object], typed: list[str], config: Any) -> None:
    sys.argv[:] = typed
    try:
        with storage_errors():
            task(config)
    except (UserError, Closed) as error:
        refused.append(error)


def _run(config: Any) -> None:
    from dmm_exp.runs.batch import from_hydra

    from_hydra(_meant(config))


def _meant(config: Any) -> Any:
    """Return what Hydra composed without the arguments of classes that another ``_target_`` replaced."""
    from hydra.core.global_hydra import GlobalHydra

    from dmm_exp.config.preflight import running

    return running(config, GlobalHydra.instance().config_loader())


def _arguments() -> Any:
    """Return the options and the overrides of the command line, in whatever order they stand."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE")
    arguments, unknown = parser.parse_known_intermixed_args()
    if unknown:
        raise UserError(_unknown_option(unknown[0], [name for one in parser._actions for name in one.option_strings]))
    if arguments.experimental_rerun:
        raise UserError("--experimental-rerun: reads a pickle, which may run anything; expected --config-path FOLDER")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise UserError("--resolve: shows nothing by itself; expected --cfg job beside it")
    asks = [name for name in ONE_OF if getattr(arguments, name, None)]
    if len(asks) > 1 and arguments.cfg != "job":
        raise UserError(f"--{asks[0].replace('_', '-')} and --{asks[1].replace('_', '-')}: expected one of them")
    for key in ("config_dir", "config_path"):
        folder = getattr(arguments, key)
        if folder is not None and (key == "config_path" or "://" not in folder):
            if not folder or not Path(folder).is_dir():
                raise UserError(f"--{key.replace('_', '-')} {folder}: there is no such folder")
            setattr(arguments, key, str(Path(folder).absolute()))
    return arguments


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; --help shows what is accepted")


def _unknown_option(word: str, known: list[str]) -> str:
    """Return the sentence for an option that does not exist."""
    name, equals, value = word.lstrip("-").partition("=")
    if equals:
        return f"'{word}': there is no such option; a key stands without dashes: {name}={value}"
    return (
        f"'{word}': there is no such option; expected key=value or one of {', '.join(known)}{did_you_mean(word, known)}"
    )


def _composes(arguments: Any) -> bool:
    """Say whether a command line asks for work, and not for help or information."""
    return not any(getattr(arguments, name, None) for name in ASKS)


def _own(arguments: Any) -> bool:
    """Say whether a command line is about our own primary configuration."""
    return not any(getattr(arguments, name, None) for name in ("config_path", "config_name"))


def _show(arguments: Any) -> int:
    """Print the help, or the configuration that a command line stands for."""
    from dmm_exp.config.help import config_text, help_text

    if arguments.help:
        print(help_text(config_directory(), arguments.overrides, _more(arguments), resolve=arguments.resolve))
        return 0
    with _composer(arguments) as compose:
        print(config_text(compose, arguments.overrides, arguments.package, resolve=arguments.resolve))
    return 0


def _composer(arguments: Any) -> AbstractContextManager[Composer]:
    """Return what composes a command line from its primary configuration."""
    from dmm_exp.config.preflight import composer

    folder, name = arguments.config_path or config_directory(), arguments.config_name or "config"
    return composer(folder, _more(arguments), name.removesuffix(".yaml"))


def _more(arguments: Any) -> list[str]:
    """Return the further configuration folder of a command line, if it has one."""
    return [str(Path(arguments.config_dir).absolute())] if arguments.config_dir else []


def _check(arguments: Any) -> list[Config]:
    """Return the configurations that a command line stands for, and leave it to Hydra as it is meant."""
    from dmm_exp.config.overrides import in_shell

    with _composer(arguments) as compose:
        understood = compose.understood(arguments.overrides)
        cells = [config for config, _ in compose(arguments.overrides)]
    if arguments.multirun:
        _check_cells(cells)
    elif len(cells) > 1:
        several = next(text for text in arguments.overrides if "," in text or "(" in text)
        raise UserError(
            "several values for one key (key=a,b) are a sweep; add -m to run it, or quote a text with commas: "
            f"{in_shell(several)}"
        )
    _leave(arguments, understood)
    return cells


def _leave(arguments: Any, overrides: list[str]) -> None:
    """Put a command line where Hydra reads it: the overrides as they are meant, then the options."""
    flags = [f"--{name}" for name in ("run", "multirun", "resolve") if getattr(arguments, name)]
    names = ("cfg", "package", "config_path", "config_name", "config_dir")
    given = [(name, getattr(arguments, name)) for name in names if getattr(arguments, name)]
    sys.argv[1:] = [*overrides, *flags, *(f"--{name.replace('_', '-')}={value}" for name, value in given)]


def _check_cells(cells: list[Config]) -> None:
    """Refuse a sweep with a cell that could not start, before the first one does."""
    from dmm_exp.config.instantiate import check_targets
    from dmm_exp.config.ranges import check_ranges

    for cell in cells:
        check_ranges(cell)
        check_targets(cell)


COMMANDS = {
    "run": _runs,
    "scores": _scores,
    "compare": _compare,
    "artifacts": _artifacts,
    "export": _export,
    "unlearn": _unlearn,
    "verify": _verify,
}


if __name__ == "__main__":
    main()
