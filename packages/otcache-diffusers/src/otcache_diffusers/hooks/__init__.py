"""Attach to a denoiser and follow its steps: attach, module_hook, step trackers, run_state, step_hook.

``attach.drive`` attaches hooks to a target. A call goes through module_hook (object_hook, of an object that
is no module, before it) to a step tracker
(scheduler_steps, loop_steps, module_steps), and by run_state to the step hook that decides.
"""

from otcache_diffusers.hooks.attach import Driven, denoisers_of, drive, unsupported
from otcache_diffusers.hooks.auxiliary import auxiliary_networks
from otcache_diffusers.hooks.loop_states import LoopStates
from otcache_diffusers.hooks.modular import guiders_of
from otcache_diffusers.hooks.sigmas import sigma_grid, usable_grid
from otcache_diffusers.hooks.step_hook import DenoiserCall, RunInfo, Severity, StepHook
from otcache_diffusers.hooks.trees import Packed, combine, tensors

__all__ = [
    "DenoiserCall",
    "Driven",
    "LoopStates",
    "Packed",
    "RunInfo",
    "Severity",
    "StepHook",
    "auxiliary_networks",
    "combine",
    "denoisers_of",
    "drive",
    "guiders_of",
    "sigma_grid",
    "tensors",
    "unsupported",
    "usable_grid",
]
