"""The kinds of exchange, by their words in the config. A new one is a client beside this file and a line in `job`."""

from enum import StrEnum, unique


@unique
class ExchangeKind(StrEnum):
    """Who speaks there, and how."""

    FILE = "file"
    HTTPS = "https"
    NCMEC = "ncmec"
    STOPNCII = "stopncii"
    TAT = "tat"
    THREATEXCHANGE = "threatexchange"
