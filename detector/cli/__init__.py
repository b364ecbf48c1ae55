"""The command line: one module for each group of commands; `main` puts them together."""

import os

# Read where numpy is imported first. What the service multiplies is small, and streams and commands are many: a thread
# for each core in each of them would only lie about and hold memory.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
