"""Conformance tests of the arithmetic by which an engine follows a playback table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import ExecutionError
from otcache_core.forecasters import Fitted
from otcache_core.playback.branch_plan import BranchPlan
from otcache_core.playback.player import Arithmetic, Playback
from otcache_core.playback.table import PREDICTIONS, PlaybackTable, playback_table
from otcache_core.schedule import Schedule
from otcache_core.testing.assertions import assert_equal, assert_near
from otcache_core.testing.kit import Conformance, NotApplicable, refused

Floats = NDArray[np.float64]
#: A forecast is not the weighted sum of the outputs that the table names.
SUM = (
    "a forecast is not the sum of coefficient times output: combine() adds them in float32 at least"
)
#: A kept output changed.
COPY = (
    "what was kept changed with memory of the engine or the sampler: copy() gives memory of its own"
)


class PlaybackConformance(Conformance, kit=True):
    """Conformance tests of a :class:`~otcache_core.playback.Playback` on the arrays of one engine.

    Attributes:
        rtol: relative error of float32 arithmetic that is allowed.
        seeds: of the plans, which are drawn at random.
    """

    rtol: float = 1e-5
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    num_steps: int = 9

    @abstractmethod
    def to_engine(self, array: Floats) -> Any:
        """Return a new array of the engine in float32 with these values."""

    @abstractmethod
    def to_numpy(self, output: Any) -> NDArray[Any]:
        """Return the values of an array of the engine."""

    def make_playback(self, table: PlaybackTable) -> Playback:
        """Return a playback for the engine's arrays."""
        return Playback(table, Arithmetic())

    def to_half(self, array: Floats) -> Any:
        """Return an array in the engine's half precision (float16 or bfloat16)."""
        raise NotApplicable("the engine has no half precision")

    def overwrite(self, output: Any) -> None:
        """Write other values into an array, as an engine does that uses its memory again."""
        raise NotApplicable("arrays of the engine cannot be written into")

    def test_forecasts_are_weighted_sums(self) -> None:
        for rng, table in self._plans():
            outputs = self._draw(rng)
            for step, got in self._follow(table, outputs):
                terms = table.branches[""].forecasts[step] or ()
                wanted = sum((a * outputs[k] for k, a in terms), np.zeros_like(outputs[0]))
                assert_near(got, wanted, SUM, rtol=self.rtol, atol=1e-5)

    def test_computes_is_false_where_a_forecast_is_given(self) -> None:
        for rng, table in self._plans():
            playback, outputs = self._begun(table), self._draw(rng)
            for step, output in enumerate(outputs):
                computes = playback.computes("", step)
                forecast = playback.forecast("", step)
                assert computes is (forecast is None), f"step {step}: computes() is {computes}"
                if computes:
                    playback.keep("", step, self.to_engine(output))

    def test_branches_follow_plans_of_their_own(self) -> None:
        rng = np.random.default_rng(0)
        some, other = (self._plan(rng).branches[""] for _ in range(2))
        table = PlaybackTable(self.num_steps, {"": some, "uncond": other})
        playback, outputs = self._begun(table), self._draw(rng)
        for step, output in enumerate(outputs):
            for branch, plan, sign in (("cond", some, 1.0), ("uncond", other, -1.0)):
                got = playback.forecast(branch, step)
                assert (got is None) is (plan.forecasts[step] is None), f"step {step} of {branch}"
                if got is None:
                    playback.keep(branch, step, self.to_engine(sign * output))
                    continue
                terms = plan.forecasts[step] or ()
                wanted = sum((sign * a * outputs[k] for k, a in terms), np.zeros_like(output))
                assert_near(self.to_numpy(got), wanted, SUM, rtol=self.rtol, atol=1e-5)

    def test_predictions_are_converted_at_the_state(self) -> None:
        """A forecast of noise (or data) that does not change is exact, whatever the denoiser predicts."""
        rng = np.random.default_rng(1)
        noise, data = self._draw(rng, 2)
        angles = np.linspace(1.4, 0.2, self.num_steps)
        plan = self._plan(rng, reuse=True).branches[""]
        for prediction, wanted in ((p, q) for p in PREDICTIONS for q in ("epsilon", "sample")):
            alphas, sigmas = tuple(np.cos(angles).tolist()), tuple(np.sin(angles).tolist())
            table = PlaybackTable(self.num_steps, {"": plan}, prediction, wanted, alphas, sigmas)
            states = [a * data + s * noise for a, s in zip(alphas, sigmas, strict=True)]
            outputs = [
                _predicted(prediction, a, s, noise, data)
                for a, s in zip(alphas, sigmas, strict=True)
            ]
            for step, got in self._follow(table, outputs, states):
                what = f"{prediction} forecast as {wanted} is wrong at step {step}"
                assert_near(got, outputs[step], what, rtol=1e-3, atol=1e-3)

    def test_half_precision_is_combined_in_float32_and_rounded_once(self) -> None:
        """Terms that cancel show sums in half precision, and the type comes back."""
        plan = BranchPlan.of([None, None, ((1, 128.0), (0, -127.0))])
        playback = self._begun(PlaybackTable(3, {"": plan}))
        first, second = np.full(4, 1.0), np.full(4, 1.0 + 2**-6)
        for step, value in enumerate((first, second)):
            playback.keep("", step, self.to_half(value))
        got = playback.forecast("", 2)
        assert _dtype(got) == _dtype(self.to_half(first)), f"a forecast is of type {_dtype(got)}"
        wanted = self.to_numpy(self.to_half(128 * second - 127 * first))
        assert_equal(self.to_numpy(got).astype(np.float64), wanted.astype(np.float64), SUM)

    def test_buffers_that_are_used_again_change_nothing(self) -> None:
        """Neither the denoiser's output nor a forecast that was given: at worst the step is computed."""
        for rng, table in self._plans():
            outputs = self._draw(rng)
            plain = dict(self._follow(table, outputs))
            playback, reused = self._begun(table), dict[int, Any]()
            for step, output in enumerate(outputs):
                given = playback.forecast("", step)
                if given is None:
                    given = self.to_engine(output)
                    playback.keep("", step, given)
                else:
                    reused[step] = self.to_numpy(given).copy()
                self.overwrite(given)
            for step, got in reused.items():
                assert_equal(got, plain[step], COPY)

    def test_a_branch_that_appears_is_computed_until_its_own_outputs_suffice(self) -> None:
        plan = BranchPlan.of([None, ((0, 1.0),), None, ((2, 2.0), (0, -1.0)), None, ((4, 1.0),)])
        playback = self._begun(PlaybackTable(6, {"": plan}))
        late = [self._step(playback, "late", step) for step in (2, 3, 4, 5)]
        assert late == [True, True, True, False], f"computed: {late}"

    def test_a_branch_that_vanishes_leaves_the_others_alone(self) -> None:
        for _, table in self._plans():
            playback, plan = self._begun(table), table.branches[""]
            for step in range(self.num_steps):
                self._step(playback, "cond", step)
                if step < self.num_steps // 2:
                    self._step(playback, "uncond", step)
                kept, wanted = playback.kept("cond"), _needed(plan, step)
                assert kept == wanted, f"after step {step} outputs of {kept} are kept, not {wanted}"

    def test_another_shape_is_computed(self) -> None:
        """A batch that shrinks, as guidance that ends leaves it, is not given the larger one's forecast."""
        plan = BranchPlan.of([None, None, ((1, 2.0), (0, -1.0))])
        table = PlaybackTable(3, {"": plan})
        large, small = np.ones((2, 3)), np.ones((1, 3))
        playback = self._begun(table)
        for step, shape in enumerate((large, small)):
            playback.keep("", step, self.to_engine(shape), self.to_engine(shape))
        assert playback.computes("", 2), "outputs of two shapes are combined"
        playback = self._begun(table)
        for step in range(2):
            playback.keep("", step, self.to_engine(large), self.to_engine(large))
        computes = playback.computes("", 2, self.to_engine(small))
        assert computes, "a smaller batch is given the larger one's forecast"

    def test_a_run_that_breaks_off_does_not_reach_the_next(self) -> None:
        for rng, table in self._plans():
            outputs = self._draw(rng)
            plain = dict(self._follow(table, outputs))
            playback = self._begun(table)
            for step in range(self.num_steps // 2):
                self._step(playback, "", step)
            playback.begin()
            assert playback.kept("") == [], "begin() keeps outputs of the run before"
            again = dict(self._follow(table, outputs, playback=playback))
            for step, got in plain.items():
                assert_equal(again[step], got, "a run that broke off changes the next")

    def test_two_runs_at_once_do_not_mix(self) -> None:
        for rng, table in self._plans():
            outputs = self._draw(rng), self._draw(rng)
            alone = [list(self._follow(table, row)) for row in outputs]
            together = zip(*(self._follow(table, row) for row in outputs), strict=True)
            for run, mixed in zip(alone, zip(*together, strict=True), strict=True):
                for (_, wanted), (step, got) in zip(run, mixed, strict=True):
                    assert_equal(got, wanted, f"step {step}: two playbacks of one table mix")

    def test_outputs_are_released_at_their_last_use(self) -> None:
        for _, table in self._plans():
            playback, plan = self._begun(table), table.branches[""]
            for step in range(self.num_steps):
                self._step(playback, "", step)
                kept, wanted = playback.kept(""), _needed(plan, step)
                assert kept == wanted, f"after step {step} outputs of {kept} are kept, not {wanted}"
            playback.end()
            assert playback.kept("") == [], "outputs are kept after end()"

    def test_steps_go_forwards_within_a_run(self) -> None:
        table = PlaybackTable(3, {"": BranchPlan.of([None, None, ((1, 1.0),)])})
        playback = self.make_playback(table)
        output = self.to_engine(np.ones(3))
        with refused("keep() before begin()", error=ExecutionError):
            playback.keep("", 0, output)
        playback.begin()
        playback.keep("", 1, output)
        for step in (0, -1, 3):
            with refused(f"step {step} after step 1 of 3", error=ExecutionError):
                playback.forecast("", step)

    def _plans(self) -> Iterator[tuple[np.random.Generator, PlaybackTable]]:
        for seed in self.seeds:
            rng = np.random.default_rng(seed)
            yield rng, self._plan(rng)

    def _plan(self, rng: np.random.Generator, reuse: bool = False) -> PlaybackTable:
        n = self.num_steps
        count = int(rng.integers(2, n))
        others = rng.choice(np.arange(1, n), count - 1, replace=False)
        steps = (0, *sorted(map(int, others)))
        rows = [() if reuse else tuple(rng.normal(size=min(m + 1, 3))) for m in range(len(steps))]
        return playback_table(Schedule(n, steps, "fitted", tuple(rows)), Fitted())

    def _draw(self, rng: np.random.Generator, count: int = 0) -> list[Floats]:
        return list(rng.normal(size=(count or self.num_steps, 2, 3)).astype(np.float32) * 1.0)

    def _begun(self, table: PlaybackTable) -> Playback:
        playback = self.make_playback(table)
        playback.begin()
        return playback

    def _step(self, playback: Playback, branch: str, step: int) -> bool:
        """Make one step; return whether it was computed."""
        computes = playback.forecast(branch, step) is None
        if computes:
            playback.keep(branch, step, self.to_engine(np.full((2, 3), float(step))))
        return computes

    def _follow(
        self,
        table: PlaybackTable,
        outputs: Sequence[Floats],
        states: Sequence[Floats] = (),
        playback: Playback | None = None,
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield each skipped step and its forecast, one step of the sampler at a time."""
        playback = playback or self._begun(table)
        for step, output in enumerate(outputs):
            state = self.to_engine(states[step]) if states else None
            forecast = playback.forecast("", step, state)
            planned = table.branches[""].forecasts[step] is not None
            assert (forecast is not None) is planned, f"step {step}: forecast() is {forecast}"
            if forecast is None:
                playback.keep("", step, self.to_engine(output), state)
            else:
                yield step, self.to_numpy(forecast)


def _needed(plan: BranchPlan, step: int) -> list[int]:
    """Return the computed steps up to this one whose outputs a later step reads."""
    later = plan.forecasts[step + 1 :]
    read = {k for terms in later for k, _ in terms or ()}
    return sorted(k for k in read if k <= step)


def _predicted(prediction: str, alpha: float, sigma: float, noise: Floats, data: Floats) -> Floats:
    return {
        "epsilon": noise,
        "sample": data,
        "v_prediction": alpha * noise - sigma * data,
        "flow": noise - data,
    }[prediction]


def _dtype(output: Any) -> str:
    return str(getattr(output, "dtype", None))
