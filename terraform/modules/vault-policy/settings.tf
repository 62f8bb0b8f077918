# The settings of the bucket, as data.

locals {
  settings = {
    versioning = "Enabled"
    object_lock = {
      # For what comes without a lock of its own. The shortest one that any object of a vault has.
      mode = "COMPLIANCE"
      days = var.chunk_retention_days
    }
    ownership = "BucketOwnerEnforced"
    public_access = {
      block_public_acls       = true
      block_public_policy     = true
      ignore_public_acls      = true
      restrict_public_buckets = true
    }
    encryption = {
      algorithm = local.algorithm
      key_arn   = var.kms_key_arn
      blocked   = ["SSE-C"]
    }
    # Nothing expires by rule: the janitor alone deletes, so a delete marker is always tampering. Unfinished uploads are no objects.
    lifecycle_rules = [{ id = "abort-unfinished-uploads", abort_unfinished_uploads_days = 1 }]
  }

  # For the organisation that the account belongs to. The root user of an account can remove a bucket policy that denies it
  # everything; a policy of the organisation holds the root user too.
  service_control_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "OnlyAdministratorsChangeSettings"
        Effect    = "Deny"
        Action    = concat(local.settings_actions, ["s3:PutAccountPublicAccessBlock"])
        Resource  = "*"
        Condition = { ArnNotEquals = { "aws:PrincipalArn" = sort(var.administrators) } }
      },
      {
        Sid      = "NobodyEndsTheVault"
        Effect   = "Deny"
        Action   = ["account:CloseAccount", "organizations:LeaveOrganization", "s3:BypassGovernanceRetention", "s3:DeleteBucket"]
        Resource = "*"
      },
      {
        Sid    = "OnlyAdministratorsTouchRolesAndTrails"
        Effect = "Deny"
        Action = [
          "cloudtrail:DeleteTrail", "cloudtrail:PutEventSelectors", "cloudtrail:StopLogging", "cloudtrail:UpdateTrail",
          "iam:AddClientIDToOpenIDConnectProvider", "iam:AttachRolePolicy", "iam:AttachUserPolicy", "iam:CreateAccessKey",
          "iam:CreateOpenIDConnectProvider", "iam:CreateRole", "iam:CreateUser", "iam:PutRolePolicy", "iam:PutUserPolicy",
          "iam:UpdateAssumeRolePolicy", "iam:UpdateOpenIDConnectProviderThumbprint",
        ]
        Resource  = "*"
        Condition = { ArnNotEquals = { "aws:PrincipalArn" = sort(var.administrators) } }
      },
    ]
  })

  # For a KMS key of one's own: the account delegates to its roles' policies, and nobody ends the key.
  key_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "RolesMayUseIt"
        Effect    = "Allow"
        Principal = { AWS = "arn:${var.partition}:iam::${var.account_id}:root" }
        Action    = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"]
        Resource  = "*"
      },
      {
        Sid       = "AdministratorsManageIt"
        Effect    = "Allow"
        Principal = { AWS = sort(var.administrators) }
        Action = [
          "kms:DescribeKey", "kms:EnableKeyRotation", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListResourceTags",
          "kms:PutKeyPolicy", "kms:TagResource", "kms:UntagResource",
        ]
        Resource = "*"
      },
      {
        Sid       = "NobodyEndsIt"
        Effect    = "Deny"
        Principal = "*"
        Action    = ["kms:DeleteImportedKeyMaterial", "kms:DisableKey", "kms:ScheduleKeyDeletion"]
        Resource  = "*"
      },
    ]
  })
}
