"""`stopframe`: the commands by name. Only what is run is imported: all together they take a second of CPU."""

import errno
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Final

import typer

from detector.cli.output import CommandFailed, note
from detector.logs import catch_faults
from detector.versions import product_version


@dataclass(frozen=True, slots=True)
class _Named:
    """Where a command is, `MODULE:ATTRIBUTE` (a function, or a group's app), and the first sentence of its help."""

    place: str
    help: str

    def load(self) -> Any:
        module, _, attribute = self.place.partition(":")
        return getattr(import_module(f"detector.cli.{module}"), attribute)


COMMANDS: Final = {
    "demo": _Named("demo:demo", "Show the whole way on this machine."),
    "run": _Named("run:run", "Run the service until SIGINT or SIGTERM."),
    "cutter": _Named("cutter:cutter", "Cut what signed alerts of a service ask for."),
    "check": _Named("run:check", "Check config files, a service's or a cutter's."),
    "reload": _Named("run:reload", "Have the running service take up its config file now."),
    "scan": _Named("scan:scan", "Look at files, folders and URLs."),
    "plan": _Named("plan:plan", "Say what the config costs and how late it can be."),
    "health": _Named("operate:health", "Say whether the service, or a cutter, does its job."),
    "streams": _Named("operate:streams", "Show what is live."),
    "top": _Named("top:top", "Show what every stream costs and how closely it is looked at."),
    "cut": _Named("operate:cut", "Cut a live stream by hand."),
    "undo": _Named("operate:undo", "Take back a cut: the key may publish again."),
    "hint": _Named("operate:hint", "Have a live stream looked at more closely for a while."),
    "verify": _Named("verify:verify", "Verify what Stopframe or a consumer signed."),
    "hashes": _Named("hashes:app", "Banks of known hashes."),
    "lists": _Named("lists:app", "Lists of known hashes from elsewhere."),
    "models": _Named("models:app", "Models: what they are, and whether they can be used."),
    "incidents": _Named("operate:incidents_app", "What happened."),
    "report": _Named("report:app", "Figures over time, for people and for reports."),
    "keys": _Named("keys:app", "What signs, and whose signatures count."),
    "command": _Named("command:app", "Make a signed command for a node."),
}


class _Commands(typer.core.TyperGroup):
    """Commands whose help names arguments by a word (`MEDIA`), without what they are in Python (`<list[str]>`)."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, if there is one."""
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            _name_by_words(found)
        return found


def _name_by_words(command: Any) -> None:
    for within in getattr(command, "commands", {}).values():
        _name_by_words(within)
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            vars(parameter)["display_type_rich"] = lambda ctx: None  # noqa: ARG005 - asked with the context


def build_app(words: Sequence[str] | None = None) -> typer.Typer:
    """The commands; with `words`, a command line, only the one that it names is more than a name and a sentence."""
    app = typer.Typer(
        name="stopframe",
        cls=_Commands,
        help="Watches live streams and stops the harmful ones within seconds.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_top)
    wanted = None if words is None else next((word for word in words if not word.startswith("-")), "")
    for name, named in COMMANDS.items():
        if wanted is not None and name != wanted:
            app.command(name, help=named.help)(_stand_in)
            continue
        found = named.load()
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def __getattr__(name: str) -> Any:
    if name == "app":
        return build_app()
    raise AttributeError(name)


def _stand_in() -> None:
    """Shown in the list of commands; `build_app` puts the real one in its place where it is to run."""


def _show_version(is_wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the flag
    if is_wanted:
        typer.echo(f"stopframe {product_version() or '(of an unknown version)'}")
        raise typer.Exit


def _top(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Watches live streams and stops the harmful ones within seconds."""


def main() -> None:
    """Run the command that the arguments name, and exit: 2 and one sentence where it cannot be done."""
    # A core file would hold every secret of the process.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    catch_faults()
    try:
        app = build_app(sys.argv[1:])
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # by detector.__main__, while modules load
            signal.signal(signal.SIGINT, signal.default_int_handler)
        app(prog_name="stopframe")
    except CommandFailed as failure:
        note(str(failure))
        sys.exit(failure.exit_code)
    except SystemExit as end:
        # Whoever read our output has left: typer exits 1 then, which would say that a scan found something.
        if not isinstance(end.__context__, BrokenPipeError):
            raise
        _drop_output()
        sys.exit(128 + signal.SIGPIPE)
    except PermissionError as error:
        if error.filename is None:
            raise
        where = os.fsdecode(error.filename)
        note(f"{where}: permission denied; run this as the user that it belongs to, or name another")
        sys.exit(2)
    except OSError as error:
        if error.filename is not None or error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}:
            raise
        _drop_output()
        note(f"writing failed ({error.strerror}); free space where the output goes, or send it elsewhere")
        sys.exit(2)


def _drop_output() -> None:
    """Python would complain once more when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
