"""Conformance tests of a schedule solver; what it claims is compared with brute force."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.planning import ScheduleSolver
from otcache_core.errors import shown
from otcache_core.problem import Displacements, Need, Result, ScheduleProblem, Solution, all_spans
from otcache_core.schedule import Schedule
from otcache_core.solvers import BruteForce, Objective
from otcache_core.storage.recordings import inner_products
from otcache_core.testing.assertions import (
    seeds_of_generators,
    snapshot,
    unchanged,
    under_two_random_states,
)
from otcache_core.testing.kit import Conformance, NotApplicable, refused
from otcache_core.testing.toy import CountingEvaluator, ToySampler
from otcache_core.transport import uniform_steps

#: Random in the kit's problems: an objective of them differs from problem to problem.
MEASURED = frozenset({Need.COSTS, Need.DISPLACEMENTS, Need.EVALUATOR})
#: What a solver may use if it is given, without naming it among its needs.
OPTIONAL = frozenset({Need.GAINS, Need.ANCHOR, Need.REFERENCE})
#: A solver of these can be forced to one schedule: spans omitted from them cannot be used.
FORCING = frozenset({Need.COSTS, Need.DISPLACEMENTS})
#: What to do about solutions that differ.
STATE = "keep nothing from one call to the next"
FIELDS = "name in abilities.needs what is used"
READ_ONLY = "work on copies of the arrays"
SEEDS = "draw from numpy.random.default_rng(problem.seed)"
#: Of an exact solver whose kit is the plain one.
UNNAMED = (
    "the solver is exact in an objective of its own, which only a test of its package can name "
    "(exact_objective of the kit)"
)


class SolverConformance(Conformance, kit=True):
    """Conformance tests of :class:`~otcache_core.contracts.ScheduleSolver`.

    Override :meth:`make_solver`; an exact solver of span costs overrides :meth:`exact_objective`
    too. Problems carry whatever a solver may need: costs, the Gram matrix and grid of a recorded run,
    gains, displacements, endpoint policies and an evaluator.

    What a solver claims is compared with brute force: over :meth:`objective_at` if that is known, else
    over the solver's own objective, which each schedule gets by a problem whose other spans cost ``inf``
    (or, of displacements, are omitted).

    Attributes:
        num_steps: N of the problems.
        seeds: of the problems that are compared with brute force.
        rtol: relative difference of two objectives that is rounding.
    """

    num_steps: int = 9
    seeds: tuple[int, ...] = (0, 1)
    rtol: float = 1e-9

    @abstractmethod
    def make_solver(self) -> ScheduleSolver:
        """Return a fresh solver, with settings that make it quick."""

    def exact_objective(self) -> Objective | None:
        """Return what an exact solver minimises over the span costs; None if it is not exact in them."""
        return None

    def objective_at(self, problem: ScheduleProblem, schedule: Schedule) -> float | None:
        """Return the solver's objective at a schedule, derived without it; None if that is not known.

        That of :meth:`exact_objective` unless overridden.
        """
        objective = self.exact_objective()
        if objective is None or problem.costs is None:
            return None
        value = objective([float(problem.costs[i, j]) for i, j in _pairs(schedule)])
        return float(value[0] if isinstance(value, tuple) else value)

    def make_problem(self, budget: int, seed: int) -> ScheduleProblem:
        """Return a problem of ``num_steps`` steps with every measurement; override for a special one."""
        n = self.num_steps
        rng, sampler = np.random.default_rng(seed), ToySampler(num_steps=n, seed=seed)
        costs = np.triu(rng.random((n, n + 1)), k=2)
        vectors = rng.standard_normal((len(all_spans(n)), 4))
        displaced = Displacements(n, all_spans(n), (vectors @ vectors.T)[None])
        grams = [inner_products(run.outputs) for run in sampler.trajectories()]
        return ScheduleProblem(
            num_steps=n,
            budget=budget,
            costs=costs,
            anchor=Schedule(n, uniform_steps(n, 2)),
            reference=Schedule(n, uniform_steps(n, n // 2)),
            evaluator=sampler.evaluator(),
            seed=seed,
            gram=np.mean(grams, axis=0),
            grid=sampler.grid,
            gains=rng.uniform(0.5, 3.0, n + 1),
            displacements=lambda: displaced,
        )

    def _tried(self) -> Iterator[ScheduleProblem]:
        """Yield the problems all of whose schedules are compared with what the solver claims."""
        budgets = (3, min(5, self.num_steps - 1))
        yield from itertools.starmap(self.make_problem, itertools.product(budgets, self.seeds))

    def _solve(self, problem: ScheduleProblem) -> Solution:
        return _solved(self.make_solver(), problem)

    def _scheduled(self, problem: ScheduleProblem) -> tuple[Solution, Schedule]:
        """Solve a problem that has a schedule, and see that one was found."""
        solution = self._solve(problem)
        assert solution.schedule is not None, (
            f"the result is {solution.result.name} for a problem ({_given(problem)}) that has a schedule "
            "of finite cost: INFEASIBLE says that there is none, so find one before you say it"
        )
        return solution, solution.schedule

    def _forced(self, problem: ScheduleProblem, schedule: Schedule) -> float:
        """Return the solver's objective of a problem in which only this schedule may be used."""
        forced = self._solve(_only(problem, schedule))
        found = forced.schedule and forced.schedule.computed
        costly = Need.COSTS in self._needs()
        left = "(and of length one) have finite costs" if costly else "are among the displacements"
        spans = f"only the spans of steps {schedule.computed} {left}"
        assert found is not None, (
            f"{spans}, and the result is {forced.result.name}: find the one schedule that is possible, or "
            "derive the objective without the solver, in objective_at(problem, schedule) of your kit"
        )
        assert found == schedule.computed, f"{spans}, the solver takes {found}: use no other span"
        return forced.objective

    def _needs(self) -> frozenset[Need]:
        return self.make_solver().abilities.needs

    def _knows_costs(self) -> bool:
        return Need.COSTS in self._needs() or self.exact_objective() is not None

    def _values(self, problem: ScheduleProblem) -> Iterator[tuple[Schedule, float]]:
        """Yield every schedule of the budget with the solver's objective of it."""
        n = problem.num_steps
        for rest in itertools.combinations(range(1, n), problem.budget - 1):
            schedule = Schedule(n, (0, *rest))
            known = self.objective_at(problem, schedule)
            if known is None and not self._needs() & FORCING:
                raise NotApplicable("the solver's objective of other schedules cannot be known")
            yield schedule, self._forced(problem, schedule) if known is None else known

    # -- the schedule ---------------------------------------------------------------------------------

    def test_every_budget_gives_a_schedule_of_that_budget(self) -> None:
        """Of a problem that holds what ``abilities.needs`` names; an exact solver calls it optimal."""
        for budget in range(1, self.num_steps + 1):
            bare = _without(self.make_problem(budget, 0), set(Need) - self._needs())
            solution, _ = self._scheduled(bare)
            exact = self.make_solver().abilities.exact
            assert solution.result is Result.OPTIMAL or not exact, (
                f"abilities say exact=True, and the result at budget {budget} is {solution.result.name}: say "
                "OPTIMAL, or omit exact"
            )

    def test_what_is_not_in_needs_does_not_change_the_solution(self) -> None:
        """But for gains, anchor and reference, which a solver may use if they are given."""
        for problem in self._tried():
            bare = self._solve(_without(problem, set(Need) - self._needs() - OPTIONAL))
            full = self._solve(problem)
            _assert_same(bare, full, "without other measurements and with them", FIELDS)

    def test_a_problem_without_what_is_needed_is_refused_in_words(self) -> None:
        for need in self._needs():
            with refused(f"a problem without {need.value}", f"(?i){need.value}"):
                self._solve(_without(self.make_problem(3, 0), {need}))

    def test_a_span_marked_inf_is_not_used(self) -> None:
        if not self._knows_costs():
            raise NotApplicable("the solver does not need costs")
        for budget, seed in itertools.product((2, 4), self.seeds):
            problem = self.make_problem(budget, seed)
            _, tempting = self._scheduled(problem)
            costs = _costs(problem).copy()
            costs[max(_pairs(tempting), key=lambda span: span[1] - span[0])] = np.inf
            _, schedule = self._scheduled(replace(problem, costs=costs))
            used = [span for span in _pairs(schedule) if not np.isfinite(costs[span])]
            assert not used, (
                f"spans {used} are marked inf, and the schedule {schedule.computed} uses them: "
                "choose among the others"
            )

    def test_an_infeasible_problem_is_a_value(self) -> None:
        if not self._knows_costs():
            raise NotApplicable("the solver does not need costs")
        n = self.num_steps
        problem = self.make_problem(2, 0)
        start, stop = np.indices((n, n + 1))
        costs = np.where(stop - start > n // 2 - 1, np.inf, _costs(problem))
        solution = self._solve(replace(problem, costs=costs))
        assert solution.result is Result.INFEASIBLE, (
            f"every schedule uses a span marked inf, and the result is {solution.result.name}: "
            "return Solution(None, inf, Result.INFEASIBLE)"
        )

    # -- what is claimed ------------------------------------------------------------------------------

    def test_the_objective_is_that_of_the_schedule(self) -> None:
        """As derived without the solver, or as reported if only this schedule may be used."""
        for seed in self.seeds:
            problem = self.make_problem(4, seed)
            solution, schedule = self._scheduled(problem)
            wanted = self.objective_at(problem, schedule)
            if wanted is None:
                if not self._needs() & FORCING:
                    raise NotApplicable("the solver's objective of a schedule cannot be known")
                wanted = self._forced(problem, schedule)
            assert self._near(solution.objective, wanted), (
                f"the objective is reported as {solution.objective}, that of {schedule.computed} is "
                f"{wanted}: report the objective of the schedule that is returned"
            )

    def test_the_lower_bound_is_a_bound(self) -> None:
        for seed in self.seeds:
            solution, _ = self._scheduled(self.make_problem(4, seed))
            value, bound = solution.objective, solution.lower_bound
            assert np.isfinite(value), f"a schedule has the objective {value}: give a finite number"
            if bound is not None:
                assert bound <= value * (1 + 1e-9) + 1e-12, (
                    f"the lower bound {bound} is above the objective {value}: give None if none is known"
                )
                assert solution.certificate, "say what is bounded: give Solution.certificate"

    def test_no_schedule_is_better_than_what_is_claimed(self) -> None:
        """None is below the lower bound, nor below what is called optimal."""
        claimed = []
        for problem in self._tried():
            solution = self._solve(problem)
            optimal = solution.objective if solution.result is Result.OPTIMAL else None
            claims = [c for c in (solution.lower_bound, optimal) if c is not None]
            claimed += [(problem, max(claims))] if claims else []
        if not claimed:
            raise NotApplicable("the solver offers no bound, and calls no schedule optimal")
        for problem, least in claimed:
            for schedule, value in self._values(problem):
                assert least <= value * (1 + self.rtol) + 1e-12, (
                    f"{least} is called optimal or the lower bound, and {schedule.computed} has {value}: say "
                    "Result.FOUND, and give a bound of all schedules, or None"
                )

    def test_an_exact_solver_equals_brute_force(self) -> None:
        objective = self.exact_objective()
        if objective is None:
            exact = self.make_solver().abilities.exact
            raise NotApplicable(UNNAMED if exact else "the solver does not claim to be exact")
        for seed in self.seeds:
            for budget in range(1, self.num_steps + 1):
                problem = self.make_problem(budget, seed)
                got, best = self._solve(problem), BruteForce(objective).solve(problem)
                assert got.result is Result.OPTIMAL, (
                    f"exact_objective is given, and the result at budget {budget} is {got.result.name}: say "
                    "OPTIMAL, or give no exact_objective"
                )
                assert self._near(got.objective, best.objective), (
                    f"brute force over exact_objective has {best.objective} at budget {budget}, the solver "
                    f"{got.objective}: one of the two is wrong"
                )

    def test_other_measurements_give_another_objective(self) -> None:
        if not self._needs() & MEASURED:
            raise NotApplicable("the solver needs neither costs nor displacements nor an evaluator")
        first, second = (self._solve(self.make_problem(4, seed)) for seed in (0, 1))
        assert first.objective != second.objective, (
            f"the objective is {first.objective} whatever was measured: compute it from the problem"
        )

    def test_the_nfe_is_what_was_spent_and_nothing_without_an_evaluator(self) -> None:
        problem = self.make_problem(4, 0)
        if problem.evaluator is None:
            raise NotApplicable("the problem has no evaluator")
        counting = CountingEvaluator(problem.evaluator)
        solution = self._solve(replace(problem, evaluator=counting))
        assert solution.nfe == counting.nfe, (
            f"{counting.nfe} evaluations were spent, and Solution.nfe is {solution.nfe}: add up the nfe of "
            "each Evaluation"
        )
        assert solution.nfe == 0 or Need.EVALUATOR in self._needs(), (
            "the evaluator was used, and abilities.needs do not name it: add Need.EVALUATOR"
        )

    def test_the_frontier_is_what_each_budget_gives_alone(self) -> None:
        solver, problem = self.make_solver(), self.make_problem(4, 0)
        if type(solver).frontier is ScheduleSolver.frontier:
            assert not solver.abilities.all_budgets, (
                "abilities say all_budgets=True, and frontier solves one budget after the other: override "
                "frontier, or omit all_budgets"
            )
            raise NotApplicable("the solver has no frontier of its own")
        with unchanged(problem=problem):
            frontier = solver.frontier(problem)
        assert len(frontier) == problem.budget, (
            f"frontier has {len(frontier)} solutions: return one for each budget from 1 to {problem.budget}"
        )
        for budget, found in enumerate(frontier, 1):
            alone = self._solve(replace(problem, budget=budget))
            one, other = (replace(s, stats={}, certificate="") for s in (found, alone))
            assert snapshot(one) == snapshot(other), (
                f"budget {budget}: {_described(found)} of the frontier, {_described(alone)} alone"
            )

    def test_all_budgets_at_once_are_not_one_after_the_other(self) -> None:
        solver, problem = self.make_solver(), self.make_problem(4, 0)
        if not solver.abilities.all_budgets:
            raise NotApplicable("the solver does not claim to answer all budgets at once")
        kind = type(solver)
        with mock.patch.object(kind, "solve", autospec=True, side_effect=kind.solve) as solve:
            solver.frontier(problem)
        assert solve.call_count < problem.budget, (
            "frontier calls solve for each budget: answer all of them in one pass, or omit all_budgets"
        )

    # -- nothing beside the problem -------------------------------------------------------------------

    def test_a_solver_can_be_used_again(self) -> None:
        solver = self.make_solver()
        first = _solved(solver, self.make_problem(3, 0))
        _solved(solver, self.make_problem(5, 1))
        again = _solved(solver, self.make_problem(3, 0))
        _assert_same(first, again, "before and after another problem", STATE)

    def test_the_same_problem_gives_the_same_solution(self) -> None:
        """To each new solver, whatever others solved before."""
        given = [(3, 0), (4, 1)]
        forwards = [self._solve(self.make_problem(*g)) for g in given]
        backwards = [self._solve(self.make_problem(*g)) for g in reversed(given)]
        for once, again in zip(forwards, reversed(backwards), strict=True):
            _assert_same(once, again, "in one order and in another", STATE)

    def test_the_problem_is_not_changed(self) -> None:
        problem = self.make_problem(4, 0)
        displaced = problem.displacements and problem.displacements()
        grid = problem.evaluator and problem.evaluator.grid
        with unchanged(problem=problem, displacements=displaced, grid_of_the_evaluator=grid):
            self._solve(problem)

    def test_measurements_may_be_read_only(self) -> None:
        """As they are if files hold them."""
        problem = self.make_problem(3, 0)
        for need in (Need.COSTS, Need.GRAM, Need.GRID, Need.GAINS):
            array = getattr(problem, need.value)
            if array is not None:
                array.setflags(write=False)
        found, writable = self._solve(problem), self._solve(self.make_problem(3, 0))
        _assert_same(found, writable, "of read-only and of writable arrays", READ_ONLY)

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        first, second = under_two_random_states(lambda: self._solve(self.make_problem(3, 0)))
        _assert_same(
            first,
            second,
            "in two random states of the process",
            SEEDS,
        )

    def test_random_choices_follow_the_seed_of_the_problem(self) -> None:
        """As far as :func:`~otcache_core.testing.assertions.seeds_of_generators` sees them."""
        problem, seeds = self.make_problem(4, 0), []
        self._solve(problem)  # what a solver imports at its first use makes generators of its own
        for seed in (3, 4):
            with seeds_of_generators(type(self.make_solver()).__module__) as made:
                self._solve(replace(problem, seed=seed))
            seeds.append([snapshot(each) for each in made])
            unseeded = any(each is None for each in made)
            assert not unseeded, "a random generator is not seeded: seed it with problem.seed"
        if not any(seeds):
            raise NotApplicable("the solver makes no random generator")
        assert seeds[0] != seeds[1], "generators ignore problem.seed: seed them with it"

    def _near(self, value: float, wanted: float) -> bool:
        return math.isclose(value, wanted, rel_tol=self.rtol, abs_tol=1e-12)


def _assert_same(first: Solution, second: Solution, when: str, advice: str) -> None:
    """Assert that two solutions are equal but for their counters, which may hold times."""
    one, other = (snapshot(replace(solution, stats={})) for solution in (first, second))
    assert one == other, (
        f"solutions differ {when}: {_described(first)} and {_described(second)}; {advice}"
    )


def _solved(solver: ScheduleSolver, problem: ScheduleProblem) -> Solution:
    """Solve, and see that the schedule has the given size before a check looks at it."""
    try:
        found: object = solver.solve(problem)
    except Exception as error:
        error.add_note(f"given {_given(problem)}")
        raise
    assert isinstance(found, Solution), f"solve gives {shown(found)}: return a Solution"
    schedule = found.schedule
    size = None if schedule is None else (schedule.num_steps, schedule.budget)
    assert size is None or size == (problem.num_steps, problem.budget), (
        f"given {_given(problem)}, the schedule is {schedule and schedule.computed} of N = {size[0]}: return "
        "one with exactly B computed steps of N, step 0 among them"
    )
    return found


def _given(problem: ScheduleProblem) -> str:
    """Return N and B of a problem, and whether spans are omitted, in words."""
    given = f"N = {problem.num_steps}, B = {problem.budget}"
    upper = np.triu_indices(problem.num_steps, k=1, m=problem.num_steps + 1)
    capped = problem.costs is not None and not np.isfinite(problem.costs[upper]).all()
    return f"{given}, some spans marked inf" if capped else given


def _costs(problem: ScheduleProblem) -> NDArray[np.float64]:
    assert problem.costs is not None, "make_problem of your kit gives no costs: they are needed"
    return problem.costs


def _described(solution: Solution) -> str:
    steps = solution.schedule and solution.schedule.computed
    bound = f", at least {solution.lower_bound}" if solution.lower_bound is not None else ""
    return f"{steps} with {solution.objective}{bound} ({solution.result.name}, {solution.nfe} NFE)"


def _pairs(schedule: Schedule) -> list[tuple[int, int]]:
    return [(span.start, span.stop) for span in schedule.spans()]


def _only(problem: ScheduleProblem, schedule: Schedule) -> ScheduleProblem:
    """Return the problem with no other spans than this schedule's."""
    used = _pairs(schedule)
    costs, displacements = problem.costs, problem.displacements
    if costs is not None:
        allowed = np.zeros(costs.shape, dtype=bool)
        allowed[tuple(np.transpose(used))] = True
        costs = np.where(allowed, costs, np.inf)
        costs[np.arange(len(costs)), np.arange(len(costs)) + 1] = 0.0
    if displacements is not None:
        kept = _kept(displacements(), set(used))
        displacements = lambda: kept  # noqa: E731
    return replace(problem, costs=costs, displacements=displacements)


def _kept(displaced: Displacements, used: set[tuple[int, int]]) -> Displacements:
    rows = [row for row, span in enumerate(displaced.spans) if span in used]
    spans = tuple(displaced.spans[row] for row in rows)
    return Displacements(displaced.num_steps, spans, displaced.per_sample[:, rows][:, :, rows])


def _without(problem: ScheduleProblem, needs: set[Need]) -> ScheduleProblem:
    missing: dict[str, Any] = {need.value: None for need in needs}
    return replace(problem, **missing)
