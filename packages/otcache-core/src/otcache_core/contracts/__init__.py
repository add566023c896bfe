"""The contracts between the parts of otcache: four kinds, the small ones, the Evaluator."""

from otcache_core.contracts.baseline import Baseline, BaselineSetting
from otcache_core.contracts.clip_writer import ClipWriter, check_clip
from otcache_core.contracts.comparing import compare, per_frame
from otcache_core.contracts.cost_model import CostModel, SpanCosts
from otcache_core.contracts.evaluator import Drift, Evaluation, Evaluator
from otcache_core.contracts.executor import CacheExecutor, RunHandle, RunReport, SchedulePlan
from otcache_core.contracts.forecaster import Forecaster
from otcache_core.contracts.from_registry import FromRegistry
from otcache_core.contracts.metric import (
    ClipMetric,
    Metric,
    PromptMetric,
    QualityMetric,
    SetMetric,
)
from otcache_core.contracts.probe import FeatureProbe, Measured, SampleRequest
from otcache_core.contracts.solver import Abilities, ScheduleSolver
from otcache_core.contracts.storage import Storage

__all__ = [
    "Abilities",
    "Baseline",
    "BaselineSetting",
    "CacheExecutor",
    "ClipMetric",
    "ClipWriter",
    "CostModel",
    "Drift",
    "Evaluation",
    "Evaluator",
    "FeatureProbe",
    "Forecaster",
    "FromRegistry",
    "Measured",
    "Metric",
    "PromptMetric",
    "QualityMetric",
    "RunHandle",
    "RunReport",
    "SampleRequest",
    "SchedulePlan",
    "ScheduleSolver",
    "SetMetric",
    "SpanCosts",
    "Storage",
    "check_clip",
    "compare",
    "per_frame",
]
