"""What every hash algorithm promises, shipped or installed."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.hashing.algorithm import HashAlgorithm
from models.hashing.registry import hash_algorithms

ALGORITHMS = hash_algorithms()


@pytest.fixture(params=sorted(ALGORITHMS))
def algorithm(request: pytest.FixtureRequest) -> HashAlgorithm:
    """Each registered algorithm in turn."""
    return ALGORITHMS[request.param]


def _large_picture(seed: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (512, 512), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def _plane(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _picture(seed: int) -> NDArray[np.uint8]:
    return _plane(_large_picture(seed))


def _distance(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def test_it_is_registered_under_its_own_name(algorithm: HashAlgorithm) -> None:
    """The name in lists and banks is the name of the algorithm: lower case, safe as a folder's name."""
    assert ALGORITHMS[algorithm.name] is algorithm
    assert algorithm.name == algorithm.name.lower()
    assert algorithm.name.isidentifier()


def test_its_hash_has_the_promised_length(algorithm: HashAlgorithm) -> None:
    """Hashes are whole 64-bit words, qualities 0-100, limits within the length."""
    assert algorithm.bits % 64 == 0
    assert 0 <= algorithm.max_distance < algorithm.bits // 2
    for seed in range(5):
        fingerprint = algorithm.hash_plane(_picture(seed))
        assert (len(fingerprint.value) * 8, type(fingerprint.value)) == (algorithm.bits, bytes)
        assert 0 <= fingerprint.quality <= 100


def test_equal_planes_give_equal_answers(algorithm: HashAlgorithm) -> None:
    """The answer depends on the pixels alone, and the plane is left as it was."""
    plane = _picture(1)
    before = plane.copy()

    assert algorithm.hash_plane(plane) == algorithm.hash_plane(np.asfortranarray(plane))
    assert np.array_equal(before, plane)


def test_a_read_only_plane_is_taken(algorithm: HashAlgorithm) -> None:
    """Planes arrive as views of received bytes, which cannot be written to."""
    plane = np.frombuffer(_picture(2).tobytes(), dtype=np.uint8).reshape(64, 64)

    assert algorithm.hash_plane(plane) == algorithm.hash_plane(plane.copy())


def test_a_re_encode_stays_within_the_limit_and_another_picture_does_not(algorithm: HashAlgorithm) -> None:
    """JPEG at 70 keeps a picture a match of itself; unrelated pictures are none of each other."""
    hashes = [algorithm.hash_plane(_picture(seed)).value for seed in range(8)]
    for seed, value in enumerate(hashes):
        jpeg = cv2.imencode(".jpg", _large_picture(seed), [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
        again = _plane(np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), dtype=np.uint8))
        assert _distance(value, algorithm.hash_plane(again).value) <= algorithm.max_distance
        assert all(_distance(value, other) > algorithm.max_distance for other in hashes[:seed])


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_plane_is_of_no_quality(algorithm: HashAlgorithm, level: int) -> None:
    """A flat plane has an answer, and the answer says that it is worth nothing."""
    fingerprint = algorithm.hash_plane(np.full((64, 64), level, dtype=np.uint8))

    assert (fingerprint.quality, fingerprint.is_stable) == (0, False)


def test_other_planes_are_refused(algorithm: HashAlgorithm) -> None:
    """A plane of another shape or type is refused, never hashed to something."""
    for plane in (np.zeros((8, 8), np.uint8), np.zeros((64, 64), np.float32)):
        with pytest.raises(ValueError, match=r"64"):
            algorithm.hash_plane(plane)  # type: ignore[arg-type]
