# The vault's bucket. What its settings are is decided in `modules/vault-policy`; this applies them.

locals {
  settings = var.vault.settings
}

resource "aws_s3_bucket" "vault" {
  bucket              = var.vault.bucket
  object_lock_enabled = true
  force_destroy       = false
  tags                = var.tags

  lifecycle {
    # A plan that would replace the bucket fails instead. A destroy of everything fails too: that is meant.
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "vault" {
  bucket = aws_s3_bucket.vault.id

  versioning_configuration {
    status = local.settings.versioning
  }
}

resource "aws_s3_bucket_object_lock_configuration" "vault" {
  bucket              = aws_s3_bucket.vault.id
  object_lock_enabled = "Enabled"

  rule {
    default_retention {
      mode = local.settings.object_lock.mode
      days = local.settings.object_lock.days
    }
  }

  depends_on = [aws_s3_bucket_versioning.vault]
}

resource "aws_s3_bucket_ownership_controls" "vault" {
  bucket = aws_s3_bucket.vault.id

  rule {
    object_ownership = local.settings.ownership
  }
}

resource "aws_s3_bucket_public_access_block" "vault" {
  bucket                  = aws_s3_bucket.vault.id
  block_public_acls       = local.settings.public_access.block_public_acls
  block_public_policy     = local.settings.public_access.block_public_policy
  ignore_public_acls      = local.settings.public_access.ignore_public_acls
  restrict_public_buckets = local.settings.public_access.restrict_public_buckets
}

resource "aws_s3_account_public_access_block" "vault" {
  count = var.block_public_access_of_account ? 1 : 0

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "vault" {
  bucket = aws_s3_bucket.vault.id

  rule {
    bucket_key_enabled       = local.settings.encryption.key_arn != null
    blocked_encryption_types = local.settings.encryption.blocked

    apply_server_side_encryption_by_default {
      sse_algorithm     = local.settings.encryption.algorithm
      kms_master_key_id = local.settings.encryption.key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "vault" {
  bucket = aws_s3_bucket.vault.id

  dynamic "rule" {
    for_each = local.settings.lifecycle_rules

    content {
      id     = rule.value.id
      status = "Enabled"

      filter {
        prefix = ""
      }

      abort_incomplete_multipart_upload {
        days_after_initiation = rule.value.abort_unfinished_uploads_days
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.vault]
}

# Last: from then on only administrators change anything above.
resource "aws_s3_bucket_policy" "vault" {
  bucket = aws_s3_bucket.vault.id
  policy = var.vault.bucket_policy

  depends_on = [
    aws_s3_bucket_lifecycle_configuration.vault,
    aws_s3_bucket_logging.vault,
    aws_s3_bucket_object_lock_configuration.vault,
    aws_s3_bucket_ownership_controls.vault,
    aws_s3_bucket_public_access_block.vault,
    aws_s3_bucket_server_side_encryption_configuration.vault,
  ]
}
