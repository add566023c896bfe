"""otcache as a library inside a larger program; ``python -m composing`` runs all of it.

In this order: ``plugins``, a private registry; ``logs``, otcache's notices in the program's own log;
``service``, results instead of exceptions; ``pipelines``, threads, each with a pipeline and its handle, and
a pool of processes; ``outside``, an executor that is not otcache's, and exports.
"""
