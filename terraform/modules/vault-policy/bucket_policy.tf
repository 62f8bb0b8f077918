# What nobody may do to the bucket, whatever else they were given. An explicit deny beats every allow.
#
# Each entry: `except` are the roles (keys of `role_arns`) that it spares, `administrators` whether it spares those too.
# `aws_only` marks those that rest on condition keys which stores other than AWS do not know; a store that takes an unknown key
# for a failed condition would refuse everything.

locals {
  # The bucket's settings: whoever changes one of them can end what the vault promises for what is stored from then on.
  settings_actions = [
    "s3:DeleteBucketPolicy", "s3:DeleteBucketWebsite", "s3:PutAccelerateConfiguration", "s3:PutBucketAcl", "s3:PutBucketCORS",
    "s3:PutBucketLogging", "s3:PutBucketNotification", "s3:PutBucketObjectLockConfiguration", "s3:PutBucketOwnershipControls",
    "s3:PutBucketPolicy", "s3:PutBucketPublicAccessBlock", "s3:PutBucketRequestPayment", "s3:PutBucketTagging",
    "s3:PutBucketVersioning", "s3:PutBucketWebsite", "s3:PutEncryptionConfiguration", "s3:PutIntelligentTieringConfiguration",
    "s3:PutInventoryConfiguration", "s3:PutLifecycleConfiguration", "s3:PutReplicationConfiguration",
  ]

  encryption_key = "s3:x-amz-server-side-encryption"

  denials = concat(local.transport_denials, local.deletion_denials, local.settings_denials, local.writing_denials,
  local.lock_denials)

  transport_denials = [
    {
      sid       = "TlsOnly", actions = ["s3:*"], resources = [local.bucket_arn, local.objects_arn]
      condition = { Bool = { "aws:SecureTransport" = "false" } }
    },
    {
      sid       = "CurrentTlsOnly", actions = ["s3:*"], resources = [local.bucket_arn, local.objects_arn], aws_only = true
      condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
    },
  ]

  deletion_denials = [
    # No delete markers either: a reader that meets one knows it for tampering.
    { sid = "NoDeleteMarkers", actions = ["s3:DeleteObject", "s3:ReplicateDelete"], resources = [local.objects_arn] },
    { sid = "OnlyTheJanitorDeletes", actions = ["s3:DeleteObjectVersion"], resources = [local.objects_arn], except = ["janitor"] },
    { sid = "SomeThingsNeverExpire", actions = ["s3:DeleteObjectVersion"], not_resources = local.expiring },
    { sid = "NoBucketDeletion", actions = ["s3:DeleteBucket"], resources = [local.bucket_arn] },
    # A legal hold has no end: it would keep the janitor away for ever.
    { sid = "NoWayAroundALock", actions = ["s3:BypassGovernanceRetention", "s3:PutObjectLegalHold"], resources = [local.objects_arn] },
  ]

  settings_denials = [
    {
      sid            = "OnlyAdministratorsChangeSettings", actions = local.settings_actions, resources = [local.bucket_arn]
      administrators = true
    },
  ]

  writing_denials = [
    {
      sid    = "OnlyWritersWrite", actions = ["s3:PutObject", "s3:PutObjectRetention"], resources = [local.objects_arn]
      except = [for key, _ in local.role_names : key if startswith(key, "writer/")]
    },
    # Whoever brings a key of its own can take it away again.
    {
      sid       = "NoCustomerKeys", actions = ["s3:PutObject"], resources = [local.objects_arn]
      condition = { Null = { "s3:x-amz-server-side-encryption-customer-algorithm" = "false" } }
    },
    {
      sid       = "NoOtherEncryption", actions = ["s3:PutObject"], resources = [local.objects_arn]
      condition = { Null = { (local.encryption_key) = "false" }, StringNotEquals = { (local.encryption_key) = local.algorithm } }
    },
    {
      sid       = "NoOtherEncryptionKey", actions = ["s3:PutObject"], resources = [local.objects_arn], aws_only = true
      condition = local.other_key
    },
    # What was put into an archive class cannot be read at once, and a seal there would stop a takeover.
    {
      sid       = "NoColdStorage", actions = ["s3:PutObject"], resources = [local.objects_arn]
      condition = { Null = { "s3:x-amz-storage-class" = "false" }, StringNotEquals = { "s3:x-amz-storage-class" = "STANDARD" } }
    },
    # Create if absent, for every object. It also shuts out multipart uploads and copies, which drop locks on some stores.
    {
      sid       = "CreateOnly", actions = ["s3:PutObject"], not_resources = local.trials, aws_only = true
      condition = { Null = { "s3:if-none-match" = "true" } }
    },
  ]

  # A key that is named must be ours; none may be named when there is none.
  other_key = merge(
    { Null = { "s3:x-amz-server-side-encryption-aws-kms-key-id" = "false" } },
    var.kms_key_arn == null ? {} : { ArnNotEquals = { "s3:x-amz-server-side-encryption-aws-kms-key-id" = var.kms_key_arn } },
  )
  algorithm = var.kms_key_arn == null ? "AES256" : "aws:kms"

  # The remaining days are whole ones, counted by the store when the request arrives: a lock of seven days has six and a bit.
  lock_denials = [
    {
      sid       = "LockedInCompliance", actions = ["s3:PutObject", "s3:PutObjectRetention"], not_resources = local.trials, aws_only = true
      condition = { StringNotEquals = { "s3:object-lock-mode" = "COMPLIANCE" } }
    },
    {
      sid       = "LockedForDays", actions = ["s3:PutObject", "s3:PutObjectRetention"], not_resources = local.trials, aws_only = true
      condition = { NumericLessThan = { (local.remaining_days) = tostring(var.chunk_retention_days - 1) } }
    },
    {
      sid       = "LastingThingsAreLockedForLong", actions = ["s3:PutObject"], resources = local.lasting, aws_only = true
      condition = { NumericLessThan = { (local.remaining_days) = tostring(var.retention_days - 1) } }
    },
    {
      sid       = "NotLockedForEver", actions = ["s3:PutObject", "s3:PutObjectRetention"], resources = [local.objects_arn], aws_only = true
      condition = { NumericGreaterThan = { (local.remaining_days) = tostring(var.max_retention_days) } }
    },
  ]
  remaining_days = "s3:object-lock-remaining-retention-days"

  # AWS names those that a statement spares by condition. A role that is made anew under its name is spared again.
  bucket_statements = [
    for denial in local.denials : {
      for key, value in {
        Sid         = denial.sid
        Effect      = "Deny"
        Principal   = "*"
        Action      = denial.actions
        Resource    = try(denial.resources, null)
        NotResource = try(denial.not_resources, null)
        Condition = merge(try(denial.condition, {}), length(local.spared_arns[denial.sid]) == 0 ? {} : {
          ArnNotEquals = { "aws:PrincipalArn" = local.spared_arns[denial.sid] }
        })
      } : key => value if value != null && value != {}
    }
  ]

  spared_arns = {
    for denial in local.denials : denial.sid => sort(concat(
      [for key in try(denial.except, []) : local.role_arns[key] if contains(keys(local.role_arns), key)],
      try(denial.administrators, false) ? tolist(var.administrators) : [],
    ))
  }

  bucket_policy = jsonencode({ Version = "2012-10-17", Statement = local.bucket_statements })
}
