"""A module that cannot be imported."""

import os

os._exit(3)
