"""What the package offers: one hook a kind; nothing else is imported until somebody asks for it."""

from otcache_core.plugins import Info, hookimpl

HERE = "otcache_all_kinds"


@hookimpl
def otcache_provide_solvers() -> list[Info]:
    """Offer the solver."""
    return [Info("bottleneck", f"{HERE}.solver:Bottleneck", "cheapest dearest span, exact", api=2)]


@hookimpl
def otcache_provide_cost_models() -> list[Info]:
    """Offer the cost model."""
    about = "how much outputs change over a span; costs nothing"
    return [Info("output-change", f"{HERE}.cost_model:OutputChange", about, api=2)]


@hookimpl
def otcache_provide_forecasters() -> list[Info]:
    """Offer one class under two names that differ in a setting."""
    target, half = f"{HERE}.forecaster:Damped", {"share": 0.5}
    return [
        Info("damped", target, "half of a linear extrapolation", api=2, options=half),
        Info("damped-more", target, "a quarter of it", api=2, options={"share": 0.25}),
    ]


@hookimpl
def otcache_provide_metrics() -> list[Info]:
    """Offer the metric."""
    return [Info("mae", f"{HERE}.metric:MeanAbsolute", "mean absolute error of pixels", api=2)]


@hookimpl
def otcache_provide_baselines() -> list[Info]:
    """Offer the baseline."""
    return [Info("every-kth", f"{HERE}.baseline:EveryKth", "compute every k-th step", api=2)]


@hookimpl
def otcache_provide_probes() -> list[Info]:
    """Offer the probe."""
    return [Info("flow", f"{HERE}.probe:FlowProbe", "record a Flow", api=2)]


@hookimpl
def otcache_provide_executors() -> list[Info]:
    """Offer the executor."""
    return [Info("flow", f"{HERE}.executor:FlowExecutor", "run a Flow by a schedule", api=2)]


@hookimpl
def otcache_provide_demos() -> list[Info]:
    """Offer two demos."""
    return [
        Info("flow", f"{HERE}.flow:IMAGES", "coloured pixels, in numpy", api=2),
        Info("flow-video", f"{HERE}.flow:VIDEOS", "the same, four frames", api=2),
    ]


@hookimpl
def otcache_provide_writers() -> list[Info]:
    """Offer the video writer."""
    return [Info("apng", f"{HERE}.writer:Apng", "animated PNG, without loss", api=2)]


@hookimpl
def otcache_provide_architectures() -> list[Info]:
    """Offer the published model."""
    return [Info("dit-xl-2", f"{HERE}.architecture:DIT_XL_2", "DiT-XL/2, 675 M parameters", api=2)]
