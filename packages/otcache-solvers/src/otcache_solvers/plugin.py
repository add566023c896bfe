"""The plugins of otcache-solvers."""

from __future__ import annotations

from otcache_core.plugins import Info, hookimpl


@hookimpl
def otcache_provide_cost_models() -> list[Info]:
    """List the cost models, which need no tensors."""
    return [
        Info(
            "displacement",
            "otcache_solvers.costs.displacement:Displacement",
            "root mean square of what skipping a span does to the result, by a gain per step",
        ),
        Info(
            "gram",
            "otcache_solvers.costs.gram:GramCosts",
            "what the best multiple of the last output leaves of a span; costs nothing",
        ),
        Info(
            "local",
            "otcache_solvers.costs.displacement:Local",
            "how far one step over a span lands from the recorded state; costs nothing",
        ),
        Info(
            "mean-velocity",
            "otcache_solvers.costs.mean_velocity:MeanVelocity",
            "how far the mean velocity of a span is from its forecast; costs nothing (MeanCache)",
        ),
        Info(
            "outcome",
            "otcache_solvers.costs.outcome:Outcome",
            "true error at the end of the run of each span skipped alone (LeMiCa)",
        ),
    ]


@hookimpl
def otcache_provide_solvers() -> list[Info]:
    """List the schedule solvers."""
    return [
        Info(
            "anchor-search",
            "otcache_solvers.search.anchor:AnchorSearch",
            "end-to-end search at an extreme budget: Optuna over a warp, then a climb",
        ),
        Info(
            "annealing",
            "otcache_solvers.search.simulated_annealing:SimulatedAnnealing",
            "simulated annealing on the end-to-end error, then a climb (BudCache)",
        ),
        Info(
            "exact-lp",
            "otcache_solvers.transport.exact_lp:ExactLP",
            "optimal transport between anchor and reference on any ground cost (POT, HiGHS)",
        ),
        Info(
            "gauss-newton",
            "otcache_solvers.search.gauss_newton:GaussNewton",
            "refine a schedule's forecast weights on the error at the end of the run",
        ),
        Info(
            "lexicographic",
            "otcache_solvers.additive.shortest_path:Lexicographic",
            "lexicographic minimax path, exact (LeMiCa)",
        ),
        Info(
            "peak-suppressed",
            "otcache_solvers.additive.shortest_path:PeakSuppressed",
            "least sum of powers of span costs, exact (MeanCache)",
        ),
        Info(
            "quantile",
            "otcache_solvers.transport.quantile:Quantile",
            "displacement interpolation between anchor and reference (OTCache)",
        ),
        Info(
            "refine",
            "otcache_solvers.search.refine:Refine",
            "move single steps of a schedule as long as the end-to-end error falls",
        ),
        Info(
            "second-order",
            "otcache_solvers.additive.second_order:SecondOrder",
            "exact plan for a two-term forecast, from the Gram of one recorded run",
        ),
        Info(
            "shortest-path",
            "otcache_solvers.additive.shortest_path:ShortestPath",
            "least sum of span costs, the additive baseline (networkx)",
        ),
        Info(
            "sinkhorn",
            "otcache_solvers.transport.sinkhorn:Sinkhorn",
            "entropic optimal transport between anchor and reference, by a schedule of epsilons",
        ),
        Info(
            "state-dp",
            "otcache_solvers.search.state_dp:StateDP",
            "dynamic program whose labels carry the state really reached (OSS)",
        ),
        Info(
            "unbalanced",
            "otcache_solvers.transport.unbalanced:Unbalanced",
            "transport between anchor and reference that may create and destroy steps",
        ),
        Info(
            "vector-sum",
            "otcache_solvers.vector_sum.solver:VectorSum",
            "least norm of the summed displacement vectors, with a certificate",
        ),
    ]
