"""Follow a playback table: keep computed outputs while they are needed, and forecast the others from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from otcache_core.errors import ExecutionError, expected
from otcache_core.playback.branch_plan import BranchPlan, OrderChoice
from otcache_core.playback.table import PlaybackTable


class Arithmetic:
    """What a playback does with outputs; here for any arrays that can be multiplied and added.

    Arrays of numpy, jax and others that follow the Python array API standard are combined in float32 if
    their own type is narrower, and cast once; so are those with torch's methods ``float`` and ``to``. Other
    arrays are combined in their own type. A subclass does the same for an engine of its own.

    References:
        Python array API standard, https://data-apis.org/array-api/.
    """

    def copy(self, output: Any) -> Any:
        """Return an output in memory of its own, since engines and samplers may write into theirs."""
        namespace = _namespace(output)
        return output * 1 if namespace is None else namespace.asarray(output, copy=True)

    def widen(self, output: Any) -> Any:
        """Return an output in the type in which it is combined: float32 at least."""
        namespace = _namespace(output)
        if not hasattr(output, "dtype") or not _is_narrow(output.dtype):
            return output
        if namespace is None:
            return output.float() if hasattr(output, "float") else output
        return namespace.astype(output, namespace.float32)

    def combine(self, outputs: Sequence[Any], coefficients: Sequence[Any]) -> Any:
        """Return the sum of coefficient times output, in the type of the widest of them.

        A coefficient is a number, or one of each sample as :meth:`order_weights` returns it.
        """
        total = self.widen(outputs[0]) * coefficients[0]
        for output, coefficient in zip(outputs[1:], coefficients[1:], strict=True):
            total = total + self.widen(output) * coefficient
        return total

    def order_weights(
        self, outputs: Sequence[Any], ramps: Sequence[tuple[float, float, float]]
    ) -> list[Any]:
        r"""Return clamp(o_i + l_i c + m_i q, 0, 1) of each sample, as an array that multiplies outputs.

        c is the cosine of the last two changes of three outputs, q the relative size of the last one
        (:class:`~otcache_core.playback.OrderChoice`); where nothing changed they are 0. Everything stays
        where the outputs are.

        Args:
            outputs: latest first; arrays of the Python array API standard, or with torch's methods; a
                sample an entry of the first dimension if they have more than one.
            ramps: (o_i, l_i, m_i).
        """
        wide = [self.widen(output) for output in outputs]
        changes = [one - other for one, other in pairwise(wide)]
        output, change, *before = (self.inner(one, one) ** 0.5 for one in (wide[0], *changes))
        q, c = change / (output + TINY), 0.0
        if before:
            c = self.inner(*changes) / (change * before[0] + TINY)
        return [self.clamp(at + by_c * c + by_q * q) for at, by_c, by_q in ramps]

    def inner(self, one: Any, other: Any) -> Any:
        """Return the inner product of each sample, in as many dimensions as they have."""
        product, namespace = one * other, _namespace(one)
        samples = one.shape[0] if one.ndim > 1 else 1
        if namespace is None:
            sums = product.reshape(samples, -1).sum(-1)
            return sums.reshape(samples, *[1] * (one.ndim - 1))
        axes = tuple(range(1 if one.ndim > 1 else 0, one.ndim))
        return namespace.sum(product, axis=axes, keepdims=True)

    def clamp(self, values: Any) -> Any:
        """Return values, none of them below 0 or above 1."""
        namespace = _namespace(values)
        return values.clip(0.0, 1.0) if namespace is None else namespace.clip(values, 0.0, 1.0)

    def narrow(self, wide: Any, dtype: Any) -> Any:
        """Return a combination in the type of the denoiser's own outputs.

        Args:
            wide: what :meth:`combine` gave.
            dtype: of the denoiser's outputs; None if they have none.
        """
        namespace = _namespace(wide)
        if dtype is None or wide.dtype == dtype:
            return wide
        if namespace is None:
            return wide.to(dtype) if hasattr(wide, "to") else wide
        return namespace.astype(wide, dtype)


#: Added to norms by which is divided.
TINY = 1e-30


def _namespace(output: Any) -> Any:
    """Return the array API of an array; None if it has none."""
    get = getattr(output, "__array_namespace__", None)
    return None if get is None else get()


def _is_narrow(dtype: Any) -> bool:
    return "float" in str(dtype) and dtype.itemsize < 4


class Kept(NamedTuple):
    """One output that is kept.

    Attributes:
        value: in the quantity in which the table forecasts.
        dtype: of the denoiser's output; None if it has none.
        shapes: of the output and of the state it was computed from, as far as they have one.
    """

    value: Any
    dtype: Any
    shapes: tuple[Any, Any]


class KeptOutputs:
    """Where a playback keeps outputs: by branch and step, as copies.

    Args:
        arithmetic: copies them.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        self._arithmetic = arithmetic
        self._kept: dict[tuple[str, int], Kept] = {}

    def steps(self, branch: str) -> list[int]:
        """Return the steps whose outputs are kept."""
        return [step for name, step in self._kept if name == branch]

    def put(self, branch: str, step: int, kept: Kept, owned: bool = False) -> None:
        """Keep an output; those of the branch with other shapes cannot be combined with it, and go.

        Args:
            branch: name of the guidance branch.
            step: t.
            kept: the output.
            owned: whether it has no other owner, so that no copy is needed.
        """
        others = [k for k in self.steps(branch) if self._kept[branch, k].shapes != kept.shapes]
        self.drop(branch, others)
        value = kept.value if owned else self._arithmetic.copy(kept.value)
        self._kept[branch, step] = kept._replace(value=value)

    def get(self, branch: str, steps: Sequence[int]) -> list[Kept] | None:
        """Return the outputs of these steps, only to be read; None unless all are kept."""
        found = [self._kept.get((branch, step)) for step in steps]
        whole = [one for one in found if one is not None]
        return whole if len(whole) == len(steps) else None

    def drop(self, branch: str, steps: Sequence[int]) -> None:
        """Release outputs."""
        for step in steps:
            self._kept.pop((branch, step), None)

    def release(self, branch: str, needed_until: Sequence[int], step: int) -> None:
        """Release the outputs that no step after this one reads."""
        over = [k for name, k in self._kept if name == branch and needed_until[k] <= step]
        if over:
            self.drop(branch, over)

    def notice(self, output: Any) -> None:
        """Take note of a computed output before it is kept or not; copies need none."""

    def clear(self) -> None:
        """Release all outputs."""
        self._kept.clear()


class Playback:
    """Follow a table through runs, one after the other, on arrays of any engine.

    At each denoiser call of step t, with the state x_t::

        output = playback.forecast(branch, t, x)
        if output is None:
            output = denoiser(x, ...)
            playback.keep(branch, t, output, x)

    A branch that appears within a run, changes its shape, or was not kept at some step is computed
    until its own outputs suffice; one that vanishes keeps nothing after its last use. Two runs at once take
    two objects, which may share the table.

    Args:
        table: what to follow; ``begin`` may give it, or another.
        arithmetic: how outputs are combined.
        outputs: where they are kept; as copies by default.

    Attributes:
        table: what is followed.

    Examples:
        >>> import numpy as np
        >>> from otcache_core.forecasters import Linear
        >>> from otcache_core.playback import playback_table
        >>> from otcache_core.schedule import Schedule
        >>> playback = Playback(playback_table(Schedule(4, (0, 1)), Linear()))
        >>> playback.begin()
        >>> for step in range(2):
        ...     playback.keep("", step, np.array([float(step)]))
        >>> [playback.forecast("", step) for step in (2, 3)]
        [array([2.]), array([3.])]
    """

    def __init__(
        self,
        table: PlaybackTable | None = None,
        arithmetic: Arithmetic | None = None,
        outputs: KeptOutputs | None = None,
    ) -> None:
        self.table = table or NOTHING
        self._converts = self.table.converts
        self._arithmetic = arithmetic or Arithmetic()
        self._outputs = outputs or KeptOutputs(self._arithmetic)
        self._plans: dict[str, BranchPlan] = {}
        self._latest: dict[str, int] = {}
        self._order_weights: dict[str, list[Any]] = {}
        self._begun = False

    @property
    def branches(self) -> Mapping[str, int]:
        """The branches of the run, in the order in which they came, with the step of their last call."""
        return self._latest

    def begin(self, table: PlaybackTable | None = None) -> None:
        """Start a run; what was kept of one that broke off is released.

        Args:
            table: what to follow from here on; the one before by default.
        """
        self.table = table or self.table
        self._converts = self.table.converts
        self._outputs.clear()
        self._plans, self._latest, self._begun = {}, {}, True
        self._order_weights = {}

    def end(self) -> None:
        """End the run and release what is kept."""
        self._outputs.clear()
        self._order_weights = {}
        self._begun = False

    def kept(self, branch: str) -> list[int]:
        """Return the steps of a branch whose outputs are kept now."""
        return sorted(self._outputs.steps(branch))

    def needs(self, branch: str, step: int) -> bool:
        """Return whether a later step is forecast from the output of this one."""
        return self.table.plan(branch).needed_until[step] > step

    def computes(self, branch: str, step: int, state: Any = None) -> bool:
        """Return whether the denoiser must be called: by plan, or because outputs are missing.

        Arguments and errors as of :meth:`forecast`, which gives an output if and only if this is False.
        """
        plan = self._visit(branch, step, state)
        terms = self._chosen(branch, plan, step) if plan.orders else plan.forecasts[step]
        return terms is None or self._sources(branch, terms, state) is None

    def forecast(self, branch: str, step: int, state: Any = None) -> Any | None:
        """Return the output of a skipped step in memory of its own; None: compute it, and ``keep`` it.

        Args:
            branch: name of the guidance branch; "" if there is one.
            step: t, 0 .. N - 1, not below that of the branch's last call.
            state: x_t; needed if the table converts.

        Raises:
            ExecutionError: if no run was begun, the step is out of range or goes back, or the state is
                needed and missing.
        """
        plan = self._visit(branch, step, state)
        terms = self._chosen(branch, plan, step) if plan.orders else plan.forecasts[step]
        sources = None if terms is None else self._sources(branch, terms, state)
        if terms is None or sources is None:
            return None
        wide = self._arithmetic.combine([one.value for one in sources], [a for _, a in terms])
        if self._converts:
            a, b = self.table.conversion(step)
            wide = self._arithmetic.combine([wide, state], [1.0 / a, -b / a])
        self._outputs.release(branch, plan.needed_until, step)
        return self._arithmetic.narrow(wide, sources[0].dtype)

    def keep(self, branch: str, step: int, output: Any, state: Any = None) -> None:
        """Take the output of a step that was computed; it is kept if a later step needs it.

        Arguments and errors as of :meth:`forecast`.
        """
        plan = self._visit(branch, step, state)
        choice = plan.order_choices[step] if plan.order_choices else None
        if choice is None:  # else outputs are read once more below
            self._outputs.release(branch, plan.needed_until, step)
        self._outputs.notice(output)
        if plan.needed_until[step] <= step:
            return
        kept = Kept(output, getattr(output, "dtype", None), (_shape(output), _shape(state)))
        if self._converts:
            value = self._arithmetic.combine([output, state], self.table.conversion(step))
            kept = kept._replace(value=value)
        self._outputs.put(branch, step, kept, owned=self._converts)
        if choice is not None:
            self._choose(branch, choice)
            self._outputs.release(branch, plan.needed_until, step)

    def _choose(self, branch: str, choice: OrderChoice) -> None:
        """Choose the orders of the forecasts that follow; none if an output is missing."""
        self._order_weights.pop(branch, None)
        if (sources := self._outputs.get(branch, choice.steps)) is not None:
            values = [one.value for one in sources]
            self._order_weights[branch] = self._arithmetic.order_weights(values, choice.ramps)

    def _chosen(self, branch: str, plan: BranchPlan, step: int) -> Sequence[tuple[int, Any]] | None:
        """Return the terms of a forecast; None if it is not planned, or no order could be chosen."""
        orders = plan.orders[step]
        if not orders:
            return plan.forecasts[step]
        weights = self._order_weights.get(branch)
        if weights is None:
            return None
        total: dict[int, Any] = {}
        for (k, i), rise in plan.rises(step).items():
            part = rise * weights[i]
            total[k] = total[k] + part if k in total else part
        for k, a in orders[0]:
            total[k] = total[k] + a if k in total else a
        return list(total.items())

    def _sources(
        self, branch: str, terms: Sequence[tuple[int, Any]], state: Any
    ) -> list[Kept] | None:
        """Return the outputs that a step is forecast from; None if any is missing."""
        sources = self._outputs.get(branch, [k for k, _ in terms])
        if sources and state is not None and sources[0].shapes[1] not in (None, _shape(state)):
            return None  # another batch than the one whose outputs are kept
        return sources

    def _visit(self, branch: str, step: int, state: Any) -> BranchPlan:
        latest = self._latest.get(branch, 0)
        if not (self._begun and latest <= step < self.table.num_steps):
            self._refuse(branch, step, latest)
        if state is None and self._converts:
            raise ExecutionError(
                f"the state is needed, since {self.table.prediction} is forecast as "
                f"{self.table.forecast_in}: pass state= at every call."
            )
        self._latest[branch] = step
        plan = self._plans.get(branch)
        if plan is None:
            plan = self._plans[branch] = self.table.plan(branch)
        return plan

    def _refuse(self, branch: str, step: int, latest: int) -> None:
        if not self._begun:
            raise ExecutionError("no run was begun: call begin() before the first step.")
        wanted = f"from {latest} to {self.table.num_steps - 1}"
        advice = "call begin() where a run begins."
        raise ExecutionError(expected(f"step of branch {branch!r}", step, wanted, advice))


def _shape(array: Any) -> Any:
    shape = getattr(array, "shape", None)
    return None if shape is None else tuple(shape)


#: A table of one step, which is computed.
NOTHING = PlaybackTable(1, {"": BranchPlan.of([None])})
