"""Do what ``otcache plugins`` is asked: list, doctor, check, new.

``listing`` names what is installed. ``doctor`` gathers each ``finding`` about the environment (``settings``),
``requirements`` and what child processes read. ``checking`` runs the kit that ``toy_kits`` makes for a plugin,
on ``toy_targets``. ``new_package`` fills the templates. ``kinds`` reads and spells the kinds.
"""
