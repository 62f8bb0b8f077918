"""The rendered policies on a real store, with each role's own credentials.

The store is SeaweedFS. It gets `portable_bucket_policy`: what rests on condition keys that only AWS knows is left out
(`policy/test_policy.py` has that). Each forbidden request is sent twice: to the vault, where it must be refused, and to a bucket
whose policy grants everything, where it must not be. So each refusal is the policy's doing.
"""

import json
import os
import unittest

import attempts
from seaweedfs import ADMINISTRATOR, SeaweedFS

VAULT, OPEN = "hospital-vault", "open-vault"


def rendered():
    with open(os.environ["HOLDFAST_RENDERED"]) as file:
        return {name: output["value"] for name, output in json.load(file).items()}


def user_of(role):
    return role.replace("/", "-")


class Store(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        output = rendered()
        cls.users = [user_of(role) for role in output["roles"]]
        cls.store = SeaweedFS(cls.users)
        cls.addClassCleanup(cls.store.stop)
        everyone = [f"arn:aws:iam::000000000000:user/{user}" for user in cls.users]
        grant = {"Sid": "All", "Effect": "Allow", "Principal": {"AWS": everyone}, "Action": ["s3:*"],
                 "Resource": [f"arn:aws:s3:::{OPEN}", f"arn:aws:s3:::{OPEN}/*"]}
        cls.policies = {VAULT: output["portable_bucket_policy"],
                        OPEN: json.dumps({"Version": "2012-10-17", "Statement": [grant]})}
        cls.versions = {bucket: cls.prepare(bucket) for bucket in cls.policies}

    @classmethod
    def prepare(cls, bucket):
        """Makes a bucket with its policy and the prepared objects; returns their version ids, by key."""
        made = cls.store.client(ADMINISTRATOR, bucket).request("PUT", headers={"x-amz-bucket-object-lock-enabled": "true"})
        assert made.status == 200, made
        return cls.arrange(bucket)

    @classmethod
    def arrange(cls, bucket):
        """Sets the bucket as it has to be and puts a new version of each prepared object."""
        administrator = cls.store.client(ADMINISTRATOR, bucket)
        enabled = attempts.SUSPEND.replace("Suspended", "Enabled")
        for setting, document in [("versioning", enabled), ("object-lock", attempts.NO_DEFAULT_LOCK),
                                  ("policy", cls.policies[bucket])]:
            answer = administrator.request("PUT", query={setting: ""}, body=document.encode())
            assert answer.status in (200, 204), f"{bucket}: {setting} was refused: {answer} {answer.body}"
        versions = {}
        for key in [*attempts.PREPARED, attempts.GOVERNED]:
            headers = attempts.lock(2, "GOVERNANCE") if key == attempts.GOVERNED else {}
            versions[key] = administrator.request("PUT", key, headers=headers, body=b"sealed").headers["x-amz-version-id"]
        return versions

    def send(self, attempt, bucket):
        client = self.store.client(user_of(attempt.role), bucket, secure=attempt.secure)
        return attempt.send(client, self.versions[bucket])

    def test_1_forbidden_is_refused(self):
        before = self.everything_in(VAULT)
        for attempt in attempts.FORBIDDEN:
            with self.subTest(role=attempt.role, attempt=attempt.name):
                answer = self.send(attempt, VAULT)
                self.assertTrue(answer.refused or b"<Code>AccessDenied</Code>" in answer.body, f"{answer} {answer.body[:300]}")
        self.assertEqual(before, self.everything_in(VAULT), "something changed although it was refused")

    def test_2_permitted_works(self):
        for attempt in attempts.PERMITTED:
            with self.subTest(role=attempt.role, attempt=attempt.name):
                answer = self.send(attempt, VAULT)
                self.assertIn(answer.status, (200, 204), f"{answer} {answer.body[:300]}")

    def test_3_what_is_locked_stays_whoever_asks(self):
        key = f"{attempts.BILLING}/backup/locked/manifest"
        writer = self.store.client("writer-primary", VAULT)
        answer = writer.request("PUT", key, headers={"if-none-match": "*", **attempts.lock(90)}, body=b"sealed")
        self.assertEqual(answer.status, 200, answer.body)
        versions = {key: answer.headers["x-amz-version-id"]}
        for user, name, send in [
            ("janitor", "delete", attempts.delete(key)),
            (ADMINISTRATOR, "delete", attempts.delete(key)),
            (ADMINISTRATOR, "bypass", attempts.delete(key, x_amz_bypass_governance_retention="true")),
            ("writer-primary", "shorten", attempts.extend(key, 8)),
            ("writer-primary", "downgrade", attempts.extend(key, 120, "GOVERNANCE")),
        ]:
            with self.subTest(user=user, attempt=name):
                answer = send(self.store.client(user, VAULT), versions)
                self.assertTrue(400 <= answer.status < 500, f"{answer} {answer.body[:300]}")
        self.assertEqual(writer.request("GET", key, query={"versionId": versions[key]}).body, b"sealed")

    def test_4_each_refusal_is_the_policys_doing(self):
        for attempt in attempts.FORBIDDEN:
            self.versions[OPEN] = self.arrange(OPEN)
            with self.subTest(role=attempt.role, attempt=attempt.name):
                answer = self.send(attempt, OPEN)
                self.assertFalse(answer.refused or b"<Code>AccessDenied</Code>" in answer.body, f"{answer} {answer.body[:300]}")

    def everything_in(self, bucket):
        """Every version, delete marker and setting, as the administrator sees it."""
        administrator = self.store.client(ADMINISTRATOR, bucket)
        listing = administrator.request("GET", query={"versions": "", "max-keys": "1000"})
        settings = [administrator.request("GET", query={name: ""}) for name in
                    ["versioning", "object-lock", "lifecycle", "policy", "cors", "tagging", "encryption"]]
        lines = [part for part in listing.body.decode().split("<") if part.startswith(("Key>", "VersionId>", "ETag>"))]
        return lines, [(answer.status, answer.body if answer.status == 200 else answer.code) for answer in settings]


if __name__ == "__main__":
    unittest.main()
