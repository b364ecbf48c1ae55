"""Packets to frames and frames to pixels, on clips made here."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from models.hashing.registry import hash_algorithms
from streams.decoder import PICTURE_INTERPOLATION, PLANE_INTERPOLATION, Decoder, PixelReader
from streams.frame import shaped_size
from tests.fixtures_media import Clip, MediaMaker

MAX_PIXELS = 4096 * 2304


@contextmanager
def opened(clip: bytes, container_format: str = "mpegts", max_pixels: int = MAX_PIXELS) -> Iterator[tuple]:
    """Give the decoder of a clip and its video packets."""
    with av.open(io.BytesIO(clip), format=container_format) as container:
        stream = container.streams.video[0]
        yield Decoder(stream, max_pixels), [packet for packet in container.demux(stream) if packet.size]


def grey_of(frame: av.VideoFrame) -> int:
    return int(PixelReader().plane(frame).mean().round())


@pytest.mark.parametrize(
    "clip",
    [
        Clip(b_frames=0),
        Clip(b_frames=3),
        Clip(codec="libx265", b_frames=3, frames=40, gop=20),
        Clip(codec="libvpx-vp9", container="webm"),
        Clip(codec="libvpx", container="webm"),
    ],
    ids=lambda clip: f"{clip.codec}-{clip.b_frames}",
)
def test_keyframe_comes_out_with_its_own_packet(media: MediaMaker, clip: Clip) -> None:
    """Each keyframe's picture comes out before the next packet goes in, whatever the codec reorders."""
    container_format = "matroska" if clip.container == "webm" else clip.container
    with opened(media.clip(clip), container_format) as (decoder, packets):
        keyframes = [packet for packet in packets if packet.is_keyframe]
        pictures = [decoder.decode_alone(packet) for packet in keyframes]

        assert len(keyframes) >= 2
        assert [frame and frame.pts for frame in pictures] == [packet.pts for packet in keyframes]
        assert decoder.errors == 0
        assert decoder.pts_seconds(pictures[1]) == pytest.approx(float(keyframes[1].pts * keyframes[1].time_base))


def test_keyframe_alone_shows_what_decoding_through_shows(media: MediaMaker) -> None:
    """Draining after each keyframe changes none of its pixels, and does not disturb decoding through."""
    with opened(media.clip(Clip(b_frames=2))) as (decoder, packets):
        alone, through = {}, {}
        for packet in packets:
            if packet.is_keyframe:
                frame = decoder.decode_alone(packet)
                alone[frame.pts] = decoder.plane(frame)
            through |= {frame.pts: decoder.plane(frame) for frame in decoder.decode_through(packet)}
        through |= {frame.pts: decoder.plane(frame) for frame in decoder.finish_through()}

        assert len(through) == len(packets)
        assert all(np.array_equal(plane, through[pts]) for pts, plane in alone.items())


def test_refresh_point_gives_no_picture_and_no_error(media: MediaMaker) -> None:
    """Only the first of the packets that intra refresh flags as keyframes can be decoded on its own."""
    with opened(media.clip(Clip(intra_refresh=True, frames=90))) as (decoder, packets):
        pictures = [decoder.decode_alone(packet) for packet in packets if packet.is_keyframe]

        assert [picture is not None for picture in pictures] == [True, False, False]
        assert decoder.errors == 0


def test_broken_packets_are_counted_and_survived(media: MediaMaker) -> None:
    """Noise instead of packets costs those frames, one count each, and no more."""
    with opened(media.clip(Clip())) as (decoder, packets):
        noise = np.random.default_rng(7)
        frames = []
        for number, packet in enumerate(packets):
            sent = av.Packet(noise.bytes(packet.size)) if 10 <= number < 20 else packet
            frames += decoder.decode_through(sent)

        assert decoder.errors == 10
        assert len(frames) + len(decoder.finish_through()) >= 45
        assert decoder.decode_alone(av.Packet(noise.bytes(500))) is None


def test_frame_beyond_the_limit_is_an_error_not_a_frame(media: MediaMaker) -> None:
    """A stream that turns out larger than allowed gives nothing, in both ways of decoding."""
    with opened(media.clip(Clip()), max_pixels=320 * 240 - 1) as (decoder, packets):
        assert decoder.decode_alone(packets[0]) is None
        assert decoder.decode_through(packets[0]) == []
        assert decoder.errors >= 2


def test_new_headers_beside_a_skipped_packet_are_taken_over(media: MediaMaker) -> None:
    """FLV headers that change on a packet nobody decodes are known to the packets after it."""
    small = media.clip(Clip(container="flv"))
    large = media.clip(Clip(container="flv", size=(640, 360)))
    # Two encoders, one connection: the second clip's tags follow the first's, without its file header.
    with opened(small + large[13:], "flv") as (decoder, packets):
        assert decoder.decode_alone(packets[0]).width == 320
        for packet in packets[1:]:
            decoder.note(packet)

        assert decoder.decode_alone(packets[90]).width == 640


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p10le", "yuv444p", "gray", "rgb24", "nv12"])
@pytest.mark.parametrize("grey", [0, 60, 128, 255])
def test_plane_is_full_range_whatever_the_pixel_format(media: MediaMaker, pixel_format: str, grey: int) -> None:
    """Black is 0 and white is 255 in the hash plane, whichever range and layout the codec used."""
    frame = av.VideoFrame.from_ndarray(media.card(grey), "rgb24").reformat(format=pixel_format)

    pixels = PixelReader().pixels(frame)

    assert pixels.plane.shape == (64, 64)
    assert np.abs(pixels.plane.astype(int) - grey).max() <= 3
    assert pixels.picture.shape == (256, 256, 3)
    assert np.abs(pixels.picture.astype(int) - grey).max() <= 4


def test_plane_is_the_mean_of_areas_not_of_points() -> None:
    """Every pixel counts: fine stripes come out grey, and random content as the mean of its blocks."""
    assert PLANE_INTERPOLATION is Interpolation.AREA
    assert PICTURE_INTERPOLATION is Interpolation.AREA
    luma = np.random.default_rng(3).integers(0, 256, (640, 640), np.uint8)
    luma[:64] = np.arange(640) % 2 * 255
    frame = av.VideoFrame.from_ndarray(luma, "gray")

    plane = PixelReader().plane(frame)

    blocks = luma.reshape(64, 10, 64, 10).mean(axis=(1, 3))
    assert np.abs(plane - blocks).max() <= 2
    assert np.abs(plane[:6].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "nv12"])
def test_both_sizes_are_means_of_areas_of_the_whole_frame(pixel_format: str) -> None:
    """What is analysed is the mean of the frame's areas, by way of a halfway size too, in its own range."""
    luma = np.random.default_rng(5).integers(0, 256, (1024, 1536), np.uint8)
    luma[:64] = np.arange(1536) % 2 * 255
    frame = av.VideoFrame.from_ndarray(luma, "gray").reformat(format=pixel_format)

    pixels = PixelReader().pixels(frame)

    blocks = luma.reshape(64, 16, 64, 24).mean(axis=(1, 3))
    assert np.abs(pixels.plane - blocks).max() <= 2
    areas = luma.reshape(256, 4, 256, 6).mean(axis=(1, 3))
    assert np.abs(pixels.picture - areas[:, :, None]).mean() <= 1
    assert np.abs(pixels.plane.astype(int) - PixelReader().plane(frame)).max() <= 2


@pytest.mark.parametrize(
    ("rotation", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1)), (-180, (1, 1))]
)
def test_rotation_is_applied_to_both_sizes(rotation: int, corner: tuple[int, int]) -> None:
    """A frame is looked at the way up in which viewers see it."""
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[:120, :160] = 255  # the upper left quarter
    frame = av.VideoFrame.from_ndarray(picture, "rgb24")

    pixels = PixelReader().pixels(frame, rotation)

    quarters = pixels.plane.reshape(2, 32, 2, 32).mean(axis=(1, 3))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner
    assert pixels.picture[corner[0] * 200 + 20, corner[1] * 200 + 20].min() > 250
    assert (pixels.width, pixels.height) == ((240, 320) if rotation in (90, -90) else (320, 240))


def test_container_rotation_reaches_frames_decoded_through(media: MediaMaker) -> None:
    """A display matrix in an MP4 header turns keyframes and all other frames alike."""
    clip = bytearray(media.clip(Clip(container="mp4", frames=40)))
    matrix = clip.index(b"tkhd") + 4 + 40
    fixed = [0, 65536, 0, -65536, 0, 0, 0, 0, 1073741824]
    clip[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in fixed)
    with opened(bytes(clip), "mov") as (decoder, packets):
        alone = decoder.decode_alone(packets[0])
        through = decoder.decode_through(packets[0]) + decoder.finish_through()

        assert alone.rotation in (90, -90)
        assert np.array_equal(decoder.plane(alone), decoder.plane(through[0]))
        assert (decoder.pixels(through[0]).width, decoder.pixels(through[0]).height) == (240, 320)
        # This matrix, a phone's held upright, asks for a quarter turn clockwise: dark left becomes dark top.
        rows, columns = decoder.plane(alone).mean(axis=1), decoder.plane(alone).mean(axis=0)
        assert rows[0] < 20
        assert rows[-1] > 230
        assert np.ptp(columns) < 20


@pytest.mark.parametrize("colorspace", [Colorspace.ITU709, Colorspace.ITU601])
@pytest.mark.parametrize("color_range", [ColorRange.MPEG, ColorRange.JPEG])
def test_picture_has_the_frame_s_own_colours(
    media: MediaMaker, colorspace: Colorspace, color_range: ColorRange
) -> None:
    """A picture shows the colours that were filmed, by whichever matrix and range they are."""
    card = media.card((200, 60, 90), (640, 360))
    frame = av.VideoFrame.from_ndarray(card, "rgb24").reformat(
        format="yuv420p", dst_colorspace=colorspace, dst_color_range=color_range
    )
    frame.colorspace, frame.color_range = colorspace, color_range

    picture = PixelReader().pixels(frame).picture

    assert np.abs(picture.astype(int) - (200, 60, 90)).max() <= 4


@pytest.mark.parametrize("size", [(1920, 1080), (640, 360), (321, 241), (1, 1), (1280, 1), (1, 900), (90, 4000)])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12", "yuv422p10le", "gray", "rgb24"])
@pytest.mark.parametrize("rotation", [0, 90, 180])
def test_a_shaped_picture_has_the_frame_s_own_shape(size: tuple[int, int], pixel_format: str, rotation: int) -> None:
    """Every size, shape, format and rotation gives the picture that was asked for, and changes no other pixel."""
    draw = np.random.default_rng(size[0])
    small = draw.integers(0, 256, (-(-size[1] // 40), -(-size[0] // 40), 3), np.uint8)
    content = small.repeat(40, 0).repeat(40, 1)[: size[1], : size[0]]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(content), "rgb24").reformat(format=pixel_format)

    plain = PixelReader().pixels(frame, rotation)
    both = PixelReader((352, 0)).pixels(frame, rotation)

    assert plain.shaped is None
    assert np.array_equal(both.plane, plain.plane)
    assert np.array_equal(both.picture, plain.picture)
    width, height = size[::-1] if rotation == 90 else size
    assert both.shaped.shape[1::-1] == shaped_size(352, 0, width, height)
    if min(size) > 200:  # the same way up and in the same colours as the square picture
        across, down = both.shaped.shape[1] // 4, both.shaped.shape[0] // 4
        corner = both.shaped[:down, :across].mean(axis=(0, 1))
        assert np.abs(corner - both.picture[:64, :64].mean(axis=(0, 1))).max() <= 8


def test_one_reader_follows_a_stream_that_changes_its_shape() -> None:
    """What was scaled before leaves nothing in the next picture; wide pixels are shown as wide as they are."""
    reader = PixelReader((256, 0))
    for size in ((640, 360), (360, 640), (1920, 800), (100, 80), (640, 360)):
        frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 77, np.uint8), "rgb24")
        shaped = reader.pixels(frame.reformat(format="yuv420p")).shaped

        assert shaped.shape[1::-1] == shaped_size(256, 0, *size)
        assert np.abs(shaped.astype(int) - 77).max() <= 3
    wide = av.VideoFrame.from_ndarray(np.zeros((576, 720, 3), np.uint8), "rgb24")
    assert reader.pixels(wide, 0, 16 / 11).shaped.shape == (256, 465, 3)
    assert reader.pixels(wide, 90, 16 / 11).shaped.shape == (465, 256, 3)


@cache
def blocky(size: tuple[int, int]) -> bytes:
    """A pan over things of all sizes, at a quality at which blocks show, with filters as encoders have them."""
    buffer, draw = io.BytesIO(), np.random.default_rng(4)
    scene = sum(
        cv2.resize(draw.integers(0, 80, (2**octave, 2**octave), np.uint8), (2100, 1300), interpolation=cv2.INTER_CUBIC)
        for octave in (2, 5, 7)
    )
    with av.open(buffer, "w", format="mpegts") as container:
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.options = {
            "preset": "veryfast",
            "x264-params": "crf=38:keyint=4:scenecut=0:b-adapt=0:bframes=2:threads=1",
        }
        for number in range(8):
            seen = cv2.resize(scene[8 * number : 1080 + 8 * number, 16 * number : 1920 + 16 * number], size)
            picture = av.VideoFrame.from_ndarray(np.repeat(seen[:, :, None], 3, axis=2), "rgb24")
            container.mux(video.encode(picture.reformat(format="yuv420p")))
        container.mux(video.encode(None))
    return buffer.getvalue()


def pixels_that_differ(size: tuple[int, int]) -> tuple[int, int]:
    """In how many frames, of keyframes alone and of all decoded through, a pixel differs from libav's usual ones.

    All of them are held to look alike.
    """
    with opened(blocky(size)) as (decoder, packets):
        usual = av.CodecContext.create("h264", "r")
        frames = {frame.pts: frame for packet in [*packets, None] for frame in usual.decode(packet)}
        alone = [decoder.decode_alone(packet) for packet in packets if packet.is_keyframe]
        through = [frame for packet in packets for frame in decoder.decode_through(packet)] + decoder.finish_through()

        assert {frame.pts for frame in through} == frames.keys()
        for frame in [*alone, *through]:
            ours, theirs = decoder.pixels(frame), PixelReader().pixels(frames[frame.pts])
            hashes = [hash_algorithms()["pdq"].hash_plane(one.plane).value for one in (ours, theirs)]
            assert (int.from_bytes(hashes[0], "big") ^ int.from_bytes(hashes[1], "big")).bit_count() <= 6
            assert np.abs(ours.plane.astype(int) - theirs.plane).max() <= 3
            assert np.abs(ours.picture.astype(int) - theirs.picture).mean() <= 2.0
        return (
            sum(not np.array_equal(frame.to_ndarray(), frames[frame.pts].to_ndarray()) for frame in alone),
            sum(not np.array_equal(frame.to_ndarray(), frames[frame.pts].to_ndarray()) for frame in through),
        )


def test_edges_are_left_in_large_pictures_to_which_none_refers() -> None:
    """Both keyframes alone, and one of two B-frames in each GOP of four: scaling loses the difference."""
    assert pixels_that_differ((1920, 1080)) == (2, 2)


def test_edges_are_smoothed_in_small_pictures() -> None:
    """Nothing differs where blocks are large beside what is analysed."""
    assert pixels_that_differ((1280, 720)) == (0, 0)


def test_size_that_was_not_known_is_noted() -> None:
    """A decoder that was made for a small picture takes to the large ones that come, and back."""
    with opened(blocky((1920, 1080))) as (decoder, packets), opened(blocky((1280, 720))) as (_, small):
        keyframes = [one for one in packets if one.is_keyframe][:1], [one for one in small if one.is_keyframe][:1]
        sizes = [decoder.decode_alone(one).width for one in (*keyframes[1], *keyframes[0], *keyframes[1]) * 2]

    assert sizes == [1280, 1920, 1280] * 2
    assert decoder.errors == 0
