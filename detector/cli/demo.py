"""`stopframe demo`."""

import typer

from detector.cli.options import AsJson, Simulate, read_rehearsal
from detector.cli.output import CommandFailed, line, run_async
from detector.logs import configure_logs


def demo(as_json: AsJson = False, simulate: Simulate = None) -> None:
    """Show the whole way on this machine.

    A publisher, a prohibited card, the alert over MQTT, the cut and its proof, with benign cards only. Exit 0 only if
    every cut was confirmed. With --json the last line is one object with the figures.
    """
    from detector.assembly import ServiceRefused
    from detector.demo import DemoFailed, run_demo

    configure_logs("warning", "auto")
    rehearsal = read_rehearsal(simulate, may_cut=True) if simulate else None  # it cuts its own publishers alone
    try:
        result = run_async(run_demo(typer.echo, rehearsal))
    except (DemoFailed, ServiceRefused) as error:
        raise CommandFailed(str(error)) from None
    if as_json:
        line(result.as_json())
    if not result.is_cut_confirmed:
        raise CommandFailed("not every cut was confirmed; the timeline above says how far it came", 1)
