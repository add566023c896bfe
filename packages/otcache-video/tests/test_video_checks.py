"""Planted faults of motion and light move each metric by what its formula says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from otcache_core import OtcacheError
from otcache_core.contracts import VideoMetric, metric_values, per_frame
from otcache_core.testing.metric_checks import moving
from otcache_diffusers.metrics.lpips import Lpips
from otcache_diffusers.metrics.pairwise import Psnr, Rmse, Ssim
from otcache_video.metrics.features import SubjectConsistency, TemporalLpips
from otcache_video.metrics.motion import STILL, Flicker, MotionMagnitude, WarpingError

sys.path.insert(0, str(Path(__file__).parent))
import video_kits
from video_kits import alternating, gliding, pattern

Array = NDArray[np.float64]
FULL = gliding(1.0, frames=9)
FROZEN = np.repeat(FULL[:1], 9, axis=0)
LATE = np.concatenate([gliding(1.0, frames=9)[1:], gliding(1.0, frames=10)[9:]])
HALF_SPEED = gliding(0.5, frames=9)


def value(metric: VideoMetric, made: Array, full: Array = FULL) -> float:
    return float(metric(made[None], full[None])[0])


def root_mean_square(x: Array) -> float:
    return float(np.sqrt(np.mean(x**2)))


# -- flicker ---------------------------------------------------------------------------------------


@given(st.floats(0.0, 0.05))
def test_alternating_brightness_flickers_by_twice_its_amplitude(amount: float) -> None:
    assert value(Flicker(), alternating(FULL, amount)) == pytest.approx(2 * amount, abs=1e-12)


def test_an_error_that_stays_does_not_flicker() -> None:
    stain = 0.05 * np.random.default_rng(0).uniform(-1, 1, FULL.shape[1:])
    assert value(Flicker(), FULL + stain) == pytest.approx(0.0, abs=1e-12)
    assert metric_values(Rmse(), (FULL + stain)[None], FULL[None])[0] > 0.02


def test_a_frozen_video_flickers_by_the_reference_s_own_changes() -> None:
    assert value(Flicker(), FROZEN) == pytest.approx(root_mean_square(np.diff(FULL, axis=0)))


def test_a_late_video_flickers_by_the_second_differences() -> None:
    """x_t = y_{t+1}: the error's change is y_{t+2} - 2 y_{t+1} + y_t."""
    second = np.diff(gliding(1.0, frames=10), n=2, axis=0)
    assert value(Flicker(), LATE) == pytest.approx(root_mean_square(second))


@settings(max_examples=25)
@given(st.integers(2, 6), st.integers(0, 2**31))
def test_flicker_is_bounded_by_the_video_s_rmse(frames: int, seed: int) -> None:
    x, y = np.random.default_rng(seed).random((2, 2, frames, 4, 5, 3))
    bound = 2 * np.sqrt(frames / (frames - 1)) * metric_values(Rmse(), x, y)
    assert (Flicker()(x, y) <= bound + 1e-12).all()


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_flicker_is_a_distance_up_to_what_stays(seed: int) -> None:
    x, y, z = np.random.default_rng(seed).random((3, 2, 4, 4, 5, 3))
    metric = Flicker()
    np.testing.assert_allclose(metric(x, y), metric(y, x))
    assert (metric(x, z) <= metric(x, y) + metric(y, z) + 1e-12).all()


# -- temporal LPIPS --------------------------------------------------------------------------------


def test_a_frozen_video_lacks_the_reference_s_perceptual_changes() -> None:
    wanted = video_kits.steps(FULL).mean()
    assert value(TemporalLpips(), FROZEN) == pytest.approx(wanted, rel=1e-3)


def test_a_video_that_shows_each_frame_twice_changes_every_other_step() -> None:
    stutter = FULL[[0, 0, 1, 1, 2, 2, 3, 3, 4]]
    changes = video_kits.steps(FULL)
    made = [0, changes[0], 0, changes[1], 0, changes[2], 0, changes[3]]
    wanted = np.abs(made - changes).mean()
    assert value(TemporalLpips(), stutter) == pytest.approx(wanted, rel=1e-3)


def test_temporal_lpips_is_the_same_both_ways() -> None:
    made, full = video_kits.tinted(speeds=(2.0, 0.5))
    there = TemporalLpips()(made, full)
    np.testing.assert_allclose(TemporalLpips()(full, made), there, rtol=1e-9)
    np.testing.assert_allclose(TemporalLpips()(made[:, ::-1], full[:, ::-1]), there, rtol=1e-4)


# -- warping error ---------------------------------------------------------------------------------


@given(st.floats(0.0, 0.05))
@settings(max_examples=5, deadline=None)
def test_alternating_brightness_warps_by_twice_its_amplitude_where_nothing_moves(
    amount: float,
) -> None:
    found = value(WarpingError(), alternating(FROZEN, amount), FROZEN)
    assert found == pytest.approx(2 * amount, abs=1e-9)


def test_a_frozen_video_differs_from_itself_along_the_reference_s_motion() -> None:
    """One pixel to the right: v(p) - v(p + 1), in the pattern's own formula."""
    still, ahead = pattern(np.array([0.0, -1.0]))
    wanted = root_mean_square(0.45 * (still - ahead))
    assert value(WarpingError(), FROZEN) == pytest.approx(wanted, rel=0.05)


def test_half_the_speed_is_half_a_pixel_off_the_reference_s_motion() -> None:
    still, ahead = pattern(np.array([0.0, -0.5]))
    wanted = root_mean_square(0.45 * (still - ahead))
    assert value(WarpingError(), HALF_SPEED) == pytest.approx(wanted, rel=0.08)


def test_a_late_video_keeps_to_the_reference_s_motion() -> None:
    assert value(WarpingError(), LATE) < 1e-3
    assert value(Flicker(), LATE) > 0.05


def test_frames_without_a_common_pixel_count_as_nothing() -> None:
    noise = np.random.default_rng(0).random((3, 8, 8, 3))
    assert np.isfinite(value(WarpingError(), noise[::-1], noise))


# -- motion ----------------------------------------------------------------------------------------


def log_ratio(made: float, full: float) -> float:
    return float(abs(np.log((made + STILL) / (full + STILL))))


@pytest.mark.parametrize(
    ("made", "speed", "tolerance"),
    [(HALF_SPEED, 0.5, 0.03), (gliding(2.0, 9), 2.0, 0.03), (FROZEN, 0.0, 0.05), (LATE, 1.0, 1e-3)],
)
def test_the_ratio_of_motion_is_that_of_speeds(made: Array, speed: float, tolerance: float) -> None:
    wanted = log_ratio(speed, 1.0)
    assert value(MotionMagnitude(), made) == pytest.approx(wanted, abs=tolerance)


def test_which_of_two_videos_moves_more_does_not_matter() -> None:
    there, back = value(MotionMagnitude(), HALF_SPEED), value(MotionMagnitude(), FULL, HALF_SPEED)
    assert there == pytest.approx(back)


def test_motion_backwards_is_as_much_motion() -> None:
    assert value(MotionMagnitude(), FULL[::-1]) < 0.01


def test_two_still_videos_move_alike() -> None:
    other = np.repeat(moving(1, 1, (48, 48, 3))[0], 9, axis=0)
    assert value(MotionMagnitude(), FROZEN, other) == pytest.approx(0.0, abs=1e-9)


# -- subject consistency ---------------------------------------------------------------------------


def test_a_frozen_video_has_the_consistency_that_the_reference_lacks() -> None:
    """Check S = 1 against a video with one frame of noise.

    Its similarity s to the others is in two of eight steps to the frame before, in one of eight to the first.
    """
    strange = FROZEN.copy()
    strange[4] = np.random.default_rng(0).random(strange[4].shape)
    pair = np.stack([FROZEN[0], strange[4]])[None]
    lack = value(SubjectConsistency(), np.repeat(pair[0, :1], 2, axis=0), pair[0])
    assert lack > 0.01
    found = value(SubjectConsistency(), strange, FROZEN)
    assert found == pytest.approx((2 + 1) / 16 * lack, rel=1e-4)
    assert value(SubjectConsistency(), FROZEN, strange) == pytest.approx(found)


def test_another_subject_in_mid_video_is_less_consistent_than_flicker() -> None:
    changed = FULL.copy()
    changed[5:] = moving(2, 9, (48, 48, 3))[1, 5:]
    flickering = alternating(FULL, 0.02)
    metric = SubjectConsistency()
    assert value(metric, changed) > 5 * value(metric, flickering)


@pytest.mark.remedy(
    "give the folder of a DINO ViT as transformers' save_pretrained writes it, such as"
)
def test_a_missing_dino_is_named() -> None:
    with pytest.raises(OtcacheError, match="DINO model must be a folder, got 'nowhere'"):
        SubjectConsistency("nowhere")
    SubjectConsistency(video_kits.dino_folder())


# -- image metrics ---------------------------------------------------------------------------------


def test_image_metrics_of_videos_against_scikit_image() -> None:
    made, full = video_kits.tinted(speeds=(2.0, 0.5))
    psnr, ssim = metric_values(Psnr(), made, full), metric_values(Ssim(), made, full)
    for k, (x, y) in enumerate(zip(made, full, strict=True)):
        assert psnr[k] == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1.0))
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        frames = [
            structural_similarity(a, b, data_range=1.0, channel_axis=-1, **options)
            for a, b in zip(x, y, strict=True)
        ]
        assert ssim[k] == pytest.approx(np.mean(frames))
        np.testing.assert_allclose(per_frame(Ssim(), made, full)[k], frames)


def test_lpips_of_a_video_is_the_mean_over_its_frames() -> None:
    made, full = video_kits.tinted(speeds=(2.0, 0.5))
    frames = [Lpips()(made[:, t], full[:, t]) for t in range(made.shape[1])]
    np.testing.assert_allclose(
        metric_values(Lpips(), made, full), np.mean(frames, axis=0), rtol=1e-4
    )


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.remedy("a change over time needs two; compare single frames by an image metric")
def test_a_single_frame_is_an_image() -> None:
    single = np.full((2, 1, 48, 48, 3), 0.5)
    for name in video_kits.KITS:
        with pytest.raises(OtcacheError, match="compare single frames by an image metric"):
            video_kits.KITS[name]().make_metric()(single, single)
    assert Ssim()(single[:, 0], single[:, 0]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", video_kits.KITS)
@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (np.s_[:, 0], r"shape must be \(n, frames, height, width, 3\)"),
        (np.s_[..., :2], r"shape must be \(n, height, width, 3\)"),
        (np.s_[:0], r"shape must be \(n, frames, height, width, 3\)"),
    ],
)
def test_bad_videos_are_named(name: str, cut: object, message: str) -> None:
    metric, videos = video_kits.KITS[name]().make_metric(), np.full((2, 3, 48, 48, 3), 0.5)[cut]
    with pytest.raises(OtcacheError, match=message):
        metric(videos, videos)


@pytest.mark.parametrize("name", [name for name in video_kits.KITS if name != "flicker"])
def test_too_small_frames_are_named(name: str) -> None:
    metric, videos = video_kits.KITS[name]().make_metric(), np.full((2, 3, 6, 48, 3), 0.5)
    with pytest.raises(OtcacheError, match="height and width must be at least"):
        metric(videos, videos)


@pytest.mark.parametrize("name", video_kits.KITS)
def test_another_number_of_frames_is_named(name: str) -> None:
    metric, videos = video_kits.KITS[name]().make_metric(), np.full((2, 4, 48, 48, 3), 0.5)
    wanted = r"videos' shape must be the reference's \(2, 4, 48, 48, 3\), got \(2, 3,"
    with pytest.raises(OtcacheError, match=wanted):
        metric(videos[:, :3], videos)
