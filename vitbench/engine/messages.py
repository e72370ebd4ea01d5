"""What the runner and a worker say to each other: one message is one line of JSON.

Both ends parse a line into one of the classes below. A line that is none of them is refused with
a sentence: it comes from a bug, or from something else that wrote into the pipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vitbench.analysis.spectrum import Spectrum
from vitbench.cases.calibration import Calibration
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.cases.sweep import Question
from vitbench.devices import Allocator
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Ceilings, Counted, Failed, Measured


class MalformedMessage(ValueError):
    """A line that is no message; the text says what is wrong with it."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SetUp(_Message):
    """Prepares a new worker for its cases. The reply is Ready, or Refused.

    threads         of the CPU; None: as many as may be used
    plugins         mechanisms and backbones of the user's own: name -> file
    weights         the checkpoint of every backbone
    calibration     the images of every backbone in int8, and of spectra
    workers         that use the device at a time
    autotune        whether libraries may choose among their kernels by trying them
    artifacts       folder of what runtimes convert modules into
    environment     whether the reply describes hardware and software
    ceilings        dtypes for which the device's peak rates are measured
    """

    type: Literal["set_up"] = "set_up"
    device: str
    threads: int | None = None
    plugins: Mapping[str, Path] = {}
    weights: Path | None = None
    calibration: Calibration | None = None
    memory_limit_bytes: int | None = None
    allocator: Allocator = "steady"
    workers: int = 1
    autotune: bool = True
    artifacts: Path | None = None
    environment: bool = False
    ceilings: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: Plan, **fields: Any) -> SetUp:
        """What the workers of a plan have in common, and other fields."""
        names = "device threads plugins weights calibration memory_limit_bytes allocator autotune"
        return cls(**{name: getattr(plan, name) for name in names.split()} | fields)


class Identify(_Message):
    """Asks a new worker which device a name means, before it is set up. The reply is Identified, or
    Refused."""

    type: Literal["identify"] = "identify"
    device: str


class CheckWeights(_Message):
    """Asks whether the case's checkpoint fits its backbone. The reply is Accepted, or Refused."""

    type: Literal["check_weights"] = "check_weights"
    case: Case


class CheckPlugin(_Message):
    """Imports a plugin, before anything is measured. The reply is Accepted, or Refused."""

    type: Literal["check_plugin"] = "check_plugin"
    name: str
    as_backbone: bool


class CheckClass(_Message):
    """Imports the classes of packages that a case runs, and binds their arguments, before anything
    is measured. The reply is Accepted, or Refused."""

    type: Literal["check_class"] = "check_class"
    case: Case


class Describe(_Message):
    """Asks what there is to say of a mechanism at a size, as subjects.describe has it. The reply is
    Described, or Refused."""

    type: Literal["describe"] = "describe"
    question: Question


class FindReasons(_Message):
    """Asks why cases cannot be measured, as far as that is seen without building them. The reply is
    Reasons."""

    type: Literal["find_reasons"] = "find_reasons"
    cases: tuple[Case, ...]


class ReadSpectra(_Message):
    """Asks for the frequencies of a case's output maps over the images, as subjects.spectra has
    them. The reply is Spectra, or Refused."""

    type: Literal["read_spectra"] = "read_spectra"
    case: Case
    layers: tuple[str, ...]


class Convert(_Message):
    """Converts the module of a case for its runtime, into a folder of its own. The reply is
    Accepted, Finished where that failed, or Refused where the disk is full."""

    type: Literal["convert"] = "convert"
    case: Case


class Measure(_Message):
    """All passes of a case. The reply is Finished.

    rule        None: the case is not timed
    with_facts  whether it is also counted and its memory measured
    """

    type: Literal["measure"] = "measure"
    case: Case
    rule: TimingRule | None
    with_facts: bool


class PrepareCase(_Message):
    """Builds, checks and warms up a case, which Sample then times. The reply is Accepted."""

    type: Literal["prepare_case"] = "prepare_case"
    case: Case
    rule: TimingRule
    with_facts: bool


class Sample(_Message):
    """Times the prepared case for about so many seconds. The reply is Sampled."""

    type: Literal["sample"] = "sample"
    seconds: float


class Finish(_Message):
    """Ends the prepared case. The reply is Finished, with all its samples."""

    type: Literal["finish"] = "finish"


class Discard(_Message):
    """Ends the prepared case without an outcome. The reply is Accepted."""

    type: Literal["discard"] = "discard"


class Ready(_Message):
    """The worker is set up.

    device  what `auto`, `cuda` or `cuda:1` means here
    """

    type: Literal["ready"] = "ready"
    device: str
    environment: Mapping[str, Any] | None = None
    ceilings: Ceilings | None = None


class Identified(_Message):
    """What tells the device from others of its name; "" where it is the machine's only one."""

    type: Literal["identified"] = "identified"
    identity: str


class Refused(_Message):
    """The user asked for something that this machine or file cannot do."""

    type: Literal["refused"] = "refused"
    reason: str


class Accepted(_Message):
    """Done; the note says what the user may want to know of it."""

    type: Literal["accepted"] = "accepted"
    note: str = ""


class Described(_Message):
    """What there is to say of a mechanism."""

    type: Literal["described"] = "described"
    facts: Mapping[str, Any]


class Reasons(_Message):
    """Why cases cannot be measured, by their ids."""

    type: Literal["reasons"] = "reasons"
    reasons: Mapping[str, str]


class Spectra(_Message):
    """The frequencies of a case's output maps."""

    type: Literal["spectra"] = "spectra"
    spectra: tuple[Spectrum, ...]


class Sampled(_Message):
    """Seconds of one call, sample by sample."""

    type: Literal["sampled"] = "sampled"
    samples_s: tuple[float, ...]


class Finished(_Message):
    """The outcome of a case; also the reply to PrepareCase and Sample where the case failed."""

    type: Literal["finished"] = "finished"
    outcome: Measured | Counted | Failed


Inquiry = CheckWeights | CheckPlugin | CheckClass | Describe | FindReasons | ReadSpectra
Request = SetUp | Identify | Inquiry | Convert | Measure | PrepareCase | Sample | Finish | Discard
Reply = Ready | Identified | Refused | Accepted | Described | Reasons | Spectra | Sampled | Finished

_Parsed = TypeVar("_Parsed")
_REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
_REPLIES: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="type")])


def to_line(message: Request | Reply) -> str:
    """The message as JSON, with a newline at the end and none before."""
    return json.dumps(message.model_dump(mode="json")) + "\n"


def read_request(line: str | bytes) -> Request:
    """The inverse of to_line. Raises MalformedMessage."""
    return _parse(_REQUESTS, line, "request")


def read_reply(line: str | bytes) -> Reply:
    """The inverse of to_line. Raises MalformedMessage."""
    return _parse(_REPLIES, line, "reply")


def _parse(adapter: TypeAdapter[_Parsed], line: str | bytes, kind: str) -> _Parsed:
    # json, not pydantic's own parser: names of files need not be text, and only json keeps those.
    try:
        return adapter.validate_python(json.loads(line))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        reason = f"{where}: {fault['msg']}" if where else fault["msg"]
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise MalformedMessage(f"this is no {kind}: {reason}")
