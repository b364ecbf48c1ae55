"""`python -m detector` is `stopframe`."""

import sys

if __name__ == "__main__":
    try:
        from detector.cli.main import main

        main()
    except KeyboardInterrupt:  # while the imports ran
        sys.exit(130)
