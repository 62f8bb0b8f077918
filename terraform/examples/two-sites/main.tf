# A hospital on two clusters with one vault, in an AWS account of its own. The sites share nothing but the bucket. Both may protect
# and recover each database, so that they can change places with nobody there to run Terraform.

locals {
  # Names of the ProtectedDatabases; each is a folder below `db/` in the vault.
  databases = ["registration-db", "billing-db", "lab-db"]
  prefix    = "hospital"

  retention_days       = 90
  chunk_retention_days = 7

  # With web identity: the operator and what runs in the hospital's namespace.
  service_accounts = var.web_identity ? ["holdfast-system/holdfast-operator", "hospital/holdfast"] : []
}

module "policy" {
  source = "../../modules/vault-policy"

  bucket     = var.bucket
  prefix     = local.prefix
  account_id = var.account_id

  sites = {
    primary = {
      protects = local.databases
      recovers = local.databases
      trust    = { issuer = var.issuers.primary, service_accounts = local.service_accounts, user = !var.web_identity }
    }
    standby = {
      protects = local.databases
      recovers = local.databases
      trust    = { issuer = var.issuers.standby, service_accounts = local.service_accounts, user = !var.web_identity }
    }
  }
  readers = {
    people = { trust = { principals = var.people.readers } }
    # With this the janitor looks; its own identity deletes and sees nothing.
    janitor = { trust = { issuer = var.issuers.janitor, service_accounts = ["holdfast-janitor/janitor"] } }
  }
  auditor        = { principals = var.people.auditors }
  janitor        = { issuer = var.issuers.janitor, user = true }
  administrators = var.administrators

  retention_days       = local.retention_days
  chunk_retention_days = local.chunk_retention_days
}

module "vault" {
  source = "../../modules/vault"

  vault = module.policy.vault
}

module "roles" {
  source = "../../modules/vault-roles"

  roles   = module.policy.roles
  issuers = var.web_identity ? [var.issuers.primary, var.issuers.standby, var.issuers.janitor] : [var.issuers.janitor]
}

module "manifests" {
  source = "../../modules/vault-manifests"

  vault                = { bucket = var.bucket, prefix = local.prefix, region = var.region }
  retention_days       = local.retention_days
  chunk_retention_days = local.chunk_retention_days
  recipients           = var.recipients

  sites = {
    primary = {
      namespace        = "hospital"
      role_arn         = module.policy.roles["writer/primary"].arn
      service_accounts = local.service_accounts
      web_identity     = var.web_identity
    }
    standby = {
      namespace        = "hospital"
      role_arn         = module.policy.roles["writer/standby"].arn
      service_accounts = local.service_accounts
      web_identity     = var.web_identity
      # The private key is at the standby site alone: what is stolen at the primary site opens nothing.
      identity_secret = "holdfast-identity"
    }
  }
}
