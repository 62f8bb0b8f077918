# What each role may do, and nothing else. The bucket's denials stand above it.

locals {
  # Folders of a database as a writer's rights name them: whoever recovers it writes all of them.
  written_folders = {
    for name, site in var.sites : name => concat(
      flatten([for database in setsubtract(site.protects, site.recovers) : [for folder in local.protecting : "db/${database}/${folder}"]]),
      [for database in site.recovers : "db/${database}/*"],
      length(site.recovers) > 0 ? ["plan/*", "run/*"] : [],
      ["probe/*", "evidence/*", "conformance/*"],
    )
  }
  read_folders = {
    for name, site in var.sites : name => concat(
      [for database in setunion(site.protects, site.recovers) : "db/${database}/*"],
      length(site.recovers) > 0 ? ["plan/*", "run/*"] : [],
      ["probe/*", "evidence/*", "conformance/*"],
    )
  }
  reader_folders = {
    for name, reader in var.readers : name =>
    length(reader.databases) == 0 ? ["*"] : [for database in reader.databases : "db/${database}/*"]
  }

  # Settings that tell whether the bucket can hold a vault; every role may ask. The answer also tells the store's time.
  asked_settings = ["s3:GetBucketObjectLockConfiguration", "s3:GetBucketVersioning", "s3:GetLifecycleConfiguration"]
  audited_settings = concat(local.asked_settings, [
    "s3:GetBucketAcl", "s3:GetBucketLogging", "s3:GetBucketOwnershipControls", "s3:GetBucketPolicy", "s3:GetBucketPolicyStatus",
    "s3:GetBucketPublicAccessBlock", "s3:GetEncryptionConfiguration", "s3:GetReplicationConfiguration",
  ])

  writer_statements = {
    for name, _ in var.sites : "writer/${name}" => [
      # A PUT that brings its lock needs the right to set one. In COMPLIANCE mode nobody can shorten it.
      {
        Sid      = "Create", Effect = "Allow", Action = ["s3:PutObject", "s3:PutObjectRetention"]
        Resource = [for folder in local.written_folders[name] : "${local.root_arn}/${folder}"]
      },
      {
        Sid      = "ReadBack", Effect = "Allow", Action = ["s3:GetObject", "s3:GetObjectRetention", "s3:GetObjectVersion"]
        Resource = [for folder in local.read_folders[name] : "${local.root_arn}/${folder}"]
      },
      {
        Sid       = "List", Effect = "Allow", Action = ["s3:ListBucket", "s3:ListBucketVersions"], Resource = [local.bucket_arn]
        Condition = { StringLike = { "s3:prefix" = [for folder in local.read_folders[name] : "${local.root}/${folder}"] } }
      },
      { Sid = "AskSettings", Effect = "Allow", Action = local.asked_settings, Resource = [local.bucket_arn] },
    ]
  }

  reader_statements = {
    for name, _ in var.readers : "reader/${name}" => [
      {
        Sid      = "Read", Effect = "Allow", Action = ["s3:GetObject", "s3:GetObjectRetention", "s3:GetObjectVersion"]
        Resource = [for folder in local.reader_folders[name] : "${local.root_arn}/${folder}"]
      },
      {
        Sid       = "List", Effect = "Allow", Action = ["s3:ListBucket", "s3:ListBucketVersions"], Resource = [local.bucket_arn]
        Condition = { StringLike = { "s3:prefix" = [for folder in local.reader_folders[name] : "${local.root}/${folder}"] } }
      },
      { Sid = "AskSettings", Effect = "Allow", Action = local.asked_settings, Resource = [local.bucket_arn] },
    ]
  }

  # Names, versions, locks and settings; of the bodies, evidence and journals alone, which hold no patient data.
  auditor_statements = {
    auditor = [
      { Sid = "SeeLocks", Effect = "Allow", Action = ["s3:GetObjectRetention", "s3:GetObjectLegalHold"], Resource = ["${local.root_arn}/*"] },
      {
        Sid      = "ReadEvidence", Effect = "Allow", Action = ["s3:GetObject", "s3:GetObjectVersion"]
        Resource = ["${local.root_arn}/evidence/*", "${local.root_arn}/run/*"]
      },
      {
        Sid       = "List", Effect = "Allow", Action = ["s3:ListBucket", "s3:ListBucketVersions"], Resource = [local.bucket_arn]
        Condition = { StringLike = { "s3:prefix" = ["${local.root}/*"] } }
      },
      { Sid = "AskSettings", Effect = "Allow", Action = local.audited_settings, Resource = [local.bucket_arn] },
    ]
  }

  # Deletes by version id and nothing else. What to delete is found with a reader's credentials.
  janitor_statements = {
    janitor = [{ Sid = "DeleteExpired", Effect = "Allow", Action = ["s3:DeleteObjectVersion"], Resource = local.expiring }]
  }

  store_statements = {
    for key, statements in merge(local.writer_statements, local.reader_statements, local.auditor_statements, local.janitor_statements) :
    key => statements if contains(keys(local.role_names), key)
  }

  # With a KMS key of one's own: what a role needs of it to put or get.
  key_actions = {
    for key, _ in local.role_names : key =>
    startswith(key, "writer/") ? ["kms:Decrypt", "kms:GenerateDataKey"] : key == "janitor" ? [] : ["kms:Decrypt"]
  }
  key_statements = {
    for key, actions in local.key_actions : key =>
    [for arn in compact([var.kms_key_arn]) : { Sid = "UseKey", Effect = "Allow", Action = actions, Resource = [arn] } if length(actions) > 0]
  }

  role_policies = {
    for key, statements in local.store_statements : key =>
    jsonencode({ Version = "2012-10-17", Statement = concat(statements, local.key_statements[key]) })
  }
}
