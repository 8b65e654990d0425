"""Applies the documents in deploy/aws to S3 and IAM in this process (moto), and checks the Terraform modules and alerts."""

import json
import os
import re

import boto3
import hcl2
import yaml
from moto import mock_aws


def document(name):
    text = open(f"deploy/aws/{name}.json").read()
    return text.replace("BUCKET", "my-audit-logs").replace("PREFIX", "audit")


os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
with mock_aws():
    s3, iam = boto3.client("s3"), boto3.client("iam")
    s3.create_bucket(Bucket="my-audit-logs", ObjectLockEnabledForBucket=True)
    lock = json.loads(document("object-lock"))
    s3.put_object_lock_configuration(Bucket="my-audit-logs", ObjectLockConfiguration=lock)
    kept = s3.get_object_lock_configuration(Bucket="my-audit-logs")["ObjectLockConfiguration"]
    assert kept["Rule"]["DefaultRetention"]["Mode"] == lock["Rule"]["DefaultRetention"]["Mode"], kept
    s3.put_bucket_lifecycle_configuration(
        Bucket="my-audit-logs", LifecycleConfiguration=json.loads(document("lifecycle"))
    )
    s3.put_bucket_policy(Bucket="my-audit-logs", Policy=document("bucket-policy"))
    # IAM rejects a policy with an unknown statement, action or resource.
    for name in ("host-policy", "reader-policy"):
        iam.create_policy(PolicyName=name, PolicyDocument=document(name))
print("S3 and IAM accept the documents")


def named(parsed, block):
    """Returns the names of the blocks of this kind. That of a resource includes its type."""
    names = set()
    for entry in parsed.get(block, []):
        for kind, body in entry.items():
            inner = [f"{kind}.{name}" for name in body] if block in ("resource", "data") else [kind]
            names |= {name.replace('"', "") for name in inner}
    return names


# Resources that each module must have. The modules are only parsed: without the providers, their
# schemas cannot be checked.
MUST = {
    "aws": {"aws_iam_policy.host", "aws_iam_policy.reader", "aws_s3_bucket_object_lock_configuration.audit", "aws_s3_bucket_public_access_block.audit"},
    "gcp": {"google_storage_bucket.audit", "google_project_iam_custom_role.host", "google_storage_bucket_iam_member.host"},
    "azure": {"azurerm_storage_container_immutability_policy.audit", "azurerm_role_definition.host", "azurerm_role_assignment.host"},
}
# Permissions and members that no role may have.
FORBIDDEN = r"objects\.(delete|update)|blobs/(write|delete|move)|buckets\.|\ballUsers\b|\ballAuthenticatedUsers\b"
for cloud, must in MUST.items():
    text = open(f"deploy/{cloud}/main.tf").read()
    parsed = hcl2.loads(text)
    resources, variables = named(parsed, "resource"), named(parsed, "variable")
    assert must <= resources, (cloud, must - resources)
    code = re.sub(r"^\s*#.*", "", text, flags=re.MULTILINE)
    used = set(re.findall(r"\bvar\.(\w+)", code))
    assert used == variables, (cloud, used ^ variables)
    references = set(re.findall(r"\b((?:aws|google|azurerm)_\w+\.(?:audit|host|reader))\b", code))
    assert references <= resources, (cloud, references - resources)
    assert not (found := re.search(FORBIDDEN, code)), (cloud, found)
    # Objects expire only after their lock.
    assert "lock_days + 1" in code and named(parsed, "output") == {"bucket_url"}, cloud
    print(f"Terraform for {cloud}: {len(resources)} resources, {len(variables)} variables")

with open("deploy/prometheus/audit.rules.yml") as file:
    rules = [rule for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]
for rule in rules:
    assert set(rule) == {"alert", "expr", "labels", "annotations"} | ({"for"} & set(rule)), rule
    assert rule["expr"].count("(") == rule["expr"].count(")"), rule
described = open("docs/OPERATIONS.md").read()
for rule in rules:
    assert re.search(r"(?:audit|functions)_\w+", rule["expr"])[0] in described, rule
print(f"{len(rules)} alerts")
