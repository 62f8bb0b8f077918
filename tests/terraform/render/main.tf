# Renders the policies of a hospital with two sites, for the checks that need them as JSON: as AWS gets them, and as a store of
# the test's own gets them. No provider, so applying it touches nothing.

locals {
  users = "arn:aws:iam::000000000000:user"
}

module "policy" {
  source = "../../../terraform/modules/vault-policy"

  bucket     = "hospital-vault"
  prefix     = "hospital"
  account_id = "111122223333"

  sites = {
    primary = {
      protects = ["hospital-registration", "hospital-billing"]
      trust    = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] }
    }
    standby = {
      recovers = ["hospital-registration", "hospital-billing"]
      trust    = { issuer = "oidc.standby.example", service_accounts = ["hospital/holdfast"] }
    }
    clinic = {
      protects = ["clinic-records"]
      trust    = { principals = ["arn:aws:iam::444455556666:role/clinic"] }
    }
  }
  readers = {
    people  = { trust = { principals = ["arn:aws:iam::111122223333:role/break-glass-reader"] } }
    billing = { databases = ["hospital-billing"], trust = { principals = ["arn:aws:iam::111122223333:role/billing"] } }
  }
  auditor        = { principals = ["arn:aws:iam::777788889999:role/auditor"] }
  janitor        = { issuer = "oidc.elsewhere.example", service_accounts = ["holdfast-janitor/janitor"] }
  administrators = ["arn:aws:iam::111122223333:role/terraform", "arn:aws:iam::111122223333:role/emergency"]

  principal_arns = {
    for key in ["writer/primary", "writer/standby", "writer/clinic", "reader/people", "reader/billing", "auditor", "janitor"] :
    key => "${local.users}/${replace(key, "/", "-")}"
  }
}

output "vault" {
  value = module.policy.vault
}

output "roles" {
  value = module.policy.roles
}

output "portable_bucket_policy" {
  value = module.policy.portable_bucket_policy
}

output "service_control_policy" {
  value = module.policy.service_control_policy
}

output "key_policy" {
  value = module.policy.key_policy
}
