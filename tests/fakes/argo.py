"""What Argo Workflows 4.0.5 makes of a compiled pipeline, as far as Kubeflow Pipelines 2.17.0 shows it: nodes and pods.

Each rule names the source that it was read from: ``argo`` is argoproj/argo-workflows at v4.0.5, ``kfp`` is
kubeflow/pipelines at 2.17.0. Nothing is executed; a workflow goes on by being looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ENDINGS", "Retry", "Workflow", "attempts", "dag_states"]

ENDINGS = {
    "ok": ("Succeeded", ""),
    "exit": ("Failed", "main: Error (exit code 3)"),
    "oom": ("Failed", "main: OOMKilled (exit code 137)"),
    "evicted": ("Failed", "The node was low on resource: memory."),
    "shutdown": ("Failed", "Pod was terminated in response to imminent node shutdown."),
    "deleted": ("Error", "pod deleted"),
    "init": ("Error", "init: Error (exit code 64)"),
}
"""How a pod can end, to the phase and message of its node (argo workflow/controller/operator.go: inferFailedReason; a
pod that is gone with its node is an Error in podReconciliation, one that a message explains is a failure)."""


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A retry strategy as it takes effect.

    KFP writes limit and backoff (kfp backend/src/v2/compiler/argocompiler/container.go: getTaskRetryStrategyFromInput)
    and no policy; the stock ``templateDefaults`` add ``OnError`` (kfp
    manifests/kustomize/third-party/argo/base/workflow-controller-configmap-patch.yaml).
    """

    limit: int
    duration: float
    factor: float
    max_duration: float
    policy: str = "OnError"

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> Retry:
        """The strategy of a task of a compiled pipeline."""
        policy = task["retryPolicy"]
        seconds = {name: float(policy[name].rstrip("s")) for name in ("backoffDuration", "backoffMaxDuration")}
        return cls(
            limit=int(policy["maxRetryCount"]),
            duration=seconds["backoffDuration"],
            factor=float(policy["backoffFactor"]),
            max_duration=seconds["backoffMaxDuration"],
        )


def attempts(retry: Retry, endings: Sequence[tuple[str, float]]) -> tuple[int, str, str]:
    """Plays the attempts of one task (argo workflow/controller/operator.go: processNodeRetries).

    Args:
        retry: The strategy.
        endings: For each attempt how its pod would end, as a key of ``ENDINGS``, and after how many seconds, the time
            in which it waits for a node included.

    Returns:
        Attempts made, phase of the task, message.
    """
    clock, latest = 0.0, retry.max_duration
    for count, (ending, seconds) in enumerate(endings, 1):
        # From the second attempt on the pod is given what is left of maxDuration as its deadline.
        if count > 1 and clock + seconds > latest:
            return count, "Failed", "Step exceeded its deadline"
        clock += seconds
        phase, message = ENDINGS[ending]
        if phase == "Succeeded":
            return count, phase, message
        if clock > latest:
            return count, phase, "Max duration limit exceeded"
        if retry.factor != int(retry.factor):
            return count, "Error", f'strconv.Atoi: parsing "{retry.factor}": invalid syntax'
        wait = retry.duration * retry.factor ** (count - 1)
        if clock + wait > latest:
            return count, phase, "Backoff would exceed max duration limit"
        if retry.policy != "Always" and (phase == "Error") != (retry.policy == "OnError"):
            return count, phase, message
        if count > retry.limit:
            return count, phase, "No more retries left"
        clock += wait
    raise AssertionError("there was a further attempt, for which no ending is given")


def _fnv32a(text: str) -> int:
    digest = 0x811C9DC5
    for byte in text.encode():
        digest = (digest ^ byte) * 0x01000193 & 0xFFFFFFFF
    return digest


@dataclass
class Node:
    """A node of a workflow. ``kind`` is Retry, DAG, Pod or Skipped; ``phase`` is empty before it begins."""

    name: str
    display: str
    kind: str
    parent: Node | None
    phase: str = ""
    message: str = ""
    children: list[Node] = field(default_factory=list)
    begun: int = 0
    ended: int = 0


@dataclass
class Workflow:
    """A workflow of one run.

    Attributes:
        name: Its name.
        spec: The compiled pipeline.
        skipped: Tasks whose condition does not hold.
        pending: Task to the number of looks for which its pod waits, and why.
        endings: Task to how its attempts end; they end well if not named.
        steps: Looks so far.
    """

    name: str
    spec: Mapping[str, Any]
    skipped: frozenset[str] = frozenset()
    pending: dict[str, tuple[int, str]] = field(default_factory=dict)
    endings: dict[str, list[str]] = field(default_factory=dict)
    steps: int = 0
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Every template has a retry strategy by templateDefaults, so every node has a Retry node above it.
        inner = self._pair(None, self.name, "DAG")
        self._queue = list(self._tasks(inner, "root", self.spec["root"]))

    def _pair(self, parent: Node | None, task: str, kind: str) -> Node:
        name = f"{parent.name}.{task}" if parent else task
        outer = Node(name, task, "Retry", parent)
        if parent:
            parent.children.append(outer)
        self.nodes.append(outer)
        return self._attempt(outer, kind)

    def _attempt(self, outer: Node, kind: str) -> Node:
        count = len(outer.children)
        node = Node(f"{outer.name}({count})", f"{outer.display}({count})", kind, outer)
        outer.children.append(node)
        self.nodes.append(node)
        return node

    def _tasks(self, parent: Node, name: str, component: Mapping[str, Any]) -> Iterator[tuple[str, Node, Node]]:
        """Each container task in order, as its name, the Retry node of its driver and that of its executor."""
        driver = self._pair(parent, f"{name}-driver", "Pod").parent
        assert driver is not None
        if name in self.skipped:
            node = Node(f"{parent.name}.{name}", name, "Skipped", parent)
            parent.children.append(node)
            self.nodes.append(node)
            yield name, driver, node
            return
        inner = self._pair(parent, name, "DAG")
        if "dag" not in component:
            executor = self._pair(inner, "executor", "Pod").parent
            assert executor is not None
            yield name, driver, executor
            return
        yield name, driver, driver
        tasks = component["dag"]["tasks"]
        done: list[str] = []
        while len(done) < len(tasks):
            for task, entry in tasks.items():
                if task not in done and set(entry.get("dependentTasks", [])) <= set(done):
                    done.append(task)
                    yield from self._tasks(inner, task, self.spec["components"][entry["componentRef"]["name"]])

    @property
    def state(self) -> str:
        """State of the run (kfp backend/src/apiserver/model/run.go: ToV2)."""
        phase = self.nodes[0].phase or "Pending"
        return {"Error": "FAILED"}.get(phase, phase.upper())

    def look(self) -> None:
        """Goes one step on: a task begins, or an attempt ends."""
        while self._queue and self.nodes[0].phase not in ("Failed", "Error", "Succeeded"):
            self.steps += 1
            task, driver, retry = self._queue[0]
            own = driver.children[0]
            if driver.phase == "" and driver.display in self.pending:
                self._begin(own)
                own.phase = "Pending"
                return
            if own.phase == "Pending" and self._waits(driver.display):
                return
            if own.phase in ("", "Pending"):
                self._begin(own)
                self._end(own, "Succeeded", "")
                if retry is driver or retry.kind == "Skipped":
                    if retry.kind == "Skipped":
                        retry.phase, retry.begun, retry.ended = "Skipped", self.steps, self.steps
                        self._settle(retry)
                    self._queue.pop(0)
                    continue
                self._begin(retry.children[-1])
                if task in self.pending:
                    retry.children[-1].phase = "Pending"
                return
            if task not in self.pending:
                self._finish(task, retry)
            elif not self._waits(task):
                retry.children[-1].phase = "Running"
            return

    def _waits(self, task: str) -> bool:
        looks, reason = self.pending[task]
        if looks:
            self.pending[task] = (looks - 1, reason)
        else:
            del self.pending[task]
        return bool(looks)

    def _finish(self, task: str, retry: Node) -> None:
        planned = self.endings.get(task, [])
        phase, message = ENDINGS[planned.pop(0) if planned else "ok"]
        strategy = Retry(limit=2, duration=30, factor=2, max_duration=7 * 86400)
        last = retry.children[-1]
        again = phase == "Error" and strategy.policy == "OnError" and len(retry.children) <= strategy.limit
        self._end(last, phase, message, settle=not again)
        if again:
            self._begin(self._attempt(retry, "Pod"))
            return
        self._queue.pop(0)

    def _begin(self, node: Node) -> None:
        at: Node | None = node
        while at is not None:
            if not at.phase:
                at.phase, at.begun = "Running", self.steps
            at = at.parent

    def _end(self, node: Node, phase: str, message: str, *, settle: bool = True) -> None:
        node.phase, node.message, node.ended = phase, message, self.steps
        if settle:
            self._settle(node)

    def _settle(self, node: Node) -> None:
        parent = node.parent
        if parent is None:
            return
        phases = {child.phase for child in parent.children}
        bad = next((p for p in ("Error", "Failed") if p == node.phase), "")
        if bad or phases <= {"Succeeded", "Skipped"} or (parent.kind == "Retry" and node.phase == "Succeeded"):
            parent.phase, parent.message, parent.ended = bad or "Succeeded", node.message if bad else "", self.steps
            self._settle(parent)

    def stop(self) -> None:
        """Ends it as ``activeDeadlineSeconds: 0`` does: what runs fails (argo workflow/controller/exec_control.go)."""
        for node in self.nodes:
            if node.phase in ("", "Pending", "Running"):
                if node.phase or node is self.nodes[0]:
                    node.phase, node.message, node.ended = "Failed", "Step exceeded its deadline", self.steps

    def node_id(self, node: Node) -> str:
        """Id of a node (argo pkg/apis/workflow/v1alpha1: Workflow.NodeID)."""
        return self.name if node.name == self.name else f"{self.name}-{_fnv32a(node.name)}"

    def pod_name(self, node: Node) -> str:
        """Name of a node's pod (argo workflow/util/pod_name.go: GeneratePodName)."""
        kind = "impl" if ".executor(" in node.name else "driver"
        return f"{self.name}-system-container-{kind}-{_fnv32a(node.name)}"

    def pods(self) -> list[Node]:
        """Nodes whose pod is there; that of a finished one stays until it is deleted."""
        return [node for node in self.nodes if node.kind == "Pod" and node.phase and node.message != "pod deleted"]

    def waits_for(self, node: Node) -> str:
        """Why the pod of a node is pending."""
        if node.phase != "Pending" or node.parent is None:
            return ""
        return self.pending[self._queue[0][0] if ".executor(" in node.name else node.parent.display][1]

    def log_key(self, wanted: str) -> Node | None:
        """The node whose archived log is found for a node id or a pod name.

        kfp backend/src/common/util/workflow.go: FindObjectStoreArtifactKeyOrEmpty.
        """
        start = next((n for n in self.nodes if n.phase and self.node_id(n) == wanted), None) or next(
            (n for n in self.nodes if n.phase and n.kind == "Pod" and self.pod_name(n) == wanted), None
        )
        return self._archived(start, 3) if start else None

    def _archived(self, node: Node, depth: int) -> Node | None:
        if node.kind == "Pod" and node.ended and node.message != "pod deleted":
            return node
        if depth <= 0:
            return None
        return next(filter(None, (self._archived(child, depth - 1) for child in node.children if child.phase)), None)


def dag_states(spec: Mapping[str, Any], skipped: frozenset[str]) -> dict[str, str]:
    """State of each DAG in the UI, which has it from the metadata store, after a run in which nothing failed.

    A DAG's state is set by launchers alone, at the end of a task right inside it and from there upwards (kfp
    backend/src/v2/component/launcher_v2.go); one that is not entered is CANCELED from the start, and counts as finished
    (kfp backend/src/v2/metadata/client.go: UpdateDAGExecutionsState).
    """
    states: dict[str, str] = {}

    def enter(name: str, component: Mapping[str, Any], parents: tuple[tuple[str, Mapping[str, Any]], ...]) -> None:
        if "dag" not in component:
            states[name] = "COMPLETE"
            for parent, dag in reversed(parents):
                if parent == "root" or any(states.get(t) not in ("COMPLETE", "CANCELED") for t in dag["tasks"]):
                    break
                states[parent] = "COMPLETE"
            return
        states[name] = "RUNNING"
        dag = component["dag"]
        done: list[str] = []
        while len(done) < len(dag["tasks"]):
            for task, entry in dag["tasks"].items():
                if task in done or not set(entry.get("dependentTasks", [])) <= set(done):
                    continue
                done.append(task)
                if task in skipped:
                    states[task] = "CANCELED"
                else:
                    inner = spec["components"][entry["componentRef"]["name"]]
                    enter(task, inner, (*parents, (name, dag)))

    enter("root", spec["root"], ())
    return {name: state for name, state in states.items() if name != "root"}
