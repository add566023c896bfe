"""Conformance kits for plugin authors, and a toy pipeline that needs no tensor library.

A kit is a class of tests, one for each requirement of a contract. Subclass it under a name that begins with
``Test`` and say how to make the plugin:

.. code-block:: python

    from otcache_core.testing import SolverConformance

    class TestMySolver(SolverConformance):
        def make_solver(self):
            return MySolver()

pytest finds the class and runs its tests. Nothing here needs pytest: these *checks* are methods without
arguments, and ``print(TestMySolver.run_checks())`` runs them all, with the count of those that
passed, failed, are expected to fail, or do not apply and why (:class:`Conformance`). A plugin that cannot
pass a check names it with the reason:

.. code-block:: python

    class TestMyMetric(MetricConformance):
        expected_failures = {"test_more_noise_is_worse": "letters are read or not"}

A kit makes the plugin from its class; :func:`check_installed` says whether otcache finds it where it is
installed.

``kit`` runs checks, ``assertions`` and ``metric_checks`` hold what they share, ``toy`` is what they run on;
then comes a file for each kind of plugin or two.
"""

from otcache_core.testing.assertions import check_installed
from otcache_core.testing.baselines import BaselineConformance
from otcache_core.testing.executors import ExecutorConformance
from otcache_core.testing.image_metrics import (
    MetricConformance,
    PromptMetricConformance,
    SetMetricConformance,
)
from otcache_core.testing.kit import CheckResult, Conformance, KitReport, NotApplicable, Outcome
from otcache_core.testing.metric_checks import ExpectedValues
from otcache_core.testing.playback import PlaybackConformance
from otcache_core.testing.probes import EvaluatorConformance, ProbeConformance
from otcache_core.testing.solvers import SolverConformance
from otcache_core.testing.spans import CostModelConformance, ForecasterConformance
from otcache_core.testing.toy import ToyEvaluator, ToySampler, toy_loop
from otcache_core.testing.video import VideoMetricConformance, VideoWriterConformance

__all__ = [
    "BaselineConformance",
    "CheckResult",
    "Conformance",
    "CostModelConformance",
    "EvaluatorConformance",
    "ExecutorConformance",
    "ExpectedValues",
    "ForecasterConformance",
    "KitReport",
    "MetricConformance",
    "NotApplicable",
    "Outcome",
    "PlaybackConformance",
    "ProbeConformance",
    "PromptMetricConformance",
    "SetMetricConformance",
    "SolverConformance",
    "ToyEvaluator",
    "ToySampler",
    "VideoMetricConformance",
    "VideoWriterConformance",
    "check_installed",
    "toy_loop",
]
