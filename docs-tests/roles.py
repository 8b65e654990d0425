"""Third-party implementations of STS, IAM and S3 (moto) grant a role, and refuse it.

Usage: roles.py AUDIT SERVICE. `audit doctor` assumes a role in the account of the bucket's owner,
with the role's IAM permissions and checked signatures. STS records each request. If STS refuses the
role, the command says so, and if the role may not write, it names the bucket's refusal.

Then the web service delivers a tenant's records by the role while sessions expire: they are renewed
before, one that is revoked is replaced, and every record arrives once. Sessions are shorter than
real ones (15 minutes at least), since the client goes by the end that STS states.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from urllib.parse import quote, unquote

import boto3
from moto.iam import access_control
from moto.s3.exceptions import S3ClientError
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
from moto.sts.models import STSBackend, sts_backends

ACCOUNT = "123456789012"
# The service asks for an hour. It renews a session after two thirds of its time.
SESSION_SECONDS = 6
BUCKET = "customers-audit-logs"


def policy(*actions):
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class Expiring(access_control.AssumedRoleAccessKey):
    """moto keeps the end of a session and does not check it."""

    def __init__(self, **request):
        super().__init__(**request)
        sessions = sts_backends[ACCOUNT]["aws"].assumed_roles
        session = next(s for s in sessions if s.access_key_id == self._access_key_id)
        if time.monotonic() >= session.ends:
            raise S3ClientError("ExpiredToken", "The provided token has expired.")
        session.requests += 1


class Encoded(access_control.S3IAMRequest):
    """moto checks the signature of the path as decoded, S3 that of the path as encoded. Without
    this, it refuses keys with `=`, also from boto3.
    """

    def _create_aws_request(self):
        path, mark, query = self._path.partition("?")
        self._path = quote(unquote(path), safe="/~") + mark + query
        return super()._create_aws_request()


def shorten_sessions():
    """Lets sessions end early, and refuses requests afterwards."""
    given = STSBackend.assume_role

    def assume_role(self, **request):
        assert request["duration"] == 3600, request
        session = given(self, **request | {"duration": SESSION_SECONDS})
        session.begun = time.monotonic()
        session.ends = session.begun + SESSION_SECONDS
        session.requests = 0
        return session

    STSBackend.assume_role = assume_role
    access_control.AssumedRoleAccessKey = Expiring
    access_control.S3IAMRequest = Encoded


def deliver(service, environment, role):
    """A tenant's records arrive by a role, across the ends of sessions."""
    shorten_sessions()
    sessions = sts_backends[ACCOUNT]["aws"].assumed_roles
    sessions.clear()
    with tempfile.TemporaryDirectory() as directory:
        query = f"region=us-east-1&assume_role_arn={role}&assume_role_external_id=customer-7"
        with open(f"{directory}/routes.toml", "w") as file:
            file.write(f'[[route]]\nname = "acme"\nbucket = "s3://{BUCKET}/acme?{query}"\n')
        command = [service, "--listen=127.0.0.1:0", "--operators-listen=none", "--evidence=off"]
        command += [f"--data-dir={directory}/data", f"--routes={directory}/routes.toml"]
        command += ["--trusted-proxies=127.0.0.1", "--cut-after-ms=50", "--compression=none"]
        command += ["--close-timeout-ms=60000"]
        host = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            url = next(line for line in host.stdout if line.startswith("listening on "))
            url = url.removeprefix("listening on ").strip() + "/documents/plan"
            changes = 0

            def change():
                nonlocal changes
                body = json.dumps({"title": "Plan", "text": str(changes)}).encode()
                headers = {"X-Tenant": "acme", "X-User": "ada", "X-Forwarded-For": "192.0.2.1"}
                headers["Content-Type"] = "application/json"
                request = urllib.request.Request(url, body, headers, method="PUT")
                with urllib.request.urlopen(request, timeout=60) as response:
                    changes = json.load(response)["revision"]

            def change_until(is_so):
                patience = time.monotonic() + 300
                while not is_so():
                    assert time.monotonic() < patience, [vars(session) for session in sessions]
                    change()
                    time.sleep(0.1)

            # Each of these was given while the one before was valid, and both were used.
            def renewed():
                pairs = zip(sessions, sessions[1:])
                return sum(a.requests > 0 and b.requests > 0 and b.begun < a.ends for a, b in pairs)

            change_until(lambda: renewed() >= 2)
            told = f"{len(sessions)} sessions, {renewed()} of them renewed before their end"
            # The owner revokes all sessions.
            sessions.clear()
            change_until(lambda: sum(session.requests for session in sessions) >= 2)
            host.terminate()
            assert host.wait(timeout=120) == 0
        finally:
            host.kill()
            host.wait()
    assert all(
        (session.role_arn, session.external_id, session.session_name)
        == (role, "customer-7", "audit-acme")
        for session in sessions
    ), [vars(session) for session in sessions]
    records = {}
    for name, key in s3_backends[ACCOUNT]["aws"].buckets[BUCKET].keys.items():
        if name.startswith("acme/dt="):
            stream, first = name.rsplit("/", 1)[1].removesuffix(".ndjson").split("-")
            for number, line in enumerate(key.value.splitlines(), int(first)):
                assert (stream, number) not in records, (stream, number)
                records[stream, number] = json.loads(line)["to"]
    assert sorted(records.values()) == list(range(1, changes + 1)), (changes, records)
    assert [number for _, number in sorted(records)] == list(range(changes)), records
    print(f"{changes} records arrived once each by a role: {told}, and all then revoked")


def main(audit, service):
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

    def environment(keys):
        others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return others | {
            "AWS_ACCESS_KEY_ID": keys[0],
            "AWS_SECRET_ACCESS_KEY": keys[1],
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": endpoint,
            "AWS_ENDPOINT_URL_STS": endpoint,
            "AWS_ALLOW_HTTP": "true",
        }

    def doctor(keys, query):
        url = f"s3://{BUCKET}/audit?{query}"
        command = [audit, "doctor", url, "--color", "never"]
        done = subprocess.run(
            command, env=environment(keys), capture_output=True, text=True, timeout=120
        )
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
    deliver(service, environment(host_keys), writer)
    server.stop()


main(*sys.argv[1:])
