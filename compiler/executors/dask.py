"""A cluster of dask.distributed: each task in a thread of a worker there, which supervises worker processes of planc.

Tasks go through the scheduler; what they read and make goes through the store (`parcel`). The scheduler gives the tasks
of a lost worker to others (`allowed-failures`), and takes one that sends no heartbeat for lost (`worker-ttl`).
"""

import fcntl
import logging
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import host, parcel
from ..build import Build, Share
from ..cache import Damaged
from ..errors import BuildFailed, IOFailed, PlancError, Unavailable, UsageError, WorkerDied, named
from ..parcel import Parcel
from ..worker import Emit
from . import Task
from .local import Stopped

log = logging.getLogger(__name__)

ELSEWHERE = True
MEMORY = "memory"
"""The resource that counts bytes, where all workers declare it."""

_INSTALL = "pip install 'planc[dask]'"
_CONNECT_SECONDS = 15
_LOOK_SECONDS = 1.0  # between looks at the cluster
_GONE_SECONDS = 30.0  # for a worker of some resource to come back
_LEAST_SILENCE = 30.0
_END_SECONDS = 10.0  # for workers to end what is cancelled
_TTL = "60s"
_ATTEMPTS = 3
_RUNNING = ("executing", "long-running")
_ALIVE = ("running", "paused", "closing_gracefully")  # a worker that has lost its scheduler is none of these
_LOGGERS = ("distributed", "distributed.client", "distributed.worker", "distributed.nanny", "distributed.scheduler")


def create(workers: int = 0, *, address: str = "") -> "Dask":
    """Returns an executor.

    Args:
        workers: tasks that run at once on this machine; 0 for one per core.
        address: of the scheduler, such as tcp://host:8786; without one, a cluster on this machine is started.

    Raises:
        Unavailable: distributed is not installed, or no scheduler answers.
        UsageError: the address is none.
    """
    if address and workers:
        raise UsageError(f"-j {workers}: the workers at {address} say how many run at once", hint="Leave -j out")
    try:
        from distributed import Client
    except ImportError as error:
        raise Unavailable(f"--executor dask needs distributed: {error}", hint=_INSTALL) from error
    if not log.isEnabledFor(logging.DEBUG):
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
    if not address:
        cluster = _local(workers or host.cores())
        return Dask(Client(cluster), cluster)
    try:
        return Dask(Client(address, timeout=_CONNECT_SECONDS))
    except ValueError as error:
        raise UsageError(
            f"--address {address}: {named(error)}", hint="Write it like --address tcp://HOST:8786"
        ) from error
    except OSError as error:  # TimeoutError too
        raise Unavailable(
            f"no scheduler answers at {address}", hint=f"Start it: dask scheduler; {named(error)}"
        ) from error


def _local(workers: int) -> Any:
    """A cluster of one worker process on this machine, which counts memory as the local executor does."""
    import dask.config
    from distributed import LocalCluster

    dask.config.set({"distributed.scheduler.worker-ttl": _TTL})
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None  # Ctrl-C is for this process alone
    try:
        return LocalCluster(
            n_workers=1, threads_per_worker=workers, processes=True, host="127.0.0.1", dashboard_address=None,
            memory_limit=0, resources={MEMORY: host.memory_bytes() * 9 // 10},
        )  # fmt: skip
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


class Dask:
    """Runs tasks on a cluster. For each a thread here packs its files, waits for it, and lands what it made."""

    elsewhere = ELSEWHERE

    def __init__(self, client: Any, cluster: Any = None) -> None:
        self.client = client
        self.cluster = cluster
        self.topic = f"planc-{uuid.uuid4().hex[:12]}"
        self.stopped = False
        self.threads: list[threading.Thread] = []
        self.events: dict[str, Emit] = {}
        self.running: dict[str, str] = {}
        self.waiting: dict[str, Any] = {}
        self.packing = threading.Lock()
        self.looking = threading.Lock()
        self.seen: dict[str, tuple[float, float]] = {}
        self.looked = 0.0
        self.workers: dict[str, Mapping[str, Any]] = {}
        client.subscribe_topic(self.topic, self._hear)

    def submit(self, task: Task, on_event: Emit) -> "Future[Any]":
        """Sends a task when its files are in the store."""
        future: Future[Any] = Future()
        self.events[task.name] = on_event
        thread = threading.Thread(target=self._run, args=(task, future), daemon=True)
        self.threads.append(thread)
        thread.start()
        return future

    def stop(self) -> None:
        """Cancels what runs and what is queued, and waits for workers that are alive to end it."""
        self.stopped = True
        waiting = list(self.waiting.values())
        with suppress(Exception):
            if waiting:
                self.client.cancel(waiting, force=True)
            deadline = time.monotonic() + _END_SECONDS
            while waiting and self.running and time.monotonic() < deadline:
                time.sleep(0.05)
        for thread in self.threads:
            thread.join()
        with suppress(Exception):
            self.client.close()
        if self.cluster is not None:
            self.cluster.close()

    def _run(self, task: Task, future: "Future[Any]") -> None:
        future.set_running_or_notify_cancel()  # the scheduler has it from here on
        try:
            future.set_result(self._result(task))
        except BaseException as error:
            future.set_exception(error)

    def _result(self, task: Task) -> Any:
        resources = self._resources(task)
        work, damage = _portable(task), ""
        for attempt in range(_ATTEMPTS):
            with self.packing:
                packed = parcel.pack(work)
            kind, value = self._there(task, packed, resources, f"{self.topic} {task.name} {attempt}")
            try:
                if kind == "done":
                    return parcel.land(work, value)
                if kind == "error":
                    raise value
                damage = str(value)
            except Damaged as error:
                damage = str(error)
        raise IOFailed(
            f"what the cluster made is not in the cache: {damage}",
            hint="Give --cache DIR on a file system that all machines share, or --cache URL",
        )

    def _there(self, task: Task, packed: Parcel, resources: Mapping[str, float], key: str) -> tuple[str, Any]:
        """Runs a parcel on a worker and returns how it ended."""
        from distributed import KilledWorker

        if self.stopped:
            raise Stopped
        there = self.client.submit(
            _work, packed, name=task.name, topic=self.topic, level=logging.getLogger("planc").level, alone=task.alone,
            key=key, resources=dict(resources), pure=False,
        )  # fmt: skip
        self.waiting[key] = there
        ended = threading.Event()
        there.add_done_callback(lambda _: ended.set())
        lost = time.monotonic()
        try:
            while not ended.wait(_LOOK_SECONDS):
                if self.stopped:
                    raise Stopped
                if self._fitting(task):
                    lost = time.monotonic()
                elif time.monotonic() - lost > _GONE_SECONDS:
                    raise self._missing(task)
                self._require_alive(task)
            if there.status != "cancelled":
                return there.result()  # type: ignore[no-any-return]
            if self.stopped:
                raise Stopped
            if self.client.status != "running":
                raise Unavailable("the scheduler is gone", hint="Start it again, and planc build: what is made is kept")
            return "damaged", "the scheduler let go of the task"  # it lost this client for a moment: once more
        except KilledWorker as error:
            raise WorkerDied(
                f"every worker that ran it died, {error.last_worker.address} last",
                hint="Look at the workers' logs, or set memory in [target.NAME]",
            ) from error
        except ImportError as error:
            raise Unavailable(
                f"the workers cannot import it: {error}", hint="Install this planc on all machines"
            ) from error
        finally:
            self.waiting.pop(key, None)
            if not there.done():
                with suppress(Exception):  # of a lost scheduler
                    there.cancel(force=True)

    def _hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Takes what a worker tells, in the client's own thread."""
        told = event[1]
        name, kind, value = str(told["task"]), str(told["kind"]), told["value"]
        if kind == "begin":
            self.running[name] = str(value)
        elif kind == "end":
            self.running.pop(name, None)
        elif kind == "log":
            log.log(int(value[0]), "%s: %s", name, value[1])
        elif not self.stopped and name in self.events:
            self.events[name](kind, value)

    def _look(self) -> dict[str, Mapping[str, Any]]:
        """The workers that there are, by address; asked for now and then."""
        with self.looking:
            if time.monotonic() - self.looked >= _LOOK_SECONDS:
                with suppress(OSError, KeyError):  # of a lost scheduler; the client connects again, or cancels all
                    self.workers = dict(self.client.scheduler_info(n_workers=-1)["workers"])
                self.looked = time.monotonic()
                for address, facts in self.workers.items():
                    if self.seen.get(address, (None,))[0] != facts["last_seen"]:
                        self.seen[address] = (facts["last_seen"], self.looked)
            return self.workers

    def _fitting(self, task: Task) -> list[Mapping[str, Any]]:
        """Workers that have what a task needs."""
        return [
            one for one in self._look().values()
            if all(one["resources"].get(name, 0) >= amount for name, amount in task.resources.items())
        ]  # fmt: skip

    def _resources(self, task: Task) -> dict[str, float]:
        """What the scheduler sets aside for a task: memory too, as far as there is any, where all workers count it.

        Raises:
            Unavailable: no worker has it.
        """
        fitting = self._fitting(task)
        if not fitting:
            raise self._missing(task)
        declared = [one["resources"].get(MEMORY, 0) for one in fitting]
        memory = {MEMORY: min(task.memory, max(declared))} if all(declared) and task.memory else {}
        return {**memory, **task.resources}

    def _missing(self, task: Task) -> Unavailable:
        where, workers = self.client.scheduler.address, self._look()
        if not workers:
            return Unavailable(f"{where} has no workers", hint=f"Start one: dask worker {where}")
        most = {name: max(one["resources"].get(name, 0) for one in workers.values()) for name in task.resources}
        short = [name for name, amount in task.resources.items() if most[name] < amount]
        wanted = " and ".join(f"{name}={task.resources[name]:g}" for name in short or task.resources)
        return Unavailable(
            f"no worker of {where} has the resource {wanted}",
            hint=f"Start one: dask worker {where} --resources '{wanted.replace(' and ', ',')}'",
        )

    def _require_alive(self, task: Task) -> None:
        """Checks that the worker of a task is heard of within the task's time limit.

        Raises:
            WorkerDied: it is not, and the scheduler has not given the task to another.
        """
        limit = max(_portable(task).limits.seconds, _LEAST_SILENCE)
        seen = self.seen.get(self.running.get(task.name, ""))
        if seen and time.monotonic() - seen[1] > limit:
            raise WorkerDied(
                f"worker {self.running[task.name]} hangs: it was not heard of for {limit:g} s",
                hint="Set distributed.scheduler.worker-ttl lower, so that its tasks go elsewhere in time",
            )


def _portable(task: Task) -> Share | Build:
    """What a task runs: a piece of work that can go to other machines."""
    assert isinstance(task.run, Share | Build)
    return task.run


def _work(packed: Parcel, *, name: str, topic: str, level: int, alone: bool) -> tuple[str, Any]:
    """Runs a parcel on this worker; returns "done", "error" or "damaged" with what belongs to it."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def tell(kind: str, value: Any) -> None:
        if kind == "tick":
            now = worker.state.tasks.get(key)
            if now is None or now.state not in _RUNNING or worker.status.name not in _ALIVE:
                raise Stopped
        elif kind in ("stage", "note", "begin", "end", "log"):
            worker.log_event(topic, {"task": name, "kind": kind, "value": value})

    _own_threads(worker)
    tell("begin", worker.address)
    try:
        with _forwarding(tell, level), _machine(alone, lambda: tell("tick", None)):
            folder = Path(worker.local_directory) / "planc"
            memory = int(worker.state.total_resources.get(MEMORY, 0))
            return "done", parcel.run(packed, folder, tell, memory=memory)
    except Damaged as damage:
        return "damaged", str(damage)
    except Unavailable as error:
        return "error", Unavailable(f"worker {worker.address}: {error.what}", hint=error.hint)
    except PlancError as error:
        return "error", error
    except OSError as error:
        return "error", IOFailed(f"worker {worker.address}: {named(error)}", hint="Look at that machine's disk")
    except Stopped:
        return "error", BuildFailed("cancelled")
    finally:
        tell("end", "")


def _own_threads(worker: Any) -> None:
    """Takes out the variables by which dask's nanny sets threads to one: tasks are processes that use all cores."""
    import dask.config

    if worker.nanny is not None:
        with suppress(OSError):
            given = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
            for name, value in dask.config.get("distributed.nanny.pre-spawn-environ", {}).items():
                own = f"{name}={value}".encode() not in given
                if own and name.endswith("_NUM_THREADS") and os.environ.get(name) == str(value):
                    del os.environ[name]


@contextmanager
def _forwarding(tell: Emit, level: int) -> Iterator[None]:
    """Sends what planc logs in this thread to the client."""
    planc, own = logging.getLogger("planc"), threading.get_ident()
    handler = _Handler(lambda record: tell("log", [record.levelno, record.getMessage()]))
    handler.addFilter(lambda record: record.thread == own)
    if level:
        planc.setLevel(level)
    planc.addHandler(handler)
    try:
        yield
    finally:
        planc.removeHandler(handler)


class _Handler(logging.Handler):
    """Hands each record to a function."""

    def __init__(self, function: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self.function = function

    def emit(self, record: logging.LogRecord) -> None:
        """Hands it over."""
        self.function(record)


@contextmanager
def _machine(alone: bool, tick: Callable[[], None]) -> Iterator[None]:
    """Holds this machine, alone or together with other tasks of planc, also those of other workers on it."""
    path = Path(tempfile.gettempdir()) / f"planc-{os.getuid()}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                tick()
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)
