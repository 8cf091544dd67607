"""The manifests hold what they have to, and each check is shown to find a mistake that is planted for it."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from k8s.checks import manifests
from k8s.checks.__main__ import OVERLAYS, dockerfile, main, own, policies, schema
from pipelines.dag.profiles import load_profile

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
TOOLS = ROOT / ".venv-checks" / "bin"

pytestmark = pytest.mark.skipif(
    not (shutil.which("kubectl") or shutil.which("kustomize")), reason="needs kubectl or kustomize to render manifests"
)
tools = pytest.mark.skipif(not (TOOLS / "checkov").exists(), reason="needs .venv-checks: run `make check-k8s` once")

Documents = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rendered() -> dict[str, Documents]:
    return {name: manifests.render(K8S / "overlays" / name) for name in OVERLAYS}


@pytest.mark.parametrize("overlay", sorted(OVERLAYS))
def test_an_overlay_has_no_finding(overlay: str) -> None:
    found, text = own(K8S / "overlays" / overlay, overlay)
    assert found == []
    assert text


def test_every_overlay_is_checked() -> None:
    # The guide has a cluster's owner write one named `mine`, which git does not see.
    assert set(OVERLAYS) == {path.name for path in (K8S / "overlays").iterdir()} - {"mine"}


def copied(folder: Path, overlay: str) -> Path:
    """A copy of an overlay for somebody's own values, beside a copy of the base."""
    shutil.copytree(K8S / "base", folder / "base")
    shutil.copytree(K8S / "overlays" / "standalone", folder / "overlays" / "standalone")
    return Path(shutil.copytree(K8S / "overlays" / overlay, folder / "overlays" / "mine"))


def stand_ins(folder: Path) -> Path:
    """Tools that find nothing, and record what they were given; the real ones have tests of their own."""
    folder.mkdir()
    said = {"kubernetes-validate": "INFO 1 passed x", "checkov": "Passed checks: 9, Failed checks: 0", "hadolint": ""}
    for name, text in said.items():
        (folder / name).write_text(
            f"#!/bin/sh\necho \"{name} $*\" >> {folder}/calls\n[ -z '{text}' ] || echo '{text}'\n"
        )
        (folder / name).chmod(0o755)
    return folder


def test_an_overlay_of_ones_own_is_checked_with_its_profile(tmp_path: Path) -> None:
    place, tools = copied(tmp_path, "kind"), stand_ins(tmp_path / "tools")
    arguments = ["--tools", str(tools), "--overlay", str(place)]
    good = CliRunner().invoke(main, [*arguments, "--profile", "cpu"])
    assert good.exit_code == 0, good.output
    assert "overlay mine: ok" in good.output
    assert "overlay profile" not in good.output
    (place / "store.yaml").write_text(
        (K8S / "base" / "store.yaml").read_text().replace("example.com", "example.com:9443")
    )
    bad = CliRunner().invoke(main, [*arguments, "--profile", "cpu"])
    assert bad.exit_code == 1
    assert "no policy lets the stages reach addresses at TCP 9443" in bad.output
    assert "mine.yaml" in (tools / "calls").read_text()


def test_the_overlay_that_the_guide_shows_has_no_finding(tmp_path: Path) -> None:
    shutil.copytree(K8S / "base", tmp_path / "base")
    shutil.copytree(K8S / "overlays" / "profile", tmp_path / "overlays" / "profile")
    shown = next(text for text in shown_yaml() if "Kustomization" in text)
    place = tmp_path / "overlays" / "mine"
    place.mkdir()
    (place / "kustomization.yaml").write_text(textwrap.dedent(shown))
    found, text = own(place, "mine", "gpu")
    assert found == []
    documents = list(yaml.safe_load_all(text))
    assert {document["metadata"]["namespace"] for document in documents} == {"my-profile"}
    assert not {document["kind"] for document in documents} & {"Namespace", "Secret"}


def test_the_way_to_the_api_server_that_the_guide_shows_for_cilium_is_for_the_same_pods(
    rendered: dict[str, Documents],
) -> None:
    shown = next(yaml.safe_load(text) for text in shown_yaml() if "CiliumNetworkPolicy" in text)
    policy = one(rendered["profile"], "NetworkPolicy")
    # Cilium adds what it allows to what the other policy does, for the pods that both select.
    assert shown["spec"]["endpointSelector"] == policy["spec"]["podSelector"]
    (rule,) = shown["spec"]["egress"]
    assert rule["toEntities"] == ["kube-apiserver"]
    assert {port["port"] for port in rule["toPorts"][0]["ports"]} == {"443", "6443"}


def test_make_check_leaves_out_no_check_for_want_of_kubectl(tmp_path: Path) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("needs make")
    for name in ("sh", "awk"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    # Only said, not done: -n goes through the makes that make calls.
    done = subprocess.run([make, "-n", "check"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith(".venv/bin/python -m k8s.checks --tools")
    assert "command -v kubectl" not in done.stdout


def shown_yaml() -> list[str]:
    """The YAML that the guide shows."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    return [textwrap.dedent(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def one(documents: Documents, kind: str, name: str = "") -> dict[str, Any]:
    return next(d for d in documents if d["kind"] == kind and name in d["metadata"]["name"])


def rules(documents: Documents) -> list[dict[str, Any]]:
    return list(one(documents, "Role")["rules"])


def egress(documents: Documents) -> list[dict[str, Any]]:
    """The policy's own list of rules, to change or take out."""
    rules_out: list[dict[str, Any]] = one(documents, "NetworkPolicy")["spec"]["egress"]
    return rules_out


Plant = Callable[[Documents], object]
MISTAKES: dict[str, tuple[Plant, str]] = {
    "label": (lambda d: d[0]["metadata"]["labels"].pop("app.kubernetes.io/name"), "no label app.kubernetes.io/name"),
    "wildcard": (lambda d: rules(d)[0].update(verbs=["*"]), "a wildcard"),
    "all secrets": (lambda d: rules(d)[1].pop("resourceNames"), "one by one and by name"),
    "write secrets": (lambda d: rules(d)[1].update(verbs=["get", "update"]), "one by one and by name"),
    "exec": (lambda d: rules(d)[3].update(resources=["pods/exec"]), "lead to more rights"),
    "cluster role": (lambda d: one(d, "Role").update(kind="ClusterRole"), "no rights outside their namespace"),
    "real key": (lambda d: one(d, "Secret")["stringData"].update(secretkey="wJalrXUt"), "holds a value"),
    "role name": (lambda d: one(d, "RoleBinding")["roleRef"].update(name="runner"), "Role runner is not defined"),
    "subject": (
        lambda d: one(d, "RoleBinding")["subjects"][0].update(name="default"),
        "ServiceAccount default is not defined",
    ),
    "secret of a role": (
        lambda d: rules(d)[1].update(resourceNames=["s3-keys"]),
        "Secret s3-keys is not defined",
    ),
    "root of all pipelines": (
        lambda d: one(d, "ConfigMap", "s3")["metadata"].update(name="kfp-launcher"),
        "moves the artifacts of all pipelines",
    ),
    "secret of the profile": (lambda d: d.remove(one(d, "Secret")), "profile: Secret untaint-s3 is not defined"),
    "account of the profile": (
        lambda d: one(d, "ServiceAccount")["metadata"].update(name="runner"),
        "profile: ServiceAccount untaint-runner is not defined",
    ),
    "setting": (lambda d: one(d, "ConfigMap", "s3")["data"].pop("AWS_REGION"), "has no key AWS_REGION"),
    "namespace": (lambda d: one(d, "Role")["metadata"].update(namespace="default"), "objects in several namespaces"),
    "namespace of its own": (
        lambda d: d.append({"kind": "Namespace", "metadata": {"name": "untaint", "labels": {}}}),
        "no label pipelines.kubeflow.org/enabled=true, without which no pod of a run starts",
    ),
    "namespace that the store does not admit": (
        lambda d: d.append(
            {"kind": "Namespace", "metadata": {"name": "untaint", "labels": {"pipelines.kubeflow.org/enabled": "true"}}}
        ),
        "no label app.kubernetes.io/part-of=kubeflow-profile",
    ),
    "policy type": (
        lambda d: one(d, "NetworkPolicy")["spec"].update(policyTypes=["Igress", "Egress"]),
        "are not Ingress and Egress",
    ),
    "selector": (
        lambda d: one(d, "NetworkPolicy")["spec"].update(podSelector={"matchLabels": {"app": "untaint"}}),
        "no network policy covers",
    ),
    "port": (lambda d: egress(d)[0]["ports"][0].update(port=99999), "cannot be one"),
    "open port list": (lambda d: egress(d)[0].pop("ports"), "every peer or every port"),
    "metadata service": (lambda d: egress(d)[-1]["to"][0]["ipBlock"].pop("except"), "hand out credentials"),
    "outside the block": (
        lambda d: egress(d)[-1]["to"][0]["ipBlock"].update(cidr="10.0.0.0/8"),
        "is not inside 10.0.0.0/8",
    ),
    "no block": (lambda d: egress(d)[-1]["to"][0]["ipBlock"].update(cidr="10.0.0.1/8"), "has host bits set"),
    "no way to DNS": (lambda d: egress(d).pop(0), "reach pods k8s-app=kube-dns of kube-system at UDP 53"),
    "DNS by TCP only": (lambda d: egress(d)[0]["ports"].pop(0), "kube-dns of kube-system at UDP 53"),
    "no way to the API of KFP": (lambda d: egress(d).pop(1), "reach pods app=ml-pipeline of kubeflow at TCP 8887"),
    "no way to the metadata": (lambda d: egress(d).pop(2), "component=metadata-grpc-server of kubeflow at TCP 8080"),
    "no way to the archive of logs": (lambda d: egress(d).pop(3), "reach pods app=seaweedfs of kubeflow at TCP 8333"),
    "no way to the store": (lambda d: egress(d).pop(4), "no policy lets the stages reach addresses at TCP 443"),
    "another port of the store": (
        lambda d: one(d, "ConfigMap", "s3")["data"].update(AWS_ENDPOINT_URL="https://s3.example.com:9443"),
        "no policy lets the stages reach addresses at TCP 9443",
    ),
    "store in the cluster": (
        lambda d: one(d, "ConfigMap", "s3")["data"].update(AWS_ENDPOINT_URL="http://store.data.svc:9000"),
        "reach the store's pods in namespace data",
    ),
    "a port too many": (
        lambda d: egress(d)[-1]["ports"].append({"protocol": "TCP", "port": 22}),
        "no stage needs to reach addresses at TCP 22",
    ),
    "all pods": (
        lambda d: egress(d)[1].update(to=[{"namespaceSelector": {}}]),
        "no stage needs to reach pods all of all namespaces at TCP 8887",
    ),
    "incoming": (lambda d: one(d, "NetworkPolicy")["spec"].update(ingress=[{}]), "nothing has to reach a stage"),
    "quota of GPUs": (
        lambda d: one(d, "ResourceQuota")["spec"]["hard"].update({"requests.nvidia.com/gpu": "1"}),
        "ask for 2 of nvidia.com/gpu together",
    ),
    "quota of memory": (
        lambda d: one(d, "ResourceQuota")["spec"]["hard"].update({"limits.memory": "8Gi"}),
        "together exceed limits.memory",
    ),
    "quota of cores": (
        lambda d: one(d, "ResourceQuota")["spec"]["hard"].update({"limits.cpu": "2"}),
        "together exceed limits.cpu",
    ),
    "range of memory": (
        lambda d: one(d, "LimitRange")["spec"]["limits"][0]["max"].update(memory="16Gi"),
        "finetune may use 24Gi, at most 16Gi",
    ),
    "range of cores": (
        lambda d: one(d, "LimitRange")["spec"]["limits"][0]["max"].update(cpu="4"),
        "evaluate may use 8 CPUs, at most 4",
    ),
}


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_planted_mistake_is_found(rendered: dict[str, Documents], mistake: str) -> None:
    plant, says = MISTAKES[mistake]
    documents, profile = copy.deepcopy(rendered["profile"]), load_profile("gpu")
    plant(documents)
    found = [
        *manifests.labels(documents), *manifests.privileges(documents), *manifests.secrets(documents),
        *manifests.references(documents, "profile", profile), *manifests.network(documents, profile),
        *manifests.ways(documents), *manifests.grants(documents, profile),
    ]  # fmt: skip
    assert any(says in line for line in found), found


def test_what_does_not_render_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    found, text = own(tmp_path, "profile")
    assert "missing.yaml" in found[0]
    assert text == ""


def test_without_a_renderer_the_check_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(manifests.NoRenderer, match="install one"):
        manifests.render(K8S / "base")


def test_irsa_has_no_static_keys_of_the_store(rendered: dict[str, Documents]) -> None:
    documents = rendered["eks-irsa"]
    assert not [d for d in documents if d["kind"] == "Secret"]
    assert load_profile("eks-irsa").s3.secret is None
    assert "eks.amazonaws.com/role-arn" in one(documents, "ServiceAccount")["metadata"]["annotations"]
    assert "AWS_ENDPOINT_URL" not in one(documents, "ConfigMap", "s3")["data"]


@pytest.mark.parametrize("overlay", ["kind", "standalone"])
def test_nothing_touches_a_standalone_kubeflow_pipelines_itself(rendered: dict[str, Documents], overlay: str) -> None:
    kinds = {document["kind"] for document in rendered[overlay]}
    assert not kinds & {"Namespace", "ResourceQuota", "LimitRange"}
    assert {document["metadata"]["namespace"] for document in rendered[overlay]} == {"kubeflow"}


@pytest.mark.parametrize("overlay", sorted(OVERLAYS))
def test_small_artifacts_go_where_those_of_all_pipelines_go(rendered: dict[str, Documents], overlay: str) -> None:
    assert "kfp-launcher" not in [document["metadata"]["name"] for document in rendered[overlay]]
    (secret,) = [rule for rule in rules(rendered[overlay]) if "secrets" in rule["resources"]]
    assert (secret["resourceNames"], secret["verbs"]) == (["mlpipeline-minio-artifact"], ["get"])


def test_kind_reaches_the_store_of_kubeflow_pipelines_through_its_pods(rendered: dict[str, Documents]) -> None:
    documents = copy.deepcopy(rendered["kind"])
    assert manifests.ways(documents) == []
    egress(documents).pop(3)
    assert "no policy lets the stages reach the store's pods in namespace kubeflow" in manifests.ways(documents)


def test_no_overlay_keeps_data_in_volumes(rendered: dict[str, Documents]) -> None:
    assert not any(d["kind"].startswith("Persistent") for documents in rendered.values() for d in documents)
    assert one(rendered["profile"], "ResourceQuota")["spec"]["hard"]["persistentvolumeclaims"] == "0"


def test_kind_would_know_every_field_of_its_configuration() -> None:
    config = yaml.safe_load((K8S / "kind-cluster.yaml").read_text())
    assert manifests.kind_config(config) == []
    config["nodes"][0]["memory"] = "8Gi"
    config["networking"]["apiServerAdress"] = "127.0.0.1"
    config["apiVersion"] = "kind.x-k8s.io/v1"
    assert [line.split(": ")[1] for line in manifests.kind_config(config)] == [
        "not a Cluster of kind.x-k8s.io/v1alpha4", "networking has no field apiServerAdress",
        "nodes has no field memory",
    ]  # fmt: skip


@tools
def test_the_schemas_pass_the_manifests_and_find_a_typo_and_an_unknown_kind(
    rendered: dict[str, Documents], tmp_path: Path
) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(rendered["profile"]))
    assert schema(TOOLS, file) == []
    typo = copy.deepcopy(rendered["profile"])
    one(typo, "ServiceAccount")["automountServiceAcountToken"] = True
    file.write_text(yaml.safe_dump_all(typo))
    assert len([line for line in schema(TOOLS, file) if "automountServiceAcountToken" in line]) == 2
    unknown = copy.deepcopy(rendered["profile"])
    one(unknown, "ServiceAccount")["kind"] = "ServiceAcount"
    file.write_text(yaml.safe_dump_all(unknown))
    assert schema(TOOLS, file)
    file.write_text("")
    assert schema(TOOLS, file)


@tools
def test_checkov_finds_a_privileged_pod_and_a_root_image(tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "untaint"},
        "spec": {"containers": [{"name": "c", "image": "i:1", "securityContext": {"privileged": True}}]},
    }))  # fmt: skip
    (tmp_path / "Dockerfile").write_text("FROM python:3.11-slim\nRUN true\nEXPOSE 22\n")
    found = "\n".join(policies(TOOLS, tmp_path))
    assert "CKV_K8S_16" in found
    assert "CKV_DOCKER_3" in found


@tools
def test_checkov_that_checks_nothing_is_a_finding(tmp_path: Path) -> None:
    assert "found nothing to check" in policies(TOOLS, tmp_path)[0]


@tools
def test_hadolint_finds_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM debian:12\nRUN cd /srv && apt-get install curl\n")
    assert any("DL3003" in line for line in dockerfile(TOOLS, file))
    file.write_text("FROM debian:12\nUSER 1000\n")
    assert dockerfile(TOOLS, file) == []
