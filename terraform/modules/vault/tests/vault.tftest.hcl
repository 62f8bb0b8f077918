# The bucket gets the settings that were decided. The provider is mocked: nothing reaches AWS.

mock_provider "aws" {}

run "decision" {
  module {
    source = "../vault-policy"
  }

  variables {
    bucket         = "hospital-vault"
    account_id     = "111122223333"
    sites          = { primary = { protects = ["billing"], trust = { user = true } } }
    administrators = ["arn:aws:iam::111122223333:role/terraform"]
  }
}

run "bucket" {
  command = plan

  variables {
    vault = run.decision.vault
  }

  assert {
    condition     = aws_s3_bucket.vault.bucket == "hospital-vault" && aws_s3_bucket.vault.object_lock_enabled && !aws_s3_bucket.vault.force_destroy
    error_message = "The bucket is made with Object Lock, and is never emptied to be destroyed."
  }

  assert {
    condition     = aws_s3_bucket_versioning.vault.versioning_configuration[0].status == "Enabled"
    error_message = "Versioning is on."
  }

  assert {
    condition     = aws_s3_bucket_object_lock_configuration.vault.rule[0].default_retention[0].mode == "COMPLIANCE" && aws_s3_bucket_object_lock_configuration.vault.rule[0].default_retention[0].days == 7
    error_message = "What comes without a lock gets one."
  }

  assert {
    condition     = aws_s3_bucket_ownership_controls.vault.rule[0].object_ownership == "BucketOwnerEnforced"
    error_message = "ACLs are off."
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.vault.block_public_acls, aws_s3_bucket_public_access_block.vault.block_public_policy,
      aws_s3_bucket_public_access_block.vault.ignore_public_acls, aws_s3_bucket_public_access_block.vault.restrict_public_buckets,
      aws_s3_account_public_access_block.vault[0].block_public_acls, aws_s3_account_public_access_block.vault[0].block_public_policy,
      aws_s3_account_public_access_block.vault[0].ignore_public_acls, aws_s3_account_public_access_block.vault[0].restrict_public_buckets,
    ])
    error_message = "Public access is blocked, for the bucket and for the account."
  }

  assert {
    condition = (
      aws_s3_bucket_server_side_encryption_configuration.vault.rule[0].apply_server_side_encryption_by_default[0].sse_algorithm == "AES256" &&
      contains(aws_s3_bucket_server_side_encryption_configuration.vault.rule[0].blocked_encryption_types, "SSE-C")
    )
    error_message = "S3's own keys by default; customers' keys are blocked by the bucket as well."
  }

  assert {
    condition = length(aws_s3_bucket_lifecycle_configuration.vault.rule) == 1 && alltrue([
      for rule in aws_s3_bucket_lifecycle_configuration.vault.rule :
      length(rule.abort_incomplete_multipart_upload) == 1 && length(rule.expiration) == 0 && length(rule.transition) == 0 &&
      length(rule.noncurrent_version_expiration) == 0 && length(rule.noncurrent_version_transition) == 0
    ])
    error_message = "The one lifecycle rule aborts unfinished uploads; nothing expires or moves by rule."
  }

  assert {
    condition     = aws_s3_bucket_policy.vault.policy == run.decision.vault.bucket_policy
    error_message = "The bucket's policy is the one that was decided."
  }

  assert {
    condition     = length(aws_s3_bucket_logging.vault) == 0 && length(aws_cloudtrail.vault) == 0
    error_message = "Logs cost money and need a bucket: off unless one is named."
  }
}

run "logs" {
  command = plan

  variables {
    vault             = run.decision.vault
    access_log_bucket = "access-logs"
    trail_bucket      = "trail"
  }

  assert {
    condition     = aws_s3_bucket_logging.vault[0].target_bucket == "access-logs"
    error_message = "Access logs go where they are told to."
  }

  assert {
    condition     = aws_cloudtrail.vault[0].s3_bucket_name == "trail" && aws_cloudtrail.vault[0].enable_log_file_validation
    error_message = "The trail goes where it is told to, and can be validated."
  }

  assert {
    condition = contains([
      for selector in aws_cloudtrail.vault[0].advanced_event_selector[1].field_selector : selector.starts_with[0] if selector.field == "resources.ARN"
    ], "arn:aws:s3:::hospital-vault/")
    error_message = "The trail has the events of the vault's objects."
  }

  assert {
    condition     = contains([for selector in aws_cloudtrail.vault[0].advanced_event_selector[1].field_selector : selector.field], "readOnly")
    error_message = "Reads are left out of the trail by default."
  }
}

run "reads_in_the_trail" {
  command = plan

  variables {
    vault        = run.decision.vault
    trail_bucket = "trail"
    trail_reads  = true
  }

  assert {
    condition     = !contains([for selector in aws_cloudtrail.vault[0].advanced_event_selector[1].field_selector : selector.field], "readOnly")
    error_message = "Reads are in the trail when asked for."
  }
}
