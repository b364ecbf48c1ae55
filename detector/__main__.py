"""`stopframe`, and `python -m detector`."""

import signal


def main() -> None:
    """Run the command line. Ctrl-C while modules load ends at once: an exception there would come out as their fault.

    `detector.cli.main` takes the signal back once all is loaded.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from detector.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
