"""What the rendered manifests have to hold beyond their schema: labels, privileges, references, and what pods ask for.

Schema checks pass a selector that matches nothing, a port that nobody listens on and a secret that nobody makes; a
cluster shows those hours later. Each function returns its findings as lines of text, empty when all is well.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from pipelines.dag.profiles import Profile, bytes_of, cores_of

__all__ = [
    "NoRenderer",
    "grants",
    "kind_config",
    "labels",
    "network",
    "privileges",
    "references",
    "render",
    "secrets",
    "ways",
]

Document = dict[str, Any]

_LABELS = tuple(f"app.kubernetes.io/{name}" for name in ("name", "part-of", "component", "managed-by"))
# What Kubeflow Pipelines brings itself, in its own namespace and in those of its profiles.
_OF_PIPELINES = {("Secret", "mlpipeline-minio-artifact"), ("ConfigMap", "kfp-launcher")}
# For `kind`, run-local makes the store's secret; for an overlay of somebody's own, a secret manager may.
_BRING_THEIR_SECRET = ("profile", "standalone", "eks-irsa")
# By the first Kubeflow gives a namespace what runs need, by the second its object store admits it.
_PROFILE_LABELS = {"pipelines.kubeflow.org/enabled": "true", "app.kubernetes.io/part-of": "kubeflow-profile"}
# The ways out that a run needs, each as peer and port; docs/kubernetes.md says what for.
_WAYS = {
    *(("pods k8s-app=kube-dns of kube-system", protocol, 53) for protocol in ("UDP", "TCP")),
    *(("pods app=ml-pipeline of kubeflow", "TCP", port) for port in (8887, 8888)),
    ("pods component=metadata-grpc-server of kubeflow", "TCP", 8080),
    ("pods app=seaweedfs of kubeflow", "TCP", 8333),
    # Beside an S3 outside of the cluster, the API server of Kubernetes.
    *(("addresses", "TCP", port) for port in (443, 6443)),
}
_POD_LABELS = {"app.kubernetes.io/name": "untaint", "app.kubernetes.io/part-of": "untaint"}
_KIND_FIELDS = {
    "": {"kind", "apiVersion", "name", "nodes", "networking", "featureGates", "runtimeConfig", "kubeadmConfigPatches",
         "kubeadmConfigPatchesJSON6902", "containerdConfigPatches", "containerdConfigPatchesJSON6902"},
    "networking": {"ipFamily", "apiServerPort", "apiServerAddress", "podSubnet", "serviceSubnet", "disableDefaultCNI",
                   "kubeProxyMode", "dnsSearch"},
    "nodes": {"role", "image", "labels", "extraMounts", "extraPortMappings", "kubeadmConfigPatches",
              "kubeadmConfigPatchesJSON6902"},
}  # fmt: skip


class NoRenderer(Exception):
    """Neither kubectl nor kustomize is on the PATH."""


def render(folder: Path) -> list[Document]:
    """The objects of a kustomization.

    Args:
        folder: Folder with a ``kustomization.yaml``.

    Raises:
        NoRenderer: There is nothing to render with.
        ValueError: The kustomization does not render; the message is the renderer's.
    """
    for command in (("kubectl", "kustomize"), ("kustomize", "build")):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
            if done.returncode:
                raise ValueError(f"{folder}: {done.stderr.strip()[:500]}")
            return [document for document in yaml.safe_load_all(done.stdout) if document]
    raise NoRenderer("neither kubectl nor kustomize is on the PATH; install one of them")


def labels(documents: Iterable[Document]) -> list[str]:
    """Objects that lack one of the recommended labels."""
    return [
        f"{_name(document)}: no label {label}"
        for document in documents
        for label in _LABELS
        if label not in document["metadata"].get("labels", {})
    ]


def privileges(documents: Iterable[Document]) -> list[str]:
    """Roles that grant more than a run needs: wildcards, all secrets, writing to what holds rights, cluster roles."""
    found = []
    for document in documents:
        if document["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            found.append(f"{_name(document)}: runs need no rights outside their namespace")
        for rule in document.get("rules", []):
            resources, verbs = rule.get("resources", []), set(rule.get("verbs", []))
            if "*" in [*resources, *verbs, *rule.get("apiGroups", [])]:
                found.append(f"{_name(document)}: a wildcard in {rule}")
            if "secrets" in resources and (not rule.get("resourceNames") or verbs != {"get"}):
                found.append(f"{_name(document)}: secrets are to be read one by one and by name")
            if {"roles", "rolebindings", "serviceaccounts", "pods/exec"} & set(resources):
                found.append(f"{_name(document)}: {resources} lead to more rights")
    return found


def secrets(documents: Iterable[Document]) -> list[str]:
    """Secrets that hold anything but a placeholder."""
    found = []
    for document in documents:
        if document["kind"] != "Secret":
            continue
        for key, value in {**document.get("data", {}), **document.get("stringData", {})}.items():
            if value != "REPLACE_ME":
                found.append(f"{_name(document)}: key {key} holds a value; real keys do not belong into files")
    return found


def references(documents: Sequence[Document], overlay: str, profile: Profile) -> list[str]:
    """Names that nothing defines, in role bindings, in roles and in the profile, and what is not ours to define."""
    known = {(document["kind"], document["metadata"]["name"]) for document in documents} | _OF_PIPELINES
    spaces = {document["metadata"].get("namespace") for document in documents} - {None}
    if profile.s3.secret and overlay not in _BRING_THEIR_SECRET:
        known.add(("Secret", profile.s3.secret))
    found = [f"objects in several namespaces: {sorted(spaces)}"] if len(spaces) != 1 else []
    for document in documents:
        if document["kind"] == "Namespace":
            present = document["metadata"].get("labels", {})
            found += [
                f"{_name(document)}: no label {key}={value}, without which no pod of a run starts in it"
                for key, value in _PROFILE_LABELS.items()
                if present.get(key) != value
            ]
        if (document["kind"], document["metadata"]["name"]) == ("ConfigMap", "kfp-launcher"):
            found.append(f"{_name(document)}: it is Kubeflow's, and moves the artifacts of all pipelines")
    for kind, name, user in _uses(documents, profile):
        if (kind, name) not in known:
            found.append(f"{user}: {kind} {name} is not defined")
    settings = {key for document in documents if document["metadata"]["name"] == profile.s3.config_map
                for key in document.get("data", {})}  # fmt: skip
    found += [f"profile: ConfigMap {profile.s3.config_map} has no key {key}" for key in profile.s3.settings
              if key not in settings]  # fmt: skip
    return found


def _uses(documents: Iterable[Document], profile: Profile) -> Iterator[tuple[str, str, str]]:
    """Each reference as kind, name and who refers to it."""
    yield "ServiceAccount", profile.service_account, "profile"
    if profile.s3.secret:
        yield "Secret", profile.s3.secret, "profile"
    if profile.s3.config_map:
        yield "ConfigMap", profile.s3.config_map, "profile"
    for document in documents:
        for kind, name in _used_by(document):
            yield kind, name, _name(document)


def _used_by(document: Document) -> Iterator[tuple[str, str]]:
    if document["kind"] == "RoleBinding":
        for entry in (document["roleRef"], *document["subjects"]):
            yield entry["kind"], entry["name"]
    for rule in document.get("rules", []):
        for resource, kind in (("secrets", "Secret"), ("configmaps", "ConfigMap")):
            if resource in rule["resources"]:
                yield from ((kind, name) for name in rule.get("resourceNames", []))


def network(documents: Iterable[Document], profile: Profile) -> list[str]:
    """Mistakes in network policies that the schema lets pass, and stages that no policy covers."""
    found = []
    covered = False
    for document in documents:
        if document["kind"] != "NetworkPolicy":
            continue
        spec = document["spec"]
        wanted = spec["podSelector"].get("matchLabels", {})
        covered |= wanted.items() <= (_POD_LABELS | profile.labels).items()
        types = set(spec.get("policyTypes", []))
        if types != {"Ingress", "Egress"}:
            found.append(f"{_name(document)}: policyTypes {sorted(types)} are not Ingress and Egress")
        if spec.get("ingress"):
            found.append(f"{_name(document)}: nothing has to reach a stage")
        for rule in spec.get("egress", []):
            if not rule.get("to") or not rule.get("ports"):
                found.append(f"{_name(document)}: a rule for every peer or every port")
            found += [f"{_name(document)}: {fault}" for fault in _rule_faults(rule)]
    if not covered:
        found.append("no network policy covers the stages' pods")
    return found


def ways(documents: Sequence[Document]) -> list[str]:
    """Ways out of the stages' pods that a run needs and no policy opens, and those that are open and none needs."""
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    free = {
        (_peer(peer, document["metadata"]["namespace"]), port.get("protocol", "TCP"), port.get("port", 0))
        for document in policies
        for rule in document["spec"].get("egress", [])
        for peer in rule.get("to", [])
        for port in rule.get("ports", [])
    }
    needed, extra = set(_WAYS), free - _WAYS
    endpoints = [document.get("data", {}).get("AWS_ENDPOINT_URL") for document in documents]
    store = urlsplit(next(filter(None, endpoints), "https://s3.amazonaws.com"))
    found = []
    if inside := re.fullmatch(r"[^.]+\.([^.]+)\.svc(\..*)?", store.hostname or ""):
        # Which pods stand behind the service, and at which port, is not to be seen from here.
        of_pipelines = {way for way in free if way[0].startswith("pods app=seaweedfs ")}
        to_store = {way for way in extra | of_pipelines if way[0].endswith(f" of {inside[1]}")}
        if not to_store:
            found.append(f"no policy lets the stages reach the store's pods in namespace {inside[1]}")
        extra -= to_store
    else:
        way = ("addresses", "TCP", store.port or {"http": 80}.get(store.scheme, 443))
        needed.add(way)
        extra -= {way}
    found += [f"no policy lets the stages reach {peer} at {kind} {port}" for peer, kind, port in sorted(needed - free)]
    found += [f"no stage needs to reach {peer} at {kind} {port}" for peer, kind, port in sorted(extra)]
    return found


def _peer(peer: Mapping[str, Any], own: str) -> str:
    if "ipBlock" in peer:
        return "addresses"
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    chosen = ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "all"
    spaces = peer.get("namespaceSelector")
    if spaces is not None:
        own = spaces.get("matchLabels", {}).get("kubernetes.io/metadata.name", "all namespaces")
    return f"pods {chosen} of {own}"


def _rule_faults(rule: Mapping[str, Any]) -> Iterator[str]:
    for port in rule.get("ports", []):
        if port.get("protocol") not in ("TCP", "UDP") or not 0 < port.get("port", 0) < 65536:
            yield f"port {port} cannot be one"
    for peer in rule.get("to", []):
        block = peer.get("ipBlock")
        if not block:
            continue
        try:
            inside = ipaddress.ip_network(block["cidr"])
            parts = [ipaddress.ip_network(part) for part in block.get("except", [])]
        except ValueError as problem:
            yield str(problem)
            continue
        if not all(part.subnet_of(inside) for part in parts):  # type: ignore[arg-type]
            yield f"except {block['except']} is not inside {block['cidr']}"
        metadata = ipaddress.ip_address("169.254.169.254")
        if metadata in inside and not any(metadata in part for part in parts):
            yield f"{block['cidr']} includes 169.254.169.254, where clouds hand out credentials"


def grants(documents: Iterable[Document], profile: Profile) -> list[str]:
    """Stages that the quota or the limit range would never admit."""
    faults = {"LimitRange": _beyond_the_range, "ResourceQuota": _beyond_the_quota}
    return [
        f"{_name(document)}: {fault}"
        for document in documents
        if document["kind"] in faults
        for fault in faults[document["kind"]](document["spec"], profile)
    ]


def _beyond_the_range(spec: Mapping[str, Any], profile: Profile) -> Iterator[str]:
    largest = next(limit["max"] for limit in spec["limits"] if limit["type"] == "Container")
    for name, stage in profile.stages.items():
        if cores_of(stage.cpu_limit) > cores_of(largest["cpu"]):
            yield f"{name} may use {stage.cpu_limit} CPUs, at most {largest['cpu']}"
        if bytes_of(stage.memory_limit) > bytes_of(largest["memory"]):
            yield f"{name} may use {stage.memory_limit}, at most {largest['memory']}"


def _beyond_the_quota(spec: Mapping[str, Any], profile: Profile) -> Iterator[str]:
    hard = spec["hard"]
    # These two run at the same time.
    pair = [profile.stages["warmup"], profile.stages["control"]]
    if sum(bytes_of(stage.memory_limit) for stage in pair) > bytes_of(hard["limits.memory"]):
        yield "warmup and control together exceed limits.memory"
    if sum(cores_of(stage.cpu_limit) for stage in pair) > cores_of(hard["limits.cpu"]):
        yield "warmup and control together exceed limits.cpu"
    gpus: dict[str, int] = {}
    for stage in pair:
        if stage.gpu:
            gpus[stage.gpu.resource] = gpus.get(stage.gpu.resource, 0) + stage.gpu.count
    for resource, count in gpus.items():
        if count > int(hard.get(f"requests.{resource}", 0)):
            yield f"warmup and control ask for {count} of {resource} together"


def kind_config(config: Mapping[str, Any]) -> list[str]:
    """Fields that kind would refuse, for it decodes its configuration strictly."""
    found = []
    if (config.get("kind"), config.get("apiVersion")) != ("Cluster", "kind.x-k8s.io/v1alpha4"):
        found.append("kind-cluster: not a Cluster of kind.x-k8s.io/v1alpha4")
    parts = [("", config), ("networking", config.get("networking", {}))]
    parts += [("nodes", node) for node in config.get("nodes", [])]
    for place, part in parts:
        unknown = [key for key in part if key not in _KIND_FIELDS[place]]
        found += [f"kind-cluster: {place or 'top'} has no field {key}" for key in unknown]
    return found


def _name(document: Document) -> str:
    return f"{document['kind']} {document['metadata']['name']}"
