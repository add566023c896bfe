"""The published model."""

from otcache_core.models import Architecture, CallCost, Canvas, Configs

#: Blocks, their width d, side of a patch in pixels (8 of the autoencoder's by 2), channels of a latent.
DEPTH, WIDTH, PATCH, CHANNELS = 28, 1152, 16, 4


def measure(canvas: Canvas, configs: Configs) -> CallCost:
    r"""Count one call, a class and no guidance.

    .. math:: 2 L (12 T d^2 + 2 T^2 d), \qquad T = \frac{height \cdot width}{16^2}

    for L blocks of width d on T tokens: attention's four projections, the two of the MLP, of width 4d,
    and two products of T by T. Modulation, 6 d^2 a block, is in the parameters and too little to count.
    """
    tokens = (canvas.height // PATCH) * (canvas.width // PATCH)
    flops = 2 * DEPTH * (12 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH)
    return CallCost(
        parameters=DEPTH * 18 * WIDTH**2,
        flops=flops,
        output_elements=2 * CHANNELS * canvas.height * canvas.width // 64,  # with the variances
    )


DIT_XL_2 = Architecture(
    name="dit-xl-2",
    summary="DiT-XL/2, class-conditional, no guidance",
    model_class="DiTTransformer2DModel",
    source="Scalable Diffusion Models with Transformers, 2022, https://arxiv.org/abs/2212.09748",
    measure=measure,
)
