"""What a policy is bound to, of video pipelines: tokens of a video and guidance."""

from __future__ import annotations

from typing import Any

import pytest
from video_families import hunyuan, ltx, transformers, unets, wan

from otcache_core import Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.errors import OtcacheError
from otcache_diffusers.recording.facts import provenance_of
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.testing import Case, N

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def _facts(case: Case, **call: Any) -> dict[str, Any]:
    return provenance_of(case.pipe, N, case.call | call)


@pytest.mark.parametrize(
    ("case", "size", "tokens"),
    [
        (wan.text, (32, 64, 9), 3 * 2 * 4),  # 4 in time, 8 in space, patches (1, 2, 2)
        (wan.text, (480, 832, 81), 21 * 30 * 52),
        (wan.image_experts, (32, 64, 81), 21 * 2 * 4),
        (hunyuan.text, (32, 32, 9), 3 * 4 * 4),  # 4 and 8, patches of 1
        (ltx.text, (32, 32, 9), 3 * 8 * 8),  # 4 and 4, packed by patches of 1
        (transformers.cog_video, (16, 32, 9), 3 * 1 * 2),  # 4 and 8, patches of 2
        (transformers.mochi, (32, 32, 13), 3 * 2 * 2),  # 6 and 8, patches of 2
        (unets.animate_diff, (8, 8, 4), 4 * 8 * 8),  # a UNet: latent pixels of every frame
    ],
)
def test_tokens_count_latent_frames(case: Any, size: tuple[int, ...], tokens: int) -> None:
    height, width, frames = size
    found = _facts(case(), height=height, width=width, num_frames=frames)["resolution"]
    assert found == tokens


def test_frames_not_asked_for_are_the_pipeline_s_own() -> None:
    case = wan.text()
    call = dict.fromkeys(("height", "width", "num_frames"))
    assert _facts(case, **call)["resolution"] == 21 * 30 * 52  # 81 frames of 480 by 832


def test_latte_and_sana_name_frames_otherwise() -> None:
    assert _facts(transformers.latte(), video_length=4)["resolution"] == 4 * (8 // 2) ** 2
    assert _facts(transformers.sana(), frames=5)["resolution"] == 2 * (32 // 16) ** 2


def test_guidance_of_two_transformers_has_two_scales() -> None:
    case = wan.experts()
    assert _facts(case)["guidance"] == "cfg 4.0 then 3.0"
    assert _facts(case, guidance_scale_2=4.0)["guidance"] == "cfg 4.0"
    assert _facts(case, guidance_scale_2=None)["guidance"] == "cfg 4.0"
    assert _facts(wan.text())["guidance"] == "cfg 4.0"


def test_guidance_of_ltx_2_has_two_scales_more() -> None:
    assert _facts(ltx.second())["guidance"] == "cfg 3.0, stg 1.0, modality 3.0"
    assert _facts(ltx.second(), stg_scale=0.5)["guidance"] == "cfg 3.0, stg 0.5, modality 3.0"
    assert _facts(ltx.second_plain())["guidance"] == "cfg 3.0"


def test_guidance_embedded_true_and_of_a_guider() -> None:
    assert _facts(hunyuan.text())["guidance"] == "embedded 6.0"
    assert _facts(hunyuan.true_guidance())["guidance"] == "cfg 4.0"
    assert _facts(hunyuan.newer())["guidance"] == "cfg 4.0"


def test_a_pipeline_without_prompts_says_what_to_do() -> None:
    request = SampleRequest(("a",), (0,), N, unets.stable_video().call)
    with pytest.raises(OtcacheError, match=r"takes no prompt.*mappings.*prompts=\[\{.image"):
        TorchProbe().sample(unets.stable_video().pipe, request)


def test_an_image_is_a_sample_of_stable_video_and_several_are_measured() -> None:
    case = unets.stable_video()
    image = case.call.pop("image")
    samples = ({"image": image}, {"image": image.flip(-1) * 0.5})
    request = SampleRequest(samples, (0, 0), N, case.call)
    runs = list(TorchProbe().record(case.pipe, request))
    evaluator = TorchProbe().evaluator(case.pipe, request, runs)
    assert evaluator.replay([1]).item() < 1e-3
    errors = evaluator.evaluate([Schedule(N, (0, 1, 4))], objective="latent-rmse").errors[0]
    assert (errors > 0).all()
    assert errors[0] != errors[1]
