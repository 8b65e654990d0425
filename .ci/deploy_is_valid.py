"""Gives the documents in deploy/aws to an S3 and IAM in this process (moto), and reads what is in other languages than JSON."""

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
    # IAM refuses a policy with a statement, an action or a resource that it does not understand.
    for name in ("host-policy", "reader-policy"):
        iam.create_policy(PolicyName=name, PolicyDocument=document(name))
print("S3 and IAM take the documents")

with open("deploy/aws/main.tf") as file:
    resources = hcl2.load(file)["resource"]
kinds = sorted(kind.strip('"') for resource in resources for kind in resource)
assert kinds.count("aws_iam_policy") == 2 and "aws_s3_bucket_object_lock_configuration" in kinds, kinds
print(f"Terraform: {len(kinds)} resources")

with open("deploy/prometheus/audit.rules.yml") as file:
    rules = [rule for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]
for rule in rules:
    assert set(rule) == {"alert", "expr", "labels", "annotations"} | ({"for"} & set(rule)), rule
    assert rule["expr"].count("(") == rule["expr"].count(")"), rule
described = open("docs/OPERATIONS.md").read()
for rule in rules:
    assert re.search(r"audit_\w+", rule["expr"])[0] in described, rule
print(f"{len(rules)} alerts")
