"""Which kinds of exchange can be told what became of their entries. The others have no such call."""

from collections.abc import Mapping
from typing import Final

from detector.exchanges.feedback import FeedbackShape
from detector.exchanges.feedback_ncmec import NcmecFeedback
from detector.exchanges.feedback_stopncii import StopNciiFeedback
from detector.exchanges.feedback_threatexchange import ThreatExchangeFeedback
from detector.exchanges.kinds import ExchangeKind

SHAPES: Final[Mapping[ExchangeKind, FeedbackShape]] = {
    ExchangeKind.NCMEC: NcmecFeedback(),
    ExchangeKind.STOPNCII: StopNciiFeedback(),
    ExchangeKind.THREATEXCHANGE: ThreatExchangeFeedback(),
}
