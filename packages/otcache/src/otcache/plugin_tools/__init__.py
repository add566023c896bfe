"""Do what ``otcache plugins`` is asked: list, doctor, check, new.

``listing`` names what is installed. ``doctor`` gathers each ``finding`` about ``settings`` (the environment),
``requirements`` and what child processes read. ``checking`` runs the kit that ``toy_kits`` makes of a plugin,
on ``toy_targets``. ``new_package`` fills the templates. ``kinds`` reads and spells the kinds.
"""
