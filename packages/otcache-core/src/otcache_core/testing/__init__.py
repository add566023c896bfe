"""Conformance kits for plugin authors, and a toy pipeline that needs no tensor library.

A kit is a class of pytest tests, one for each law of a contract. Subclass it under a name that
begins with ``Test`` and say how to make the plugin:

.. code-block:: python

    from otcache_core.testing import SolverConformance

    class TestMySolver(SolverConformance):
        def make_solver(self):
            return MySolver()

Importing this package needs pytest; nothing else in otcache-core does.
"""

from otcache_core.testing.baselines import BaselineConformance
from otcache_core.testing.clip_metrics import ClipMetricConformance
from otcache_core.testing.clip_writers import ClipWriterConformance
from otcache_core.testing.cost_models import CostModelConformance
from otcache_core.testing.evaluators import EvaluatorConformance
from otcache_core.testing.executors import ExecutorConformance
from otcache_core.testing.forecasters import ForecasterConformance
from otcache_core.testing.metrics import MetricConformance
from otcache_core.testing.pictures import KnownAnswer
from otcache_core.testing.probes import ProbeConformance
from otcache_core.testing.prompt_metrics import PromptMetricConformance
from otcache_core.testing.set_metrics import SetMetricConformance
from otcache_core.testing.solvers import SolverConformance
from otcache_core.testing.toy import ToyEvaluator, ToySampler
from otcache_core.testing.toy_loop import toy_loop

__all__ = [
    "BaselineConformance",
    "ClipMetricConformance",
    "ClipWriterConformance",
    "CostModelConformance",
    "EvaluatorConformance",
    "ExecutorConformance",
    "ForecasterConformance",
    "KnownAnswer",
    "MetricConformance",
    "ProbeConformance",
    "PromptMetricConformance",
    "SetMetricConformance",
    "SolverConformance",
    "ToyEvaluator",
    "ToySampler",
    "toy_loop",
]
