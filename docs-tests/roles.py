"""Third-party implementations of STS, IAM and S3 (moto) grant a role, and refuse it.

Usage: roles.py AUDIT. `audit doctor` assumes a role in the account of the bucket's owner, with the
role's IAM permissions and checked signatures. STS records each request. If STS refuses the role,
the command says so, and if the role may not write, it names the bucket's refusal.
"""

import json
import os
import subprocess
import sys
import urllib.request

import boto3
from moto.server import ThreadedMotoServer
from moto.sts.models import sts_backends

ACCOUNT = "123456789012"
BUCKET = "customers-audit-logs"


def policy(*actions):
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def main(audit):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"

    def client(service):
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        return boto3.client(service, endpoint_url=endpoint, region_name="us-east-1", **keys)

    s3, iam = client("s3"), client("iam")
    s3.create_bucket(Bucket=BUCKET)

    def user(name, *actions):
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy(*actions))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    def role(name, *actions):
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)
        iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=policy(*actions))
        return made["Role"]["Arn"]

    # The host itself has no permission for the bucket, but its role does.
    host_keys = user("host", "sts:AssumeRole")
    stranger = user("stranger", "s3:ListAllMyBuckets")
    writer = role("audit", "s3:*")
    idle = role("idle", "s3:ListAllMyBuckets")
    # From here on, moto checks signatures and permissions.
    asks = {"Content-Type": "text/plain"}
    reset = f"{endpoint}/moto-api/reset-auth"
    urllib.request.urlopen(urllib.request.Request(reset, b"0", asks, method="POST")).close()

    def doctor(keys, query):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("AWS_")
        }
        environment |= {
            "AWS_ACCESS_KEY_ID": keys[0],
            "AWS_SECRET_ACCESS_KEY": keys[1],
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": endpoint,
            "AWS_ENDPOINT_URL_STS": endpoint,
            "AWS_ALLOW_HTTP": "true",
        }
        url = f"s3://{BUCKET}/audit?{query}"
        command = [audit, "doctor", url, "--color", "never"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        said = done.stdout + done.stderr
        assert keys[1] not in said, said
        return said

    external = "&assume_role_external_id=customer-7&assume_role_session_name=happy-animal-123"
    said = doctor(host_keys, f"assume_role_arn={writer}{external}")
    assert "what was written can be read" in said, said
    assert "STS" not in said and "AccessDenied" not in said, said
    asked = sts_backends[ACCOUNT]["aws"].assumed_roles
    assert asked and all(
        (role.role_arn, role.external_id, role.session_name)
        == (writer, "customer-7", "happy-animal-123")
        for role in asked
    ), [vars(role) for role in asked]
    # Without the role, the same credentials have no permissions.
    said = doctor(host_keys, "region=us-east-1")
    assert "AccessDenied" in said and "STS" not in said, said

    said = doctor(stranger, f"assume_role_arn={writer}")
    expected = f"STS, asked for the role {writer} without an external id: status 403 AccessDenied"
    assert expected in said and "none was given" in said, said

    said = doctor(host_keys, f"assume_role_arn={idle}")
    assert "bucket: status 403 AccessDenied" in said and "STS" not in said, said
    print("a role is given by STS, and refusals of STS and of the bucket are told apart")
    server.stop()


main(sys.argv[1])
