"""The block lists of a denoiser."""

from __future__ import annotations

from torch import nn

from otcache_core.callable_denoiser import name_of


def block_lists(module: nn.Module, prefix: str = "") -> dict[str, list[nn.Module]]:
    """Every outermost ``nn.ModuleList`` in ``module`` by its dotted name.

    A list inside a block belongs to the block. Lists of bare layers, such as norms, are no blocks.
    """
    found: dict[str, list[nn.Module]] = {}
    for name, child in module.named_children():
        if not isinstance(child, nn.ModuleList):
            found |= block_lists(child, f"{prefix}{name}.")
        elif any(True for block in child for _ in block.children()):
            found[prefix + name] = list(child)
    return found


def no_blocks(module: nn.Module) -> str:
    """ "" if blocks of the denoiser can be looked for, else the reason why not."""
    if not isinstance(module, nn.Module):
        return f"{name_of(module)} is no torch module, so it has no blocks"
    kind = type(getattr(module, "_orig_mod", module)).__name__
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        return (
            f"{kind} is compiled as a whole, so its blocks cannot be passed over (block by "
            "block, with compile_repeated_blocks, they can)"
        )
    lists = block_lists(module)
    if not lists:
        return f"{kind} has no nn.ModuleList of blocks"
    inside = (part for blocks in lists.values() for block in blocks for part in block.modules())
    if any(_prefetched(part) for part in inside):
        return (
            f"{kind} fetches the weights of one block while the one before it runs (group offloading "
            "with use_stream=True; without it its blocks can be passed over)"
        )
    return ""


def _prefetched(part: nn.Module) -> bool:
    registry = getattr(part, "_diffusers_hook", None)
    hook = registry.get_hook("group_offloading") if registry is not None else None
    return getattr(getattr(hook, "group", None), "stream", None) is not None
