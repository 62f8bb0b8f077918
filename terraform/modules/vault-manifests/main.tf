# What each cluster is given to reach the vault: service accounts that take its role, and the Vault resource. Text, to be applied
# with kubectl or committed to the cluster's repository: nothing here talks to a cluster, and no secret passes through.

locals {
  service_accounts = {
    for name, site in var.sites : name => [
      for account in sort(site.service_accounts) : {
        apiVersion = "v1"
        kind       = "ServiceAccount"
        metadata = {
          namespace = split("/", account)[0]
          name      = split("/", account)[1]
          annotations = {
            "eks.amazonaws.com/role-arn"               = site.role_arn
            "eks.amazonaws.com/sts-regional-endpoints" = "true"
          }
        }
      }
    ]
  }

  vaults = {
    for name, site in var.sites : name => {
      apiVersion = "holdfast.dev/v1alpha1"
      kind       = "Vault"
      metadata   = { namespace = site.namespace, name = site.vault_name }
      spec = merge({
        for key, value in {
          endpoint           = var.vault.endpoint
          region             = var.vault.region
          bucket             = var.vault.bucket
          prefix             = var.vault.prefix
          retentionDays      = var.retention_days
          chunkRetentionDays = var.chunk_retention_days
          credentials = {
            for key, value in {
              secretName = site.web_identity ? null : site.credentials_secret
              webIdentity = !site.web_identity ? null : {
                roleArn            = site.role_arn
                serviceAccountName = one([for account in site.service_accounts : split("/", account)[1] if split("/", account)[0] == site.namespace])
              }
            } : key => value if value != null
          }
          encryption = {
            for key, value in {
              recipients = var.recipients
              identity   = site.identity_secret == null ? null : { secretName = site.identity_secret }
            } : key => value if value != null
          }
        } : key => value if value != null
      }, yamldecode(site.vault_spec))
    }
  }
}
