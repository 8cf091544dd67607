"""Profiles: what a cluster grants each stage, read from one YAML file per environment and checked against a schema.

A profile changes where and with how much a stage runs, never what it computes, and holds names of secrets, never
secrets. The files of this project lie in ``k8s/profiles``; ``gpu`` means ``k8s/profiles/gpu.yaml``, and anything with a
slash or an ending is taken as a path to a file of one's own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from components.common.contracts.errors import ConfigError
from components.common.contracts.spec import ResourceClass
from pipelines.dag.stages import TASKS

__all__ = [
    "Gpu",
    "NodeTerm",
    "Profile",
    "Retry",
    "StagePlacement",
    "Toleration",
    "bytes_of",
    "cores_of",
    "load_profile",
    "profile_names",
]

_FOLDER = Path(__file__).parents[2] / "k8s" / "profiles"
_SUFFIX = {
    "": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip
_DNS_LABEL = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"

Name = Annotated[str, StringConstraints(pattern=_DNS_LABEL)]
Seconds = Annotated[int, Field(gt=0, le=7 * 24 * 3600)]


def cores_of(text: str) -> float:
    """CPU cores that ``500m`` or ``2`` means.

    Raises:
        ValueError: Not such a quantity, or none at all.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", text)
    if not found or not float(found[1]):
        raise ValueError("should be CPU cores > 0 such as 2, 0.5 or 500m")
    return float(found[1]) / (1000 if found[2] else 1)


def bytes_of(text: str) -> int:
    """Bytes that ``4Gi`` or ``500M`` means.

    Raises:
        ValueError: Not such a quantity, or none at all.
    """
    found = re.fullmatch(r"(\d+)(|K|M|G|T|Ki|Mi|Gi|Ti)", text)
    if not found or not int(found[1]):
        raise ValueError("should be a size > 0 such as 512Mi or 4Gi")
    return int(found[1]) * _SUFFIX[found[2]]


def _cores(text: str) -> str:
    cores_of(text)
    return text


def _size(text: str) -> str:
    bytes_of(text)
    return text


Cores = Annotated[str, AfterValidator(_cores)]
Size = Annotated[str, AfterValidator(_size)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Gpu(_Strict):
    """GPUs of one pod.

    Attributes:
        count: Number of GPUs, 1 to 16.
        resource: Extended resource that the device plugin offers, such as ``nvidia.com/gpu`` or a MIG slice.
    """

    count: Annotated[int, Field(ge=1, le=16)] = 1
    resource: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+\.[a-z]+/[A-Za-z0-9._-]+$")] = "nvidia.com/gpu"


class Toleration(_Strict):
    """A taint that a pod may ignore, as in a pod's spec; ``value`` goes with the operator ``Equal`` alone."""

    key: Annotated[str, Field(min_length=1)]
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _value_goes_with_equal(self) -> Toleration:
        if (self.operator == "Equal") != (self.value is not None):
            raise ValueError("should have a value with operator Equal, and none with Exists")
        return self


class NodeTerm(_Strict):
    """A condition on the labels of the node: required, or preferred with a weight of 1 to 100."""

    key: Annotated[str, Field(min_length=1)]
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = "In"
    values: tuple[str, ...] = ()
    weight: Annotated[int, Field(ge=1, le=100)] | None = None

    @model_validator(mode="after")
    def _values_fit_the_operator(self) -> NodeTerm:
        if (self.operator in ("Exists", "DoesNotExist")) == bool(self.values):
            raise ValueError("should have values with every operator but Exists and DoesNotExist")
        return self


class Retry(_Strict):
    """How often a pod that was lost is started again, and after how long.

    Argo retries what it calls an error, such as a pod that is gone with its node or one whose init container failed,
    and with the settings that Kubeflow Pipelines brings nothing else: not a stage that ended with another code than 0,
    nor one that was out of memory or evicted.

    Attributes:
        count: Further attempts, 0 to 10. A stage goes on from its last checkpoint.
        backoff_seconds: Wait before the first of them.
        factor: Each further wait is this many times as long, at least 1; Argo takes whole numbers alone.
        max_seconds: No attempt begins or goes on later than so long after the start of the first, the time in which
            that one waited for a node included. Not below the run's ``active_deadline_seconds``, else a training that
            is lost after hours would not be tried again, or its second attempt be ended early.
    """

    count: Annotated[int, Field(ge=0, le=10)] = 2
    backoff_seconds: Seconds = 30
    factor: Annotated[int, Field(ge=1, le=10)] = 2
    max_seconds: Seconds = 7 * 24 * 3600


class StagePlacement(_Strict):
    """What one stage may use, and where it runs.

    Attributes:
        cpu_request: Cores that the scheduler reserves, such as ``500m``.
        cpu_limit: Cores at most, not below the request.
        memory_request: Memory that the scheduler reserves, such as ``4Gi``.
        memory_limit: Memory at most, not below the request; the pod is ended above it.
        shm: Size of ``/dev/shm``, which counts as memory; None for the runtime's 64 MiB.
        timeout_seconds: The pod is ended after this long.
        gpu: GPUs; None for none.
        retry: Further attempts.
        tolerations: Taints that the pod may ignore.
        node_affinity: Conditions on the node; all required ones hold together.
    """

    cpu_request: Cores
    cpu_limit: Cores
    memory_request: Size
    memory_limit: Size
    shm: Size | None = None
    timeout_seconds: Seconds
    gpu: Gpu | None = None
    retry: Retry = Retry()
    tolerations: tuple[Toleration, ...] = ()
    node_affinity: tuple[NodeTerm, ...] = ()

    @model_validator(mode="after")
    def _requests_fit_into_limits(self) -> StagePlacement:
        if cores_of(self.cpu_request) > cores_of(self.cpu_limit):
            raise ValueError(f"should have cpu_request <= cpu_limit, got {self.cpu_request} and {self.cpu_limit}")
        if bytes_of(self.memory_request) > bytes_of(self.memory_limit):
            raise ValueError(
                f"should have memory_request <= memory_limit, got {self.memory_request} and {self.memory_limit}"
            )
        if self.shm is not None and bytes_of(self.shm) > bytes_of(self.memory_limit):
            raise ValueError(f"should have shm <= memory_limit, got {self.shm} and {self.memory_limit}")
        return self


class SecurityContext(_Strict):
    """Who a stage's process is; KFP 2.17 passes on these three and no other field."""

    run_as_user: Annotated[int, Field(gt=0)] = 10001
    run_as_group: Annotated[int, Field(ge=0)] = 10001
    run_as_non_root: bool = True


class S3Access(_Strict):
    """Where a stage finds its store: the names of objects in the namespace of the run.

    Attributes:
        secret: Secret with the keys ``accesskey`` and ``secretkey``; None where the service account itself may read
            and write the bucket, as with IAM roles for service accounts.
        config_map: ConfigMap with the key of each of ``settings``; None for Amazon S3 with the region of the pod.
        settings: Keys of that ConfigMap, each the name of its environment variable.
    """

    secret: Name | None = "untaint-s3"  # noqa: S105 - a name
    config_map: Name | None = "untaint-s3"
    settings: tuple[Literal["AWS_ENDPOINT_URL", "AWS_REGION", "UNTAINT_S3_CHECKSUMS", "UNTAINT_S3_PATH_STYLE"], ...] = (
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
    )


class Profile(_Strict):
    """What one environment grants the pipeline; a file in ``k8s/profiles`` gives all of it.

    Attributes:
        description: What kind of cluster this is for, in one sentence.
        service_account: Service account of the run; KFP takes it when a run starts, it is not in the compiled file.
        image_pull_policy: As in a pod's spec.
        image_pull_secrets: Names of secrets for the registry.
        active_deadline_seconds: The whole run is ended after this long.
        ttl_seconds_after_success: A good run's pods are deleted after this long; after a day by Kubeflow Pipelines.
        ttl_seconds_after_failure: The same for any other run.
        s3: Where stages find their store.
        security_context: Who a stage's process is.
        labels: Further labels of every pod; ``app.kubernetes.io/*`` are set by untaint.
        resources: What the tasks of each class of resources may use; ``components/<stage>/spec.py`` says which class.
        stages: What each of ``TASKS`` may use: as its class, unless it has an entry of its own.
    """

    description: Annotated[str, Field(min_length=1)]
    service_account: Name
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[Name, ...] = ()
    active_deadline_seconds: Seconds
    ttl_seconds_after_success: Seconds
    ttl_seconds_after_failure: Seconds
    s3: S3Access = S3Access()
    security_context: SecurityContext = SecurityContext()
    labels: dict[str, str] = {}
    resources: dict[ResourceClass, StagePlacement] = {}
    stages: Annotated[dict[str, StagePlacement], Field(validate_default=True)] = {}

    @field_validator("labels")
    @classmethod
    def _labels_are_not_ours(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if key.startswith("app.kubernetes.io/"):
                raise ValueError(f"should leave '{key}' to untaint, which sets it itself")
            if not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value):
                raise ValueError(f"should be label values of up to 63 letters, digits, '.', '_' and '-', got '{value}'")
        return labels

    @field_validator("stages")
    @classmethod
    def _stages_are_the_tasks(
        cls, stages: dict[str, StagePlacement], info: ValidationInfo
    ) -> dict[str, StagePlacement]:
        if "resources" not in info.data:
            # They are at fault themselves, and it is said so.
            return stages
        classes = info.data["resources"]
        stages = {name: classes[spec.resources] for name, spec in TASKS.items() if spec.resources in classes} | stages
        missing, unknown = sorted(set(TASKS) - set(stages)), sorted(set(stages) - set(TASKS))
        if missing or unknown:
            faults = [f"{word} {', '.join(names)}" for word, names in (("lacks", missing), ("has", unknown)) if names]
            raise ValueError(
                f"should name each of {', '.join(TASKS)} that has no class in resources, and nothing else; "
                f"it {' and '.join(faults)}"
            )
        return stages

    @model_validator(mode="after")
    def _times_fit_that_of_the_run(self) -> Profile:
        for name, stage in self.stages.items():
            if stage.timeout_seconds > self.active_deadline_seconds:
                raise ValueError(
                    f"should have stages.{name}.timeout_seconds <= active_deadline_seconds, got "
                    f"{stage.timeout_seconds} and {self.active_deadline_seconds}"
                )
            if stage.retry.max_seconds < self.active_deadline_seconds:
                raise ValueError(
                    f"should have stages.{name}.retry.max_seconds >= active_deadline_seconds, got "
                    f"{stage.retry.max_seconds} and {self.active_deadline_seconds}"
                )
        return self


def profile_names() -> list[str]:
    """Names of the profiles that this project brings."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """A profile by name, or from a file.

    Args:
        name: A name such as ``gpu``, or the path of a YAML file; a path has a slash or ends in ``.yaml``.

    Raises:
        ConfigError: No such profile, not readable YAML, or not what the schema asks for; every fault is named.
    """
    import yaml

    is_path = "/" in name or name.endswith((".yaml", ".yml"))
    path = Path(name) if is_path else _FOLDER / f"{name}.yaml"
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        # By way of JSON, as strict checking takes a YAML list for a tuple only from there.
        return Profile.model_validate_json(json.dumps(content))
    except OSError as problem:
        raise ConfigError(
            f"profile '{name[:200]}'",
            expected="a readable file" if is_path else f"one of {', '.join(profile_names())}, or the path of a file",
            found=problem.strerror or type(problem).__name__,
            hint="Copy one of k8s/profiles/ and change it.",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as problem:
        raise ConfigError(
            f"profile {path}",
            expected="a YAML mapping of plain values",
            found=" ".join(str(problem).split())[:200],
            hint="Correct the file.",
        ) from None
    except ValidationError as problem:
        raise _told(path, problem) from None


def _told(path: Path, problem: ValidationError) -> ConfigError:
    faults = []
    for fault in problem.errors(include_url=False, include_context=False):
        place = ".".join(str(part) for part in fault["loc"]) or "the file"
        value = fault["input"]
        shown = f", got {str(value)[:60]!r}" if isinstance(value, (str, int, float, bool)) else ""
        message = fault["msg"].removeprefix("Value error, ")
        faults.append(f"{place}: {message[0].lower()}{message[1:]}{shown}")
    return ConfigError(
        f"profile {path}",
        expected="what k8s/profiles/README.md lists",
        found="; ".join(faults)[:2000],
        hint="Correct the file; k8s/profiles/cpu.yaml is a complete example.",
    )
