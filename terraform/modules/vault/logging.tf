# Who did what, kept where the vault's own roles cannot reach it. Both are off by default.

resource "aws_s3_bucket_logging" "vault" {
  count = var.access_log_bucket == null ? 0 : 1

  bucket        = aws_s3_bucket.vault.id
  target_bucket = var.access_log_bucket
  target_prefix = "${var.vault.bucket}/"
}

resource "aws_cloudtrail" "vault" {
  count = var.trail_bucket == null ? 0 : 1

  name                          = "${var.vault.bucket}-trail"
  s3_bucket_name                = var.trail_bucket
  enable_log_file_validation    = true
  include_global_service_events = true
  is_multi_region_trail         = true
  tags                          = var.tags

  advanced_event_selector {
    name = "Changes of the account"

    field_selector {
      field  = "eventCategory"
      equals = ["Management"]
    }
  }

  advanced_event_selector {
    name = "Objects of the vault"

    field_selector {
      field  = "eventCategory"
      equals = ["Data"]
    }

    field_selector {
      field  = "resources.type"
      equals = ["AWS::S3::Object"]
    }

    field_selector {
      field       = "resources.ARN"
      starts_with = ["${var.vault.bucket_arn}/"]
    }

    dynamic "field_selector" {
      for_each = var.trail_reads ? [] : ["false"]

      content {
        field  = "readOnly"
        equals = [field_selector.value]
      }
    }
  }
}
