"""Lints and renders deploy/helm with Helm's own library, and checks the manifests against Kubernetes' schemas.

Compares the plain manifests in deploy/kubernetes with the chart, or writes them if the argument is
`renew`. Nothing is sent to a cluster: admission, scheduling and volumes are not checked.
"""

import sys
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

CHART, PLAIN = Path("deploy/helm"), Path("deploy/kubernetes")
KUBERNETES = "1.30"
DIGEST = f"sha256:{'0' * 64}"
IMAGE = {"repository": "registry.example/audit-service"}
SECRET = [{"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "audit-database", "key": "url"}}}]
WITH_JOURNAL = {"image": IMAGE, "bucket": "s3://my-audit-logs/audit", "env": {"AWS_REGION": "eu-central-1"}}
DIRECT = WITH_JOURNAL | {
    "journal": {"enabled": False},
    "replicas": 2,
    "extraEnv": SECRET,
    "evidence": {"name": "example.com/api", "existingSecret": "audit-evidence", "key": "evidence.key"},
}
FULL = DIRECT | {
    "journal": {"enabled": True, "size": "20Gi", "storageClassName": "fast"},
    "image": IMAGE | {"digest": DIGEST, "tag": "ignored"},
    "imagePullSecrets": [{"name": "pull"}],
    "args": ["serve", "/functions"],
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/audit"}},
    "podLabels": {"team": "a"},
    "podAnnotations": {"note": "true"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "audit", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "extraVolumes": [{"name": "functions", "configMap": {"name": "functions"}}],
    "extraVolumeMounts": [{"name": "functions", "mountPath": "/functions", "readOnly": True}],
}
REFUSED = [
    ({}, "repository"),
    (WITH_JOURNAL | {"bucket": "my-audit-logs"}, "bucket"),
    (WITH_JOURNAL | {"journal": {"enabled": False}}, "evidence.existingSecret"),
    (DIRECT | {"extraEnv": []}, "DATABASE_URL"),
    (WITH_JOURNAL | {"replicas": 0}, "replicas"),
]


def render(values):
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name="audit", namespace="audit")
    shown = [text.strip() for path, text in sorted(texts.items()) if path.endswith(".yaml") and text.strip()]
    return "\n---\n".join(shown) + "\n"


def manifests(text):
    found = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    for manifest in found:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    return {manifest["kind"]: manifest for manifest in found}


def check_pod(workload):
    spec = workload["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    # The "restricted" level of Pod Security, and a read-only root.
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    variables = [variable["name"] for variable in container["env"]]
    assert len(variables) == len(set(variables)), variables
    mounts, volumes = {mount["name"] for mount in container["volumeMounts"]}, {volume["name"] for volume in spec.get("volumes") or []}
    claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    assert mounts == volumes | claims and "data" in mounts, (mounts, volumes, claims)
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    return container, variables


for values in (WITH_JOURNAL, FULL):
    report = helm_python.lint(CHART, values, strict=True)
    assert not report["errors"] and all(message["severity"] < 2 for message in report["messages"]), report
for values, kind in ((WITH_JOURNAL, "StatefulSet"), (DIRECT, "Deployment"), (FULL, "StatefulSet")):
    found = manifests(render(values))
    assert set(found) == {kind, "ServiceAccount", "Service", "PodDisruptionBudget", "NetworkPolicy"}, set(found)
    container, variables = check_pod(found[kind])
    assert ("AUDIT_JOURNAL" in variables) == (kind == "Deployment")
    (port,) = found["Service"]["spec"]["ports"]
    assert port["targetPort"] == "clients", "the port for operators is exposed"
assert container["image"] == f"registry.example/audit-service@{DIGEST}" and container["args"][:2] == ["serve", "/functions"]
for values, says in REFUSED:
    try:
        render(values)
    except helm_python.HelmError as error:
        assert says in str(error), error
    else:
        sys.exit(f"rendered, but should be refused because of {says}")

for name, values in (("with-journal", WITH_JOURNAL), ("direct", DIRECT)):
    path = PLAIN / f"{name}.yaml"
    text = f"# The chart in deploy/helm, rendered: `.ci/chart.py renew` writes this file. Set the image, the bucket and its region.\n{render(values)}"
    if sys.argv[1:] == ["renew"]:
        path.write_text(text)
    assert path.read_text() == text, f"{path} differs from the chart: run .ci/chart.py renew"
print(f"Helm {helm_python.helm_sdk_version()}: 3 renderings of the chart are valid for Kubernetes {KUBERNETES}; {len(REFUSED)} invalid sets of values are refused")
