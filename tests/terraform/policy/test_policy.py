"""The policies that AWS gets, judged by AWS's rules (`iam.py`). What only AWS itself can show is said in terraform/README.md."""

import json
import os
import pathlib
import unittest

import iam

ACCOUNT = "111122223333"
BUCKET = "arn:aws:s3:::hospital-vault"
ROOT = f"{BUCKET}/hospital/v1"
BILLING = f"{ROOT}/db/hospital-billing"
CLINIC = f"{ROOT}/db/clinic-records"
CHUNK = f"{BILLING}/log/0000000000000001/0000000001000000"
EVERYTHING = {"Statement": [{"Sid": "All", "Effect": "Allow", "Action": "*", "Resource": "*"}]}

with open(os.environ["HOLDFAST_RENDERED"]) as file:
    RENDERED = {name: output["value"] for name, output in json.load(file).items()}
BUCKET_POLICY = json.loads(RENDERED["vault"]["bucket_policy"])
ROLES = RENDERED["roles"]
ACTIONS = iam.load_actions(pathlib.Path(__file__).with_name("iam-actions.json"))
WRITER, STANDBY = ROLES["writer/primary"]["arn"], ROLES["writer/standby"]["arn"]
JANITOR = ROLES["janitor"]["arn"]
TERRAFORM = f"arn:aws:iam::{ACCOUNT}:role/terraform"
STRANGER = f"arn:aws:iam::{ACCOUNT}:role/somebody"


def sealed(days=90, **context):
    """What AWS knows of a PUT as Holdfast makes it. A value of None leaves a key out."""
    known = {"s3:if-none-match": "*", "s3:object-lock-mode": "COMPLIANCE",
             "s3:object-lock-remaining-retention-days": str(days - 1)}
    known.update({"s3:" + name.replace("_", "-"): value for name, value in context.items()})
    return {key: value for key, value in known.items() if value is not None}


def unlocked(**context):
    return sealed(object_lock_mode=None, object_lock_remaining_retention_days=None, **context)


# What must be refused even to an identity that was given every right: (who, action, resource, context).
DENIED = [
    (TERRAFORM, "s3:GetObject", CHUNK, {"aws:SecureTransport": "false"}),
    (WRITER, "s3:PutObject", CHUNK, {**sealed(), "s3:TlsVersion": "1.1"}),
    *[(who, "s3:DeleteObject", CHUNK, {}) for who in [WRITER, STANDBY, JANITOR, TERRAFORM, STRANGER]],
    (STRANGER, "s3:ReplicateDelete", CHUNK, {}),
    *[(who, "s3:DeleteObjectVersion", CHUNK, {}) for who in [WRITER, STANDBY, TERRAFORM, STRANGER]],
    *[(JANITOR, "s3:DeleteObjectVersion", f"{ROOT}/{place}", {}) for place in [
        "db/hospital-billing/identity", "db/hospital-billing/index/0000000000000001", "plan/hospital/1", "run/r/00000000",
        "evidence/lock-probe/1", "probe/p"]],
    *[(who, "s3:DeleteBucket", BUCKET, {}) for who in [WRITER, TERRAFORM]],
    *[(who, action, CHUNK, {}) for who in [WRITER, JANITOR, TERRAFORM]
      for action in ["s3:BypassGovernanceRetention", "s3:PutObjectLegalHold"]],
    *[(who, action, BUCKET, {}) for who in [WRITER, STANDBY, JANITOR, STRANGER] for action in [
        "s3:PutBucketVersioning", "s3:PutLifecycleConfiguration", "s3:PutBucketObjectLockConfiguration", "s3:PutBucketPolicy",
        "s3:DeleteBucketPolicy", "s3:PutEncryptionConfiguration", "s3:PutReplicationConfiguration", "s3:PutBucketAcl",
        "s3:PutBucketOwnershipControls", "s3:PutBucketPublicAccessBlock", "s3:PutIntelligentTieringConfiguration"]],
    *[(who, action, CHUNK, sealed()) for who in [TERRAFORM, STRANGER, JANITOR, ROLES["reader/people"]["arn"]]
      for action in ["s3:PutObject", "s3:PutObjectRetention"]],
    (WRITER, "s3:PutObject", CHUNK, sealed(x_amz_server_side_encryption_customer_algorithm="AES256")),
    (WRITER, "s3:PutObject", CHUNK, sealed(x_amz_server_side_encryption="aws:kms")),
    (WRITER, "s3:PutObject", CHUNK, sealed(x_amz_server_side_encryption="AES256",
                                           x_amz_server_side_encryption_aws_kms_key_id="arn:aws:kms:eu-central-1:999:key/x")),
    (WRITER, "s3:PutObject", CHUNK, sealed(x_amz_storage_class="DEEP_ARCHIVE")),
    (WRITER, "s3:PutObject", CHUNK, sealed(if_none_match=None)),
    (WRITER, "s3:PutObject", CHUNK, unlocked()),
    (WRITER, "s3:PutObject", CHUNK, sealed(object_lock_mode="GOVERNANCE")),
    (WRITER, "s3:PutObjectRetention", CHUNK, sealed(object_lock_mode="GOVERNANCE")),
    *[(WRITER, "s3:PutObject", CHUNK, sealed(days=days)) for days in [1, 6]],
    (WRITER, "s3:PutObjectRetention", CHUNK, sealed(days=1)),
    *[(STANDBY, "s3:PutObject", f"{ROOT}/{place}", sealed(days=30)) for place in [
        "db/hospital-billing/identity", "db/hospital-billing/backup/b/manifest", "db/hospital-billing/segment/1/0",
        "db/hospital-billing/index/1", "plan/hospital/1", "run/r/00000000", "evidence/lock-probe/1"]],
    (WRITER, "s3:PutObject", CHUNK, sealed(days=36500)),
    (STANDBY, "s3:PutObjectRetention", CHUNK, sealed(days=36500)),
]

# What each role may do with its own rights.
PERMITTED = [
    *[("writer/primary", action, CHUNK, sealed(days=7)) for action in ["s3:PutObject", "s3:PutObjectRetention"]],
    *[("writer/primary", "s3:PutObject", f"{ROOT}/{place}", sealed()) for place in [
        "db/hospital-billing/identity", "db/hospital-registration/backup/b/00000000", "probe/p", "evidence/lock-probe/1"]],
    ("writer/primary", "s3:PutObject", CHUNK, sealed(x_amz_server_side_encryption="AES256", x_amz_storage_class="STANDARD")),
    ("writer/primary", "s3:PutObject", f"{ROOT}/conformance/c/a", unlocked(if_none_match=None)),
    *[("writer/primary", action, CHUNK, {}) for action in ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention"]],
    *[("writer/primary", action, BUCKET, {"s3:prefix": "hospital/v1/db/hospital-billing/log/"})
      for action in ["s3:ListBucket", "s3:ListBucketVersions"]],
    *[("writer/primary", action, BUCKET, {}) for action in ["s3:GetBucketVersioning", "s3:GetBucketObjectLockConfiguration"]],
    *[("writer/standby", "s3:PutObject", f"{ROOT}/{place}", sealed()) for place in [
        "db/hospital-billing/log/2/2", "db/hospital-billing/segment/1/2", "db/hospital-billing/index/2", "plan/p/2", "run/r/1"]],
    ("writer/standby", "s3:PutObjectRetention", f"{BILLING}/backup/b/00000000", sealed(days=180)),
    *[(role, "s3:GetObject", CHUNK, {}) for role in ["writer/standby", "reader/people", "reader/billing"]],
    *[(role, "s3:ListBucketVersions", BUCKET, {"s3:prefix": "hospital/v1/db/hospital-billing/log/"})
      for role in ["writer/standby", "reader/people", "reader/billing", "auditor"]],
    *[(role, "s3:GetBucketVersioning", BUCKET, {}) for role in ["writer/standby", "reader/people", "reader/billing", "auditor"]],
    ("reader/people", "s3:ListBucket", BUCKET, {"s3:prefix": "hospital/v1/db/"}),
    ("auditor", "s3:ListBucketVersions", BUCKET, {"s3:prefix": "hospital/v1/"}),
    ("auditor", "s3:GetObjectRetention", CHUNK, {}),
    ("auditor", "s3:GetObject", f"{ROOT}/evidence/lock-probe/1", {}),
    ("auditor", "s3:GetBucketPolicy", BUCKET, {}),
    *[("janitor", "s3:DeleteObjectVersion", f"{BILLING}/{place}", {}) for place in ["log/1/1", "backup/b/1", "segment/1/1"]],
]

# What a role's own rights do not hold.
NOT_GRANTED = [
    *[("writer/primary", "s3:PutObject", f"{ROOT}/{place}", sealed()) for place in [
        "db/clinic-records/log/1/1", "db/hospital-billing/segment/1/1", "db/hospital-billing/index/1", "plan/p/1", "run/r/1",
        "db/hospital-billing-2/log/1/1", "db/hospital-billing"]],
    *[("writer/primary", action, CLINIC + "/log/1/1", {}) for action in ["s3:GetObject", "s3:GetObjectVersion"]],
    ("writer/primary", "s3:GetObject", f"{ROOT}/run/r/1", {}),
    *[("writer/primary", "s3:ListBucket", BUCKET, context) for context in [
        {}, {"s3:prefix": ""}, {"s3:prefix": "hospital/"}, {"s3:prefix": "hospital/v1/db/"}, {"s3:prefix": "hospital/v1/db/clinic-records/"}]],
    ("writer/standby", "s3:PutObject", f"{CLINIC}/log/1/1", sealed()),
    ("reader/billing", "s3:GetObject", f"{CLINIC}/log/1/1", {}),
    ("reader/billing", "s3:GetObject", f"{ROOT}/plan/p/1", {}),
    *[("auditor", action, CHUNK, {}) for action in ["s3:GetObject", "s3:GetObjectVersion"]],
    *[("janitor", action, CHUNK, {}) for action in ["s3:GetObject", "s3:GetObjectRetention", "s3:PutObject"]],
    ("janitor", "s3:ListBucketVersions", BUCKET, {"s3:prefix": "hospital/v1/db/hospital-billing/"}),
    ("janitor", "s3:DeleteObjectVersion", f"{ROOT}/run/r/1", {}),
]


def request_of(who, action, resource, context):
    return iam.Request(ROLES[who]["arn"] if who in ROLES else who, action, resource, context)


class Policies(unittest.TestCase):
    def test_denied_even_to_those_who_may_do_everything(self):
        for case in DENIED:
            with self.subTest(case=case):
                self.assertFalse(iam.decide(request_of(*case), BUCKET_POLICY, EVERYTHING))

    def test_each_denial_is_needed(self):
        """Without it, something that must be refused would be allowed."""
        for sid in [statement["Sid"] for statement in BUCKET_POLICY["Statement"]]:
            with self.subTest(sid=sid):
                less = iam.without(BUCKET_POLICY, sid)
                self.assertTrue(any(iam.decide(request_of(*case), less, EVERYTHING) for case in DENIED))

    def test_the_bucket_policy_grants_nothing(self):
        self.assertEqual({statement["Effect"] for statement in BUCKET_POLICY["Statement"]}, {"Deny"})

    def test_each_role_can_do_its_work(self):
        for case in PERMITTED:
            with self.subTest(case=case):
                self.assertTrue(iam.decide(request_of(*case), BUCKET_POLICY, json.loads(ROLES[case[0]]["policy"])))

    def test_each_role_can_do_nothing_else(self):
        for case in NOT_GRANTED:
            with self.subTest(case=case):
                self.assertFalse(iam.decide(request_of(*case), {"Statement": []}, json.loads(ROLES[case[0]]["policy"])))

    def test_each_grant_is_needed(self):
        """Without it, a role could not do all of its work."""
        for role in sorted({case[0] for case in PERMITTED}):
            policy = json.loads(ROLES[role]["policy"])
            for sid in [statement["Sid"] for statement in policy["Statement"]]:
                with self.subTest(role=role, sid=sid):
                    less, cases = iam.without(policy, sid), [case for case in PERMITTED if case[0] == role]
                    self.assertFalse(all(iam.decide(request_of(*case), BUCKET_POLICY, less) for case in cases))

    def test_administrators_can_change_settings(self):
        for action in ["s3:PutLifecycleConfiguration", "s3:PutBucketPolicy", "s3:PutEncryptionConfiguration"]:
            self.assertTrue(iam.decide(iam.Request(TERRAFORM, action, BUCKET), BUCKET_POLICY, EVERYTHING), action)

    def test_aws_knows_every_action_resource_and_key(self):
        documents = {"bucket": BUCKET_POLICY, "organisation": json.loads(RENDERED["service_control_policy"]),
                     "key": json.loads(RENDERED["key_policy"])}
        documents.update({role: json.loads(parts["policy"]) for role, parts in ROLES.items()})
        documents.update({f"trust of {role}": json.loads(parts["trust"]) for role, parts in ROLES.items()})
        for name, document in documents.items():
            self.assertEqual(iam.faults(document, ACTIONS), [], name)

    def test_faults_are_found(self):
        wrong = {"Statement": [
            {"Sid": "A", "Action": ["s3:DeleteObjects"], "Resource": CHUNK},
            {"Sid": "B", "Action": ["s3:PutObject"], "Resource": BUCKET},
            {"Sid": "C", "Action": ["s3:DeleteObject"], "Resource": CHUNK, "Condition": {"Null": {"s3:if-none-match": "true"}}},
        ]}
        self.assertEqual([fault[0] for fault in iam.faults(wrong, ACTIONS)], ["A", "B", "C"])

    def test_a_role_is_taken_by_its_subject_alone(self):
        trust = json.loads(ROLES["writer/primary"]["trust"])["Statement"]
        self.assertEqual(len(trust), 1)
        self.assertEqual(trust[0]["Principal"], {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/oidc.primary.example"})
        self.assertEqual(trust[0]["Condition"], {"StringEquals": {
            "oidc.primary.example:aud": "sts.amazonaws.com",
            "oidc.primary.example:sub": ["system:serviceaccount:hospital:holdfast"]}})
        clinic = json.loads(ROLES["writer/clinic"]["trust"])["Statement"]
        self.assertEqual([(s["Action"], s["Principal"]) for s in clinic],
                         [("sts:AssumeRole", {"AWS": ["arn:aws:iam::444455556666:role/clinic"]})])


if __name__ == "__main__":
    unittest.main()
