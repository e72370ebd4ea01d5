"""The columns of records.csv: name, unit, type, meaning. Pure, no torch."""

from __future__ import annotations

from vitbench import instruments, runtimes
from vitbench.cases import row
from vitbench.devices import LAUNCH_BOUND_RATIO
from vitbench.instruments import Column
from vitbench.results.outcome import FAILURE_KINDS

_CASE = (
    Column(
        "fallback",
        "",
        "what the fused implementation does in place of its kernels here, and why: the equations, "
        "or all of it in float32; empty: neither",
        "text",
    ),
    Column("computed_dtype", "", "in which a call computes; its ceiling is that of this", "text"),
    Column(
        "behaviour",
        "",
        "what a user's module's output depends on beside its input: `random`, `depends_on_batch`, "
        "`keeps_state`; empty: nothing was seen",
        "text",
    ),
    Column("wasted_token_fraction", "share", "padded tokens over computed tokens", exact=True),
    Column(
        "notes",
        "",
        "what was not read, and why: `memory: RuntimeError: ...`; the case is timed all the same",
        "text",
    ),
)

COLUMNS: tuple[Column, ...] = (
    *row.COLUMNS,
    Column(
        "status",
        "",
        "`measured`, `counted` (all but the time), or why not: " + ", ".join(FAILURE_KINDS),
        "text",
    ),
    Column("message", "", "the reason for a failure, in words", "text"),
    Column(
        "latency_s",
        "s",
        "time of one call on the whole batch, calls one behind another: median over all samples",
    ),
    Column("latency_low_s", "s", "lower end of its 95% interval"),
    Column("latency_high_s", "s", "upper end of its 95% interval"),
    Column("throughput_img_s", "images/s", "batch_size / latency_s"),
    Column("throughput_low_img_s", "images/s", "batch_size / latency_high_s"),
    Column("throughput_high_img_s", "images/s", "batch_size / latency_low_s"),
    Column("noise", "share", "relative half-width of the 95% interval of the median"),
    Column("latency_p99_s", "s", "99th percentile; empty below 100 samples"),
    Column("samples", "", "samples taken, over all rounds", "int"),
    Column("outliers", "", "samples beyond Tukey's fences; none is dropped", "int"),
    Column("rounds", "", "worker processes that measured the case", "int"),
    Column("round_spread", "share", "highest over lowest median of a round, less 1"),
    Column("round_medians", "", "latency of each round in seconds, which comparisons use", "text"),
    Column(
        "stopped_by",
        "",
        "`noise`: the target was reached in every round; `cap`: time was up",
        "text",
    ),
    Column("calls_per_sample", "calls", "calls averaged in one sample (first round)", "int"),
    Column("first_call_s", "s", "the first call of a process: median over rounds"),
    Column(
        "compile_s",
        "s",
        "torch.compile and its first call, with nothing of it in a cache: the first such round; "
        "empty where an earlier run had compiled it",
    ),
    Column(
        "compile_cached_s",
        "s",
        "the same where an earlier process had compiled it: median over rounds",
    ),
    Column(
        "device_latency_s",
        "s",
        "an accelerator's own time of one call, without the gaps between launches: median over all "
        "samples; empty where it could not be read apart",
    ),
    Column(
        "launch_bound",
        "",
        f"latency_s is over {LAUNCH_BOUND_RATIO} x device_latency_s: the host cannot launch as "
        "fast as the device computes; empty where calls are cold, so one at a time",
        "bool",
    ),
    *instruments.columns(),
    *runtimes.columns(),
    *_CASE,
    Column(
        "compulsory_bytes",
        "bytes",
        "weights, input and output, once each: what any implementation of a call must move",
        "int",
        exact=True,
    ),
    Column("flops_rate", "FLOP/s", "flops x batch_size / latency_s"),
    Column("roofline_fraction", "share", "time that the measured ceilings allow / latency_s"),
    Column("cpu_share", "share", "CPU time over wall time and threads, while sampling"),
    Column("neighbour_cores", "cores", "busy cores of other processes, while sampling"),
    Column(
        "contended_cores",
        "cores",
        "cores by which our threads and other processes together exceed those that we may use",
    ),
    Column(
        "steal_share", "share", "time the hypervisor gave to others, while sampling", signed=True
    ),
    Column("cgroup_throttled_s", "s", "time the CPU quota stopped us, while sampling", signed=True),
    Column("involuntary_switches", "1/s", "involuntary context switches, while sampling"),
    Column("sm_clock_hz", "Hz", "lowest SM clock seen between samples"),
    Column("sm_clock_spread", "share", "highest over lowest SM clock seen in a round, less 1"),
    Column("temperature_c", "°C", "highest GPU temperature seen", signed=True),
    Column("power_w", "W", "mean GPU power over the sampling: median over rounds"),
    Column("throttle_reasons", "", "clock limits seen that make the figure suspect", "text"),
    Column("throttled_share", "share", "time that heat held the GPU's clock down, while sampling"),
    Column(
        "power_capped_share",
        "share",
        "time that the power limit held the GPU's clock down, while sampling: many boards work so "
        "under any full load",
    ),
    Column(
        "retries", "", "chunks of samples taken again under a lowered clock, over all rounds", "int"
    ),
    Column(
        "gpu_idle_utilisation",
        "share",
        "others' work: GPU utilisation before our first call, between cases and after them",
    ),
    Column("gpu_processes", "", "other processes that compute on the GPU, then", "int"),
    Column(
        "gpu_memory_drift_bytes", "bytes", "GPU memory that others took or left meanwhile", "int"
    ),
    Column(
        "settings_changed",
        "",
        "settings of the process, such as threads, that the module changed while it was timed",
        "text",
    ),
    Column("device_name", "", "the device's name, and a CPU's threads", "text", exact=True),
    Column("torch", "", "version of torch", "text", exact=True),
    Column(
        "node",
        "",
        "which machines measured the case; empty where one machine measured all",
        "text",
    ),
    Column(
        "node_spread",
        "share",
        "highest over lowest time of the control case on the machines of a round, less 1; empty "
        "where a machine has none",
    ),
    Column("trust", "", "A to D, from noise, rounds and the state of the machine", "text"),
    Column("trust_reasons", "", "why it is not A", "text"),
)

COLUMN_NAMES = tuple(column.name for column in COLUMNS)
EXACT_COLUMNS = tuple(column.name for column in COLUMNS if column.exact)
# Those that Facts hold.
FACT_COLUMNS = tuple(
    column.name for column in (*instruments.columns(), *runtimes.columns(), *_CASE)
)
