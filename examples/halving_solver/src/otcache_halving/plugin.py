"""The whole plugin: two lines and one class."""

from otcache_core.plugins import Info, hookimpl


@hookimpl
def otcache_provide_solvers() -> list[Info]:
    """Offer the solver; nothing is imported until somebody asks for it."""
    about = "dense early steps, halving density"
    return [Info("halving", "otcache_halving.solver:Halving", about, api=2)]
