# What the bucket's policy and settings say. Whether that refuses and permits what it should is tried in tests/terraform.

variables {
  bucket     = "hospital-vault"
  prefix     = "hospital"
  account_id = "111122223333"
  sites = {
    primary = { protects = ["billing"], trust = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] } }
    standby = { recovers = ["billing"], trust = { issuer = "oidc.standby.example", service_accounts = ["hospital/holdfast"] } }
  }
  janitor        = { issuer = "oidc.elsewhere.example", service_accounts = ["janitor/janitor"] }
  administrators = ["arn:aws:iam::111122223333:role/terraform"]
}

run "denials" {
  command = plan

  assert {
    condition     = alltrue([for s in jsondecode(output.vault.bucket_policy).Statement : s.Effect == "Deny" && s.Principal == "*"])
    error_message = "The bucket's policy grants nothing, and denies to everybody."
  }

  assert {
    condition = toset([for s in jsondecode(output.vault.bucket_policy).Statement : s.Sid]) == toset([
      "TlsOnly", "CurrentTlsOnly", "NoDeleteMarkers", "OnlyTheJanitorDeletes", "SomeThingsNeverExpire", "NoBucketDeletion",
      "NoWayAroundALock", "OnlyAdministratorsChangeSettings", "OnlyWritersWrite", "NoCustomerKeys", "NoOtherEncryption",
      "NoOtherEncryptionKey", "NoColdStorage", "CreateOnly", "LockedInCompliance", "LockedForDays",
      "LastingThingsAreLockedForLong", "NotLockedForEver",
    ])
    error_message = "A denial came or went: say so here, in tests/terraform/policy and in the README."
  }

  assert {
    condition = {
      for s in jsondecode(output.vault.bucket_policy).Statement : s.Sid => s.Condition.ArnNotEquals["aws:PrincipalArn"]
      if can(s.Condition.ArnNotEquals["aws:PrincipalArn"])
      } == {
      OnlyTheJanitorDeletes            = ["arn:aws:iam::111122223333:role/holdfast-janitor"]
      OnlyAdministratorsChangeSettings = ["arn:aws:iam::111122223333:role/terraform"]
      OnlyWritersWrite = [
        "arn:aws:iam::111122223333:role/holdfast-primary-writer", "arn:aws:iam::111122223333:role/holdfast-standby-writer",
      ]
    }
    error_message = "These three denials spare somebody, and no other does."
  }

  assert {
    condition = alltrue([
      for action in [
        "s3:PutLifecycleConfiguration", "s3:PutBucketVersioning", "s3:PutBucketObjectLockConfiguration", "s3:PutBucketPolicy",
        "s3:DeleteBucketPolicy", "s3:PutReplicationConfiguration", "s3:PutEncryptionConfiguration",
      ] :
      contains(one([for s in jsondecode(output.vault.bucket_policy).Statement : s.Action if s.Sid == "OnlyAdministratorsChangeSettings"]), action)
    ])
    error_message = "Lifecycle, versioning, lock, policy, replication and encryption are for administrators alone."
  }

  assert {
    condition = {
      for s in jsondecode(output.vault.bucket_policy).Statement : s.Sid => s.Condition[keys(s.Condition)[0]]["s3:object-lock-remaining-retention-days"]
      if can(s.Condition[keys(s.Condition)[0]]["s3:object-lock-remaining-retention-days"])
    } == { LockedForDays = "6", LastingThingsAreLockedForLong = "89", NotLockedForEver = "400" }
    error_message = "The days that a lock must have are one less than the retention, because the store counts whole ones."
  }
}

run "without_a_janitor_nobody_deletes" {
  command = plan

  variables {
    janitor = null
  }

  assert {
    condition     = !can(one([for s in jsondecode(output.vault.bucket_policy).Statement : s if s.Sid == "OnlyTheJanitorDeletes"]).Condition)
    error_message = "Without a janitor the denial of deletion spares nobody."
  }
}

run "settings" {
  command = plan

  assert {
    condition     = output.vault.settings.versioning == "Enabled"
    error_message = "Versioning is on."
  }

  assert {
    condition     = output.vault.settings.object_lock == { mode = "COMPLIANCE", days = 7 }
    error_message = "What comes without a lock is locked in COMPLIANCE for as long as a chunk."
  }

  assert {
    condition     = alltrue([for rule in output.vault.settings.lifecycle_rules : keys(rule) == ["abort_unfinished_uploads_days", "id"]])
    error_message = "No lifecycle rule may do anything but abort unfinished uploads."
  }

  assert {
    condition     = alltrue(values(output.vault.settings.public_access)) && length(output.vault.settings.public_access) == 4
    error_message = "All four kinds of public access are blocked."
  }

  assert {
    condition     = output.vault.settings.ownership == "BucketOwnerEnforced"
    error_message = "No object has an ACL of its own."
  }

  assert {
    condition     = jsonencode(output.vault.settings.encryption) == jsonencode({ algorithm = "AES256", key_arn = null, blocked = ["SSE-C"] })
    error_message = "KMS is off by default, and customers' keys are blocked."
  }
}

run "kms" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:key/0f0f0f0f-0000-0000-0000-000000000000"
  }

  assert {
    condition     = output.vault.settings.encryption.algorithm == "aws:kms" && output.vault.settings.encryption.key_arn == var.kms_key_arn
    error_message = "With a key, the bucket encrypts with it."
  }

  assert {
    condition = [
      for s in jsondecode(output.vault.bucket_policy).Statement : s.Condition.ArnNotEquals["s3:x-amz-server-side-encryption-aws-kms-key-id"]
      if s.Sid == "NoOtherEncryptionKey"
    ] == [var.kms_key_arn]
    error_message = "No other key may be named."
  }

  assert {
    condition = {
      for key, role in output.roles : key => one([for s in jsondecode(role.policy).Statement : s.Action if s.Sid == "UseKey"])
      } == {
      "writer/primary" = ["kms:Decrypt", "kms:GenerateDataKey"]
      "writer/standby" = ["kms:Decrypt", "kms:GenerateDataKey"]
      janitor          = null
    }
    error_message = "Writers use the key both ways, the janitor not at all."
  }

  assert {
    condition = contains(one([
      for s in jsondecode(output.key_policy).Statement : s.Action if s.Effect == "Deny" && s.Principal == "*"
    ]), "kms:ScheduleKeyDeletion")
    error_message = "Nobody may end the key."
  }
}

run "the_organisation_holds_the_root_user" {
  command = plan

  assert {
    condition = alltrue([
      for action in ["s3:DeleteBucketPolicy", "s3:PutBucketPolicy", "s3:PutLifecycleConfiguration", "s3:PutAccountPublicAccessBlock"] :
      contains(one([for s in jsondecode(output.service_control_policy).Statement : s.Action if s.Sid == "OnlyAdministratorsChangeSettings"]), action)
    ])
    error_message = "Settings are for administrators, also against the root user."
  }

  assert {
    condition = contains(one([
      for s in jsondecode(output.service_control_policy).Statement : s.Action if s.Sid == "NobodyEndsTheVault"
    ]), "organizations:LeaveOrganization")
    error_message = "The account cannot leave the organisation that holds it."
  }

  assert {
    condition     = length(output.service_control_policy) <= 5120
    error_message = "An organisation takes policies of at most 5120 bytes."
  }
}

run "a_long_retention" {
  command = plan

  variables {
    retention_days       = 365
    chunk_retention_days = 30
    max_retention_days   = 3650
  }

  assert {
    condition     = output.vault.settings.object_lock.days == 30
    error_message = "The default retention is that of chunks."
  }

  assert {
    condition = {
      for s in jsondecode(output.vault.bucket_policy).Statement : s.Sid => s.Condition[keys(s.Condition)[0]]["s3:object-lock-remaining-retention-days"]
      if can(s.Condition[keys(s.Condition)[0]]["s3:object-lock-remaining-retention-days"])
    } == { LockedForDays = "29", LastingThingsAreLockedForLong = "364", NotLockedForEver = "3650" }
    error_message = "The policy follows the retention."
  }
}
