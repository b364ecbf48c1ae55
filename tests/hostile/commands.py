"""Commands one after another in one process that was started early: importing the product takes longest of all."""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

from tests.fixtures_cli import CommandLine, Run

Ask = Callable[..., Coroutine[None, None, Run]]


@contextlib.asynccontextmanager
async def commands(stopframe: CommandLine, environment: Mapping[str, str] = os.environ) -> AsyncIterator[Ask]:
    """Yield what runs a command beside the service: as in a process of its own, but the imports, and no traceback."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.hostile.commands",
        cwd=stopframe.folder,
        env={**environment, **stopframe.environment()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told, heard = process.stdin, process.stdout

    async def ask(*arguments: str) -> Run:
        told.write(json.dumps(arguments).encode() + b"\n")
        run = Run(*json.loads(await asyncio.wait_for(heard.readline(), 60)))
        assert "Traceback" not in run.err, run.err
        return run

    try:
        yield ask
    finally:
        told.close()
        await asyncio.wait_for(process.wait(), 30)


def main() -> None:
    """Run each command that stdin names; answer with its exit code and what it wrote, as one line of JSON."""
    from detector.cli.main import main as run  # noqa: PLC0415 - only this process is to import it
    from detector.redaction import forget_all  # noqa: PLC0415

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        sys.argv = ["stopframe", *json.loads(line)]
        forget_all()  # a new process would know no secret
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code: object = 0
            try:
                run()
            except SystemExit as end:
                code = end.code or 0
            sys.stdout.flush()
            sys.stderr.flush()
            texts = [os.pread(file.fileno(), 1 << 24, 0).decode("utf-8", "replace") for file in (out, err)]
        answers.write(json.dumps([code, *texts]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
