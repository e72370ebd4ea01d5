"""Ray: the machines of a cluster, and the processes that reserve them. Nothing else imports it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vitbench import devices
from vitbench.engine.case_worker import CaseWorker
from vitbench.errors import BadInput, first_line
from vitbench.fleet import node as nodes
from vitbench.fleet.head import Lost, Offer

LOCAL = "local"
# A custom resource of this name says which kind a machine is of: "vitbench_kind:lab-a".
KIND = "vitbench_kind:"
_ACCELERATOR = "accelerator_type:"

_PROBE_S = 5.0
_SURVEY_S = 120.0
_END_S = 10.0
_ADDRESS = re.compile(r"(?:ray://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


def check_address(address: str) -> None:
    """Raises BadInput for what can be no address of a cluster, and where Ray is not installed."""
    if address not in (LOCAL, "auto") and not _ADDRESS.fullmatch(address):
        raise BadInput(
            f"--fleet is local, auto, ray://HOST:10001 or HOST:6379, got {address!r}: `ray start "
            "--head` prints the address"
        )
    try:
        _ray()
    except ImportError:
        raise BadInput("--fleet needs Ray: pip install 'vitbench[fleet]'") from None


@contextlib.contextmanager
def connected(address: str, device: str, packages: Sequence[str]) -> Iterator[RayCluster]:
    """A cluster, and the end of what was started there. Raises BadInput.

    device    of which nodes are wanted; auto: an accelerator where a node has one, else the host
    packages  that nodes say their versions of
    """
    check_address(address)
    ray = _ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if match := _ADDRESS.fullmatch(address):
        _check_reachable(address, match["host"].strip("[]"), int(match["port"]))
    # Of a connection that fails: our own sentence says it.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        quiet["include_dashboard"] = False
    try:
        try:
            ray.init(address=address, **quiet)
        # Ray raises ConnectionError, RuntimeError or what gRPC raises.
        except Exception as error:
            raise BadInput(
                f"--fleet {address}: no cluster of Ray {ray.__version__} answers there: "
                f"{first_line(error).rstrip(' :')}; one that asks for a token answers where "
                "RAY_AUTH_MODE=token and its token are set"
            ) from None
        yield RayCluster(address, device, packages)
    finally:
        ray.shutdown()


def _check_reachable(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), _PROBE_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"--fleet {address}: nothing answers at {host}:{port}: {reason}") from None
    _check_is_ray(address, host, port)


def _check_is_ray(address: str, host: str, port: int) -> None:
    """Ray's servers speak gRPC; of others Ray itself says nothing for two minutes."""
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return  # whose certificates only Ray knows
    import grpc  # type: ignore[import-untyped] # comes with Ray, without types

    channel = grpc.insecure_channel(f"{host}:{port}")
    try:
        grpc.channel_ready_future(channel).result(timeout=_PROBE_S)
    except grpc.FutureTimeoutError:
        raise BadInput(
            f"--fleet {address}: what answers at {host}:{port} is no Ray cluster: `ray start "
            "--head` prints the address"
        ) from None
    finally:
        channel.close()


class RayCluster:
    """The machines that Ray has, of those the ones with the device.

    new_worker  what measures on a node; a test has its own
    """

    def __init__(
        self,
        address: str,
        device: str,
        packages: Sequence[str],
        new_worker: Callable[..., CaseWorker] = CaseWorker,
    ) -> None:
        """Raises BadInput where no machine has the device."""
        self._address, self._packages, self._new_worker = address, packages, new_worker
        self._names: dict[str, str] = {}  # of machines, by what Ray knows them by
        self._hellos: dict[str, Any] = {}  # requests, by machine
        self._facts: dict[str, Mapping[str, Any] | str] = {}  # their answers, or why there is none
        self.device = self._find(device)
        self._resource = devices.rules(self.device).resource

    def _find(self, asked: str) -> str:
        """The device's name without a number: which of several it is, Ray decides."""
        names = devices.names() if asked == devices.AUTO else (asked,)
        have = self._resources()
        for name in names:
            resource = devices.rules(name).resource
            if name != devices.kind_of(name):
                raise BadInput(
                    f"--device {name} does not go with --fleet, where Ray reserves devices: give "
                    f"{devices.kind_of(name)}"
                )
            if have.get(resource, 0) >= 1:
                return name
        wanted = devices.rules(names[0]).title
        text = ", ".join(f"{name} {count:g}" for name, count in sorted(have.items()))
        raise BadInput(f"--fleet {self._address}: no node has a {wanted} device; there are: {text}")

    def _resources(self) -> dict[str, float]:
        ray = _ray()
        total: dict[str, float] = {}
        for machine in ray.nodes():
            if machine["Alive"]:
                for name, count in machine["Resources"].items():
                    if name in {devices.rules(kind).resource for kind in devices.names()}:
                        total[name] = total.get(name, 0) + count
        return total

    def survey(self) -> Sequence[Offer]:
        """The devices of all machines, once each has said what it is. Raises BadInput."""
        deadline_s = time.monotonic() + _SURVEY_S
        offers = self.offers()
        while self._hellos and time.monotonic() < deadline_s:
            self.done(list(self._hellos.values()), 1.0)
            offers = self.offers()
        if not offers:
            raise BadInput(f"--fleet {self._address}: no node answers within {_SURVEY_S:g} s")
        return offers

    def offers(self) -> Sequence[Offer]:
        """The devices of the machines that have said what they are. Raises BadInput where the
        cluster is gone."""
        with self._connection():
            machines = _ray().nodes()
        alive = {
            machine["NodeID"]: machine
            for machine in machines
            if machine["Alive"] and machine["Resources"].get(self._resource, 0) >= 1
        }
        self._name(alive)
        for key in alive:
            if key not in self._facts and key not in self._hellos:
                self._hellos[key] = self._hello(key)
        for key in [key for key, task in self._hellos.items() if self.done([task], 0.0)]:
            try:
                self._facts[key] = self.reply(self._hellos.pop(key))
            except Lost as error:
                self._facts[key] = f"vitbench cannot be run there: {error}"
        known = [(key, machine) for key, machine in alive.items() if key in self._facts]
        return [offer for key, machine in known for offer in self._offers_of(key, machine)]

    def _hello(self, machine: str) -> Any:
        ray = _ray()
        options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0}
        asked = ray.remote(**options, scheduling_strategy=_at(machine))(nodes.hello)
        return asked.remote(self._packages)

    def _name(self, alive: Mapping[str, Mapping[str, Any]]) -> None:
        """Hosts by their names. Several nodes of Ray on one host have numbers; one that comes back
        has a number that is free."""
        self._names = {key: name for key, name in self._names.items() if key in alive}
        for key in sorted(alive.keys() - self._names.keys()):
            host = alive[key]["NodeManagerHostname"]
            numbered = [host, *(f"{host}-{number}" for number in range(2, len(alive) + 2))]
            taken = {*self._names.values()}
            self._names[key] = next(name for name in numbered if name not in taken)

    def _offers_of(self, key: str, machine: Mapping[str, Any]) -> Iterator[Offer]:
        facts, name = self._facts[key], self._names[key]
        kind = kind_of(machine["Resources"], facts)
        count = 1 if self._is_host else int(machine["Resources"][self._resource])
        for index in range(count):
            node = name if count == 1 else f"{name}/{index}"
            if isinstance(facts, str):
                yield Offer(node, key, kind, {}, facts)
            else:
                yield Offer(node, key, kind, facts["versions"])

    @property
    def _is_host(self) -> bool:
        return devices.rules(self.device).is_host

    def hire(self, offer: Offer) -> Any:
        """An actor that reserves all CPUs of the machine, or one of its devices and its share of
        the CPUs."""
        ray = _ray()
        with self._connection():
            machines = ray.nodes()
        (machine,) = [machine for machine in machines if machine["NodeID"] == offer.machine]
        have = machine["Resources"]
        reserved: dict[str, Any] = {"num_cpus": int(have.get("CPU", 0))}
        if not self._is_host:
            reserved = {"num_gpus": 1, "num_cpus": int(have.get("CPU", 0) // have[self._resource])}
        actor = ray.remote(
            **reserved,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,  # `end` may come beside a request
            scheduling_strategy=_at(offer.machine),
        )(nodes.Node)
        with self._connection():
            return actor.remote(self._new_worker)

    def ask(self, member: Any, method: str, *arguments: Any) -> Any:
        with self._connection():
            return getattr(member, method).remote(*arguments)

    def end(self, members: Iterable[Any]) -> None:
        """Those of a cluster that is gone have ended with it."""
        ended = list(members)
        with contextlib.suppress(BadInput), self._connection():
            tasks = [one.end.remote() for one in ended]
            if tasks:
                _ray().wait(tasks, num_returns=len(tasks), timeout=_END_S)
            for one in ended:
                _ray().kill(one)

    def share(self, content: bytes) -> Any:
        with self._connection():
            return _ray().put(content)

    def done(self, tasks: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Raises BadInput where the cluster is gone."""
        if not tasks:
            time.sleep(timeout_s)
            return []
        with self._connection():
            ready, _ = _ray().wait(list(tasks), num_returns=1, timeout=timeout_s)
            if ready and len(tasks) > 1:
                ready, _ = _ray().wait(list(tasks), num_returns=len(tasks), timeout=0)
        return ready

    @contextlib.contextmanager
    def _connection(self) -> Iterator[None]:
        """Raises BadInput where the cluster is gone."""
        try:
            yield
        # ConnectionError, RaySystemError, ValueError of gRPC whose channel was closed, or Exception
        # where Ray's client has given up.
        except Exception as error:
            raise BadInput(
                f"the connection to Ray at {self._address} is lost ({first_line(error)}): continue "
                "with `vitbench run --resume FOLDER --fleet ADDRESS`"
            ) from None

    def reply(self, task: Any) -> Any:
        """Raises BadInput where the cluster is gone."""
        ray = _ray()
        with self._connection():
            try:
                return ray.get(task)
            except ray.exceptions.RayError as error:
                reason = first_line(getattr(error, "cause", None) or error)
        raise Lost(reason)


def kind_of(resources: Mapping[str, float], facts: Mapping[str, Any] | str) -> str:
    """A name for folders: of the custom resource, else of Ray's type of accelerator, else of the
    CPU's model."""
    for mark in (KIND, _ACCELERATOR):
        for name in sorted(resources):
            if name.startswith(mark):
                return _slug(name.removeprefix(mark))
    return "unknown" if isinstance(facts, str) else _slug(str(facts["model"]))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "unknown"


def _at(machine: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=machine, soft=False)


def _ray() -> Any:
    """The package, whose decorators lose their types where their options are known at run time."""
    import ray

    return ray
