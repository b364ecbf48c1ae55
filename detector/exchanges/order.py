"""From a line of the config to the job of a sync, with the secrets as their files hold them now."""

from detector.analysis.setup import BANKS_FOLDER
from detector.config.banks import BankKind
from detector.config.config import Config
from detector.config.exchanges import ExchangeSection
from detector.config.references import Secret
from detector.exchanges.job import LIST_RIGHT, SyncJob


def job_of(config: Config, section: ExchangeSection, accepted: tuple[int, int] | None = None) -> SyncJob:
    """Read the secrets, as their files hold them now. Raises LookupError where the config was only checked."""
    banks = config.state_dir / BANKS_FOLDER
    signers = [each for each in config.trust.trusted_keys if LIST_RIGHT in each.may]
    negative = [name for name, bank in config.banks.items() if bank.kind is BankKind.NEGATIVE]
    return SyncJob(
        exchange=section.name,
        kind=section.kind.value,
        bank_dir=str(banks / section.bank),
        state_dir=str(config.state_dir),
        most_rows=section.most_rows,
        most_change=section.most_change.ratio,
        url=section.where,
        path=str(section.path or ""),
        username=section.username or "",
        password=_current(section.password),
        token=_current(section.token),
        function_key=_current(section.function_key),
        subscription_key=_current(section.subscription_key),
        collection=section.collection or "",
        ca_file=str(section.ca_file) if section.ca_file else None,
        keys=tuple((each.public_key, each.until) for each in signers),
        harmless=tuple(str(banks / name) for name in negative if name != section.bank),
        accepted=accepted,
    )


def _current(secret: Secret | None) -> str:
    return "" if secret is None else secret.current()
