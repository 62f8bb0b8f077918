output "vault" {
  description = "What `modules/vault` makes of the bucket: its name and all its settings."
  value = {
    bucket        = var.bucket
    bucket_arn    = local.bucket_arn
    settings      = local.settings
    bucket_policy = local.bucket_policy
  }

  precondition {
    condition     = length(local.bucket_policy) <= 20480
    error_message = "The bucket policy has ${length(local.bucket_policy)} bytes; AWS takes 20480. Name fewer administrators or sites."
  }
}

output "roles" {
  description = "What `modules/vault-roles` makes: by key (`writer/SITE`, `reader/NAME`, `auditor`, `janitor`) what it is (`role`, or `user` with access keys), its name, ARN, policy and trust (null for a user)."
  value = {
    for key, name in local.role_names : key => {
      kind   = local.role_kinds[key]
      name   = name
      arn    = local.role_arns[key]
      policy = local.role_policies[key]
      trust  = local.trust_policies[key]
    }
  }

  precondition {
    condition     = length(local.bad_trusts) == 0
    error_message = "A trust is not exact: ${join("; ", local.bad_trusts)}."
  }

  precondition {
    condition     = length(local.subjects) == length(distinct(local.subjects))
    error_message = "The same service account or principal may take two roles. Give each role a subject of its own."
  }

  precondition {
    condition     = !local.janitor_at_work
    error_message = "The janitor trusts the cluster of a site that protects databases: who takes that cluster over could delete. Run it elsewhere."
  }

  precondition {
    condition     = alltrue([for name, _ in var.readers : can(regex("^[a-z][a-z0-9-]{0,19}$", name))])
    error_message = "The name of a reader has at most 20 lower-case letters, digits and hyphens and begins with a letter."
  }

  precondition {
    condition     = alltrue([for _, policy in local.role_policies : length(policy) <= 10240])
    error_message = "A role's policy has more than the 10240 bytes that AWS takes. Split the databases over two sites or vaults."
  }

  precondition {
    condition     = alltrue([for _, trust in local.trust_policies : length(coalesce(trust, "-")) <= 2048])
    error_message = "A role's trust has more than the 2048 bytes that AWS takes by default. Name fewer service accounts."
  }
}

output "portable_bucket_policy" {
  description = "Grants and denials in one bucket policy, for a store without roles and without AWS's condition keys. See `principal_arns`."
  value       = local.portable_bucket_policy
}

output "service_control_policy" {
  description = "For the organisation's management account to attach to the vault's account: it holds the root user as well."
  value       = local.service_control_policy
}

output "key_policy" {
  description = "The policy of a KMS key of one's own."
  value       = local.key_policy
}
