"""Damaged media ends in a counted cause, whatever was done to it; and the damage is what it says."""

from collections import Counter
from random import Random

import pytest

from benchmarks.fuzz import fuzz
from benchmarks.fuzz_seeds import make_seeds
from benchmarks.mutations import Seed, mutate

INPUTS = 300


@pytest.fixture(scope="module")
def seeds() -> list[Seed]:
    return make_seeds()


@pytest.mark.integration
@pytest.mark.needs_cage
async def test_damaged_media_harms_nobody() -> None:
    """Of 300 damaged inputs on every way in, none crashes the service or a reader, hangs or ends without a cause."""
    findings = await fuzz(range(INPUTS), seed=1)

    assert findings.inputs == INPUTS
    assert set(findings.ways) == {"scan", "live file", "ingest", "hls"}
    assert findings.service_faults == []
    assert findings.crashes == []
    assert findings.hangs == []
    assert findings.faults == []
    assert len(findings.causes) >= 4
    assert findings.frames > INPUTS


def test_same_number_gives_the_same_damage(seeds: list[Seed]) -> None:
    """An input can be had again by its number, from clips that are made anew."""
    again = make_seeds()
    for number in range(50):
        one, other = (mutate(media[number % len(media)], media, Random(number)) for media in (seeds, again))
        assert one == other


def test_damage_is_done_in_every_container(seeds: list[Seed]) -> None:
    """Nearly every mutation changes something, keeps something, and two hardly ever do the same."""
    for seed in seeds:
        mutants = [mutate(seed, seeds, Random(number)) for number in range(100)]
        changed = [mutant for mutant in mutants if mutant != seed]
        assert len(changed) >= 95
        assert len({mutant.content + mutant.segment for mutant in mutants}) >= 90
        kept = Counter(mutant.content[:4] == seed.content[:4] for mutant in mutants)
        assert kept[True] >= 20


@pytest.mark.parametrize("container", ["ts", "flv", "mp4", "mkv", "hls"])
def test_noise_is_damaged_without_an_error(container: str, seeds: list[Seed]) -> None:
    """What is damaged already, down to nothing, can be damaged further."""
    draw = Random(5)
    for length in (0, 1, 2, 13, 187, 188, 189, 2000):
        for _ in range(30):
            mutate(Seed("noise", container, draw.randbytes(length), draw.randbytes(length)), seeds, draw)
