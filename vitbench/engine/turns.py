"""Cases of one tree against each other, in turns: which of those that lie close is faster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from vitbench.analysis.compare import Verdict
from vitbench.analysis.gate import Policy
from vitbench.cases import plan as plans
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.engine.ab import AbComparison, Progress, Rules
from vitbench.engine.child import Target
from vitbench.engine.revision import Revision
from vitbench.instruments.timing import TimingRule

# A pair is told apart from this on, as a share: less is of no use to who chooses.
LEAST = 0.02
# Of one slice; the two sides take 16 slices each in a block.
_SLICE_S = 0.03


def plan_of(cases: Sequence[Case], rule: TimingRule, seed: int = 0) -> Plan:
    """A plan of cases that are measured in turns: a short warm-up, no kernels that are tried."""
    own = dataclasses.replace(
        rule, warmup_calls=3, warmup_s=0.05, warmup_agree=1.0, sample_s=0.002, energy_s=0.0
    )
    device = cases[0].device
    return Plan(
        title="in turns",
        suite="turns",
        device=device,
        cases=tuple(cases),
        rounds=1,
        rule=plans.warm_on(own, device),
        autotune=False,
        seed=seed,
    )


def measure(
    pick: Case,
    rivals: Sequence[Case],
    folder: Path,
    *,
    budget_s: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Verdict]:
    """A verdict for each rival: slower or faster than the pick, or the same. The folder gets what
    `vitbench ab` writes, also of what was measured before an interruption. Raises BadInput,
    StorageFull, KeyboardInterrupt.
    """
    plan = plan_of(rivals, plans.rule_of("quick", pick.device, {}))
    comparison = AbComparison(
        plan,
        (Revision("the pick", Target()), Revision("its rivals", Target())),
        Policy(max_slowdown=LEAST),
        Rules(max_blocks=20, budget_s=budget_s, slice_s=_SLICE_S),
        folder,
        command="vitbench advise",
        rivals=dict.fromkeys(rivals, pick),
        on_progress=on_progress,
    )
    try:
        return list(comparison.measure().verdicts)
    except KeyboardInterrupt:
        comparison.finish()
        raise
