"""`stopframe`: the commands by name."""

import errno
import os
import resource
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from detector.cli import command, cutter, demo, hashes, keys, models, operate, plan, report, run, scan, top, verify
from detector.cli.output import CommandFailed, note
from detector.logs import catch_faults

app = typer.Typer(
    name="stopframe",
    help="Watches live streams and stops the harmful ones within seconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(is_wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the flag
    if is_wanted:
        try:
            typer.echo(f"stopframe {version('stopframe')}")
        except PackageNotFoundError:
            typer.echo("stopframe (not installed: running from its source)")
        raise typer.Exit


@app.callback()
def _top(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Watches live streams and stops the harmful ones within seconds."""


app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("cutter")(cutter.cutter)
app.command("check")(run.check)
app.command("reload")(run.reload)
app.command("scan")(scan.scan)
app.command("plan")(plan.plan)
app.add_typer(hashes.app, name="hashes")
app.add_typer(models.app, name="models")
app.command("health")(operate.health)
app.command("streams")(operate.streams)
app.command("top")(top.top)
app.add_typer(operate.incidents_app, name="incidents")
app.command("cut")(operate.cut)
app.command("undo")(operate.undo)
app.command("hint")(operate.hint)
app.add_typer(report.app, name="report")
app.add_typer(keys.app, name="keys")
app.command("verify")(verify.verify)
app.add_typer(command.app, name="command")


def main() -> None:
    """Run the command that the arguments name, and exit: 2 and one sentence where it cannot be done."""
    # A core file would hold every secret of the process.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    catch_faults()
    try:
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
    except OSError as error:
        if error.filename is not None or error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}:
            raise
        _drop_output()
        note(f"writing failed ({error.strerror}); free space where the output goes, or send it elsewhere")
        sys.exit(2)


def _drop_output() -> None:
    """Python would complain once more when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
