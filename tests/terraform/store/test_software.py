"""Holdfast itself with these rights: its own lock probe, run with each writer's credentials, finds the vault sound.

Needs HOLDFAST_BINARY.
"""

import json
import os
import subprocess
import unittest

import attempts
from seaweedfs import ADMINISTRATOR, SeaweedFS, secret_of
from test_store import VAULT, rendered, user_of

# Another vault in the same bucket.
OTHER = "laboratory/"
# What the store takes although it does no harm: a newer version, which readers ignore (on AWS `CreateOnly` refuses it), and an object
# without a lock, which gets the bucket's own (`LockedInCompliance`). The last is a question, not an attempt.
HARMLESS_HERE = {"overwrite", "put-unlocked", "expiring-rules"}


class Software(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        output = rendered()
        cls.store = SeaweedFS([user_of(role) for role in output["roles"]])
        cls.addClassCleanup(cls.store.stop)
        administrator = cls.store.client(ADMINISTRATOR, VAULT)
        administrator.request("PUT", headers={"x-amz-bucket-object-lock-enabled": "true"})
        administrator.request("PUT", f"{OTHER}v1/db/samples/identity", body=b"sealed")
        lock = output["vault"]["settings"]["object_lock"]
        rule = f"<Rule><DefaultRetention><Mode>{lock['mode']}</Mode><Days>{lock['days']}</Days></DefaultRetention></Rule>"
        settings = {"object-lock": attempts.NO_DEFAULT_LOCK.replace("</ObjectLockConfiguration>", f"{rule}</ObjectLockConfiguration>"),
                    "policy": output["portable_bucket_policy"]}
        for setting, document in settings.items():
            answer = administrator.request("PUT", query={setting: ""}, body=document.encode())
            assert answer.status in (200, 204), f"{setting}: {answer} {answer.body}"

    def holdfast(self, role, *arguments):
        user = user_of(role)
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": secret_of(user),
                       "AWS_CA_BUNDLE": self.store.ca_file}
        endpoint = f"https://localhost:{self.store.ports['s3.https']}"
        place = ["--bucket", VAULT, "--prefix", "hospital", "--endpoint", endpoint, "-o", "json"]
        done = subprocess.run([os.environ["HOLDFAST_BINARY"], "vault", *arguments, *place], env=environment,
                              capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    def test_the_lock_probe_finds_no_harm(self):
        for role in ["writer/primary", "writer/standby"]:
            with self.subTest(role=role):
                status, out, err = self.holdfast(role, "check", "--other-prefix", OTHER)
                self.assertEqual(status, 0, out + err)
                outcomes = {tried["attempt"]: tried["outcome"] for tried in json.loads(out)["attempts"]}
                self.assertGreaterEqual(len(outcomes), 12, outcomes)
                harmless = {attempt for attempt, outcome in outcomes.items() if outcome == "harmless"}
                refused = {attempt for attempt, outcome in outcomes.items() if outcome == "refused"}
                self.assertEqual((harmless, refused), (HARMLESS_HERE, outcomes.keys() - HARMLESS_HERE), out)

    def test_a_reader_looks_into_the_vault_and_a_writer_into_its_own_part(self):
        for role, said in [("reader/people", "there is no database in this vault"), ("writer/primary", "AccessDenied")]:
            with self.subTest(role=role):
                status, out, err = self.holdfast(role, "ls")
                self.assertNotEqual(status, 0)
                self.assertIn(said, out + err)

    def test_an_auditor_and_a_janitor_cannot_write(self):
        for role in ["auditor", "janitor", "reader/people"]:
            with self.subTest(role=role):
                status, out, err = self.holdfast(role, "check")
                self.assertNotEqual(status, 0, out)
                self.assertIn("AccessDenied", out + err)


if __name__ == "__main__":
    unittest.main()
