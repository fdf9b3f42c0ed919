"""`maskgen run`: plan once, make what is missing, index. Rerunning the same line is resuming."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maskgen import __version__
from maskgen.config import Config
from maskgen.errors import MaskgenError, did_you_mean
from maskgen.grounding import weights
from maskgen.grounding.auto_settings import automatic_dtypes, with_dtypes
from maskgen.outcome import Outcome, failures
from maskgen.pipeline import fingerprint, run_record
from maskgen.pipeline.driver import Driver
from maskgen.pipeline.metrics_file import MetricsFile
from maskgen.pipeline.progress import Progress, progress_bar
from maskgen.pipeline.recorded_names import compare_recorded
from maskgen.pipeline.worker import Job, Task
from maskgen.runtime import console
from maskgen.runtime.device import describe_device
from maskgen.runtime.folder_kind import refuse_other_kind
from maskgen.runtime.journal import Heartbeat, Journal
from maskgen.runtime.lease import Lease
from maskgen.runtime.run_log import RunLog, described
from maskgen.runtime.stop_signals import stop_signals
from maskgen.runtime.store import Store
from maskgen.sharding.commit import Commit, committed, shard_name
from maskgen.sharding.format import SCHEMA
from maskgen.sharding.index import finish
from maskgen.sharding.verify import repair
from maskgen.sources.data_root import ensure
from maskgen.sources.gzip_archives import restore_points
from maskgen.sources.plan import check_condition, check_images, find_again, make_plan, passed_over
from maskgen.sources.plan_file import count_rows
from maskgen.sources.rows import find_files

if TYPE_CHECKING:
    from maskgen.pipeline.ray_cluster import RayCluster

_STOPPING = "stopping; finished shards stay, the rest is made when you run the same line again"


@dataclass(frozen=True)
class RunRequest:
    """One `maskgen run`. `retry`: outcomes of finished shards to try again; `repair`: look first for damaged
    files, and make them again."""

    config: Config
    data: str
    out: str
    address: str = ""
    retry: tuple[Outcome, ...] = ()
    repair: bool = False


@dataclass(frozen=True)
class RunSummary:
    """How a run ended. `made`, `rows_made`: shards made in this run and their planned rows; `missing`: shards
    without a commit."""

    planned: int
    outcomes: dict[str, int]
    made: int
    rows_made: int
    missing: list[int]
    given_up: list[int]
    interrupted: bool
    seconds: float
    failed: int
    over_budget: bool

    @property
    def exit_code(self) -> int:
        """0 all done; 2 finished but over the failure budget or with shards given up; 3 resumable."""
        if self.interrupted:
            return 3
        return 2 if self.given_up or self.missing or self.over_budget else 0


def to_retry(where: list[str]) -> tuple[Outcome, ...]:
    """What --retry-failed tries again: what may end otherwise, or only what `outcome=NAME` names."""
    known = {outcome.value: outcome for outcome in Outcome if outcome.may_change}
    chosen = []
    for condition in where:
        name = condition.removeprefix("outcome=")
        if not condition.startswith("outcome=") or name not in known:
            near = did_you_mean(name, known)
            raise MaskgenError(
                f"--where {condition}: write outcome=NAME.{near} Names are {', '.join(known)}."
            )
        chosen.append(known[name])
    return tuple(chosen or known.values())


def run(request: RunRequest, say: Callable[[str], None]) -> RunSummary:
    """Bring the set at `request.out` to its end, or as far as it goes; `say` takes lines for a person."""
    store = Store(request.out)
    if request.out.rstrip("/") == request.data.rstrip("/"):
        raise MaskgenError(f"--out and --data are both {request.out}. Give the shards a folder of their own.")
    refuse_other_kind(request.out, "a set of shards")
    _refuse_before_anything(request, store)
    ensure(request.config, request.data, say)
    check_images(request.config, request.data)
    config, identity = _identify(request, store, say)
    with Lease(request.out) as lease, RunLog(request.out) as log:
        say = log.saying(say)
        if request.repair and store.exists("run.json"):
            with progress_bar("verifying", "shards") as count:
                repair(store, say, count)
        job, rows = _plan(request, config, identity, store, say)
        store.sweep()
        return _make_missing(request, store, job, rows, lease, log, say)


def _refuse_before_anything(request: RunRequest, store: Store) -> None:
    """Refuse other settings than the set was begun with, or an odd condition, before anything is written."""
    begun = run_record.read(store)
    if begun:
        told = {
            "schema": SCHEMA,
            "config": fingerprint.settings(_with_dtypes(request, begun, lambda _: None)),
        }
        lines = fingerprint.differences({name: begun["identity"][name] for name in told}, told)
        if lines:
            raise _mixing(lines, request.out)
    check_condition(request.config)


def _identify(request: RunRequest, store: Store, say: Callable[[str], None]) -> tuple[Config, dict[str, Any]]:
    """The configuration with nothing left open, and what the set's fingerprint is made of. Writes nothing."""
    begun = run_record.read(store)
    if begun:
        _refuse_other_kinds(begun, request)
    recorded = begun["identity"]["models"].get("proposer") if begun else None
    config = weights.pinned(_with_dtypes(request, begun, say), recorded)
    identity = fingerprint.identity(config, request.data, find_files(request.data, config.source.files))
    if begun:
        _refuse_mixing(begun, identity, request.out)
    return config, identity


def prepare(request: RunRequest, store: Store, say: Callable[[str], None]) -> tuple[Job, list[int]]:
    """The plan and the run's record, made or checked; returns the job and each shard's planned rows."""
    return _plan(request, *_identify(request, store, say), store, say)


def _plan(
    request: RunRequest,
    config: Config,
    identity: dict[str, Any],
    store: Store,
    say: Callable[[str], None],
) -> tuple[Job, list[int]]:
    begun = run_record.read(store)  # again, now that nobody else works on the set
    job = Job(config, request.data, request.out, fingerprint.digest(identity))
    if begun:
        _refuse_mixing(begun, identity, request.out)
        if Outcome.IMAGE_MISSING in request.retry:
            _look_for_images(config, request.data, store, say)
        with store.open("plan.parquet") as file:
            restore_points(config.source, request.data, file, store, say)
    else:
        say(f"planning from {', '.join(find_files(request.data, config.source.files))}")
        summary = _publish_plan(config, request.data, store, say)
        say(f"planned {summary['planned']:,} of {summary['read']:,} rows in {summary['shards']:,} shards")
        if summary["outcomes"]:
            left_out = ", ".join(f"{count:,} {name}" for name, count in summary["outcomes"].items())
            say(f"of them {summary['groundable']:,} can be used; {left_out}")
        for note in summary["notes"]:
            say(f"note: {note}")
        record = {
            "maskgen": __version__,
            "fingerprint": job.fingerprint,
            "identity": identity,
            "config": config.model_dump(mode="json"),
            "data": run_record.data_place(request.data),
            "packages": fingerprint.packages(),
            "plan": summary,
            "models": {},
        }
        store.write_json("run.json", record)
    with store.open("plan.parquet") as file:
        return job, count_rows(file)


def _look_for_images(config: Config, data: str, store: Store, say: Callable[[str], None]) -> None:
    """Bring the plan up to what is there now: an archive that was merged, a file that was fetched."""
    with store.open("plan.parquet") as file, store.publish("plan.parquet") as path:
        update = find_again(config, data, file, path, store, say)
        then, now = compare_recorded(config, data, file), compare_recorded(config, data, path)
    record = store.read_json("run.json")
    summary = update.summary(record["plan"])
    summary["notes"] = [*(note for note in summary["notes"] if note not in then), *now]
    store.write_json("run.json", {**record, "plan": summary})
    say(f"images found that were missing: {update.found:,}")


def _with_dtypes(request: RunRequest, begun: dict[str, Any] | None, say: Callable[[str], None]) -> Config:
    """The configuration with every dtype known: `auto` is what the set was begun with, and in a new set what
    suits the workers' device. So all masks of a set are made in one dtype, wherever it goes on."""
    config = request.config
    names = automatic_dtypes(config)
    if not names:
        return config
    if begun:
        parts = begun["identity"]["config"]
        return with_dtypes(config, {name: parts[name]["dtype"] for name in names if "dtype" in parts[name]})
    device = _worker_device(request.address, say)
    say(f"{' and '.join(f'{name}.dtype' for name in names)}: {device['dtype']}, for {device['name']}")
    return with_dtypes(config, dict.fromkeys(names, device["dtype"]))


def _worker_device(address: str, say: Callable[[str], None]) -> dict[str, str]:
    """Name and usual dtype of the device that a worker gets: this machine's own, or one of the cluster's."""
    if not address:
        return describe_device()
    from maskgen.pipeline.ray_cluster import ask_device

    say("asking the cluster what its workers compute on")
    return ask_device(address)


def _make_missing(
    request: RunRequest,
    store: Store,
    job: Job,
    rows: list[int],
    lease: Lease,
    log: RunLog,
    say: Callable[[str], None],
) -> RunSummary:
    began = time.monotonic()
    journal = Journal(request.out, [log.event, lambda *told: console.detail(described(*told))])
    commits = _intact(store, job, say)
    if Outcome.QUARANTINED in request.retry:
        journal.release()
    tasks = _tasks(journal, commits, rows, request.retry)
    drive = GroundingRun(request, store, job, journal, tasks, lease, log)
    if tasks:
        drive.run(rows, say)
        store.sweep()  # what workers that died had begun to write
        # Not what was counted along the way: a shard being rewritten when it all stopped has no commit now.
        commits = committed(store)
    missing = [shard for shard in range(len(rows)) if shard not in commits]
    if not missing:
        finish(store, job.fingerprint)
    outcomes: Counter[str] = Counter()
    for commit in commits.values():
        outcomes.update(commit.outcomes)
    failed = failures(outcomes, passed_over(store.read_json("run.json")))
    return RunSummary(
        planned=sum(rows),
        outcomes=dict(sorted(outcomes.items())),
        made=len(drive.made),
        rows_made=sum(task.rows for task in tasks if task.shard in drive.made),
        missing=missing,
        given_up=drive.given_up,
        interrupted=drive.interrupted,
        seconds=time.monotonic() - began,
        failed=failed,
        over_budget=failed > request.config.resources.failure_budget * max(1, sum(rows)),
    )


@dataclass
class GroundingRun:
    """The tasks on their way through Ray, and what became of them."""

    request: RunRequest
    store: Store
    job: Job
    journal: Journal
    tasks: list[Task]
    lease: Lease
    log: RunLog
    made: set[int] = field(default_factory=set)
    said: set[str] = field(default_factory=set)
    given_up: list[int] = field(default_factory=list)
    interrupted: bool = False

    def run(self, rows: list[int], say: Callable[[str], None]) -> None:
        """Until every task is done, given up, or the user asks to stop. `rows`: of each shard of the set."""
        from maskgen.pipeline.ray_cluster import RayCluster  # takes seconds; a finished set needs none

        planned, done = sum(rows), sum(rows) - sum(task.rows for task in self.tasks)
        metrics = self._metrics_file(rows, done)
        self.journal.listeners.append(metrics.event)
        self._remove_heartbeats()
        self.journal.log_event("run_started", shards=len(self.tasks), version=__version__)
        say("starting Ray")
        with RayCluster(self.request.address, self.request.config.resources.actors) as cluster:
            self.journal.log_event("cluster", actors=cluster.size, gpus=cluster.gpus)
            say(f"loading the models in {cluster.size} worker(s), {cluster.device}")
            progress = Progress(planned, done)
            try:
                self._drive(cluster, progress, metrics, say)
            finally:
                progress.close()
                metrics.close()
        self._remove_heartbeats()
        ended = "run_interrupted" if self.interrupted else "run_finished"
        self.journal.log_event(ended, shards=len(self.made))

    def _metrics_file(self, rows: list[int], done: int) -> MetricsFile:
        labels = {"split": self.job.config.split, "out": self.store.place}
        path = self.request.config.resources.metrics_file
        return MetricsFile(path, labels, sum(rows), done, len(rows), len(self.tasks))

    def _drive(
        self, cluster: "RayCluster", progress: Progress, metrics: MetricsFile, say: Callable[[str], None]
    ) -> None:
        def landed(task: Task, commit: Commit) -> None:
            self.made.add(commit.shard)
            progress.committed(task.rows, commit)
            metrics.committed(task.rows, commit)

        def tick(heartbeats: dict[str, Heartbeat]) -> None:
            progress.tick(heartbeats)
            metrics.tick(heartbeats)
            self.log.tick()

        with stop_signals(lambda: say(_STOPPING)) as signals:
            driver = Driver(
                cluster=cluster,
                job=self.job,
                journal=self.journal,
                tasks=self.tasks,
                on_commit=landed,
                on_tick=tick,
                on_loaded=lambda models: self.loaded(models, say),
                should_stop=lambda: bool(signals) or self.lease.lost,
                say=say,
            )
            driver.run()
            self.lease.check()
            self.given_up = driver.given_up
            self.interrupted = bool(signals)

    def loaded(self, models: dict[str, Any], say: Callable[[str], None]) -> None:
        """What the first worker loaded goes into run.json; of a later one, what differs is said once."""
        record = self.store.read_json("run.json")
        if not record["models"]:
            self.store.write_json("run.json", {**record, "models": models})
        differing = fingerprint.differences(record["models"] or models, models)
        notes = [f"unlike when the run began, {line}" for line in differing if "(absent)" not in line]
        for note in [*notes, *_other_dtypes(self.request.config, self.job.config, models["device"])]:
            if note not in self.said:
                say(f"note: {note}")
            self.said.add(note)

    def _remove_heartbeats(self) -> None:
        """Those of this run's workers when it ends, and before it those of a driver that was killed."""
        for name in self.journal.heartbeats():
            self.journal.remove_heartbeat(name)


def _tasks(
    journal: Journal, commits: dict[int, Commit], rows: list[int], retry: tuple[Outcome, ...]
) -> list[Task]:
    """A task for each shard without a commit, and for each whose samples are to be tried again."""
    quarantined = journal.quarantined()
    tasks = []
    for shard, planned in enumerate(rows):
        if shard not in commits:
            tasks.append(Task(shard, quarantined, planned))
        elif again := sum(commits[shard].outcomes.get(outcome, 0) for outcome in retry):
            tasks.append(Task(shard, quarantined, again, retry))
    return tasks


def _intact(store: Store, job: Job, say: Callable[[str], None]) -> dict[int, Commit]:
    """Commits whose files are there at their full size and whose fingerprint is this run's."""
    found = {}
    for shard, commit in committed(store).items():
        if commit.fingerprint != job.fingerprint:
            raise MaskgenError(
                f"shard {shard_name(shard)} in {job.out} was made with other settings than its run.json says "
                f"(fingerprint {commit.fingerprint}). Remove its three files; the rerun makes it again."
            )
        if all(store.size(name) == size for name, size in _files(commit).items()):
            found[shard] = commit
        else:
            say(f"shard {shard_name(shard)} is incomplete on disk and will be made again")
    return found


def _files(commit: Commit) -> dict[str, int]:
    """The shard's files and their sizes in bytes; a shard without samples has no tar."""
    stem = shard_name(commit.shard)
    files = {f"{stem}.parquet": commit.parquet.bytes}
    return {**files, f"{stem}.tar": commit.tar.bytes} if commit.samples else files


def _publish_plan(config: Config, data: str, store: Store, say: Callable[[str], None]) -> dict[str, Any]:
    with store.publish("plan.parquet") as path, progress_bar("planning", "rows") as count:
        summary = make_plan(config, data, path, count, store, say)
        summary.notes.extend(compare_recorded(config, data, path))
    return summary.to_dict()


def _other_dtypes(asked: Config, given: Config, device: dict[str, str]) -> list[str]:
    """A sentence for each dtype that was `auto` and is not what a worker's device would have made of it."""
    return [
        f"a worker is on {device['name']}, which would choose {name}.dtype {device['dtype']}; the set was "
        f"begun in {dtype}, and all of it is made so. For a set in {device['dtype']}, give another --out and "
        f"--set {name}.dtype={device['dtype']}."
        for name in automatic_dtypes(asked)
        if (dtype := getattr(given, name).dtype) != device["dtype"]
    ]


def _refuse_other_kinds(record: dict[str, Any], request: RunRequest) -> None:
    """Before anybody looks for the weights of a model that the set was not made with."""
    before, now = record["identity"]["config"], fingerprint.settings(request.config)
    if any(before[part]["kind"] != now[part]["kind"] for part in ("proposer", "refiner")):
        raise _mixing(fingerprint.differences(before, now), request.out)


def _refuse_mixing(record: dict[str, Any], identity: dict[str, Any], out: str) -> None:
    if fingerprint.digest(identity) == record["fingerprint"]:
        return
    raise _mixing(fingerprint.differences(record["identity"], identity), out)


def _mixing(differences: list[str], out: str) -> MaskgenError:
    lines = "\n  ".join(differences)
    return MaskgenError(
        f"{out} was begun with other settings:\n  {lines}\n"
        f"Go on with those it was begun with (maskgen resume {out}), or give another --out."
    )
