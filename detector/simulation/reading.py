"""Packets that get lost or damaged on their way to the reader."""

import zlib
from dataclasses import replace

from detector.simulation.fault import Fault, share
from streams.job import Damage, Job


class PacketLoss(Fault):
    """A share of the packets never comes."""

    name = "packet-loss"
    usual = "5%"

    def take_amount(self, amount: str) -> None:
        """As `Fault.take_amount`."""
        self._ratio = share(amount)

    def job(self, job: Job) -> Job:
        """As `Fault.job`."""
        return replace(job, damage=(*job.damage, _damage(self, job, loses=True, ratio=self._ratio)))


class DecodeError(Fault):
    """A share of the packets holds noise, which the decoder meets where the picture was."""

    name = "decode-error"
    usual = "5%"

    def take_amount(self, amount: str) -> None:
        """As `Fault.take_amount`."""
        self._ratio = share(amount)

    def job(self, job: Job) -> Job:
        """As `Fault.job`."""
        return replace(job, damage=(*job.damage, _damage(self, job, loses=False, ratio=self._ratio)))


def _damage(fault: Fault, job: Job, *, loses: bool, ratio: float) -> Damage:
    """The same stream loses the same packets in every rehearsal; two streams lose different ones."""
    seed = zlib.crc32(f"{fault.name} {job.url}".encode())
    return Damage(loses, ratio, seed, fault.begins_at, fault.ends_at)
