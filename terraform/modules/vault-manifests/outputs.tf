output "manifests" {
  description = "By site: one YAML text with the service accounts and the Vault."
  value = {
    for name, _ in var.sites : name =>
    join("---\n", [for document in concat(local.service_accounts[name], [local.vaults[name]]) : yamlencode(document)])
  }
}

output "vaults" {
  description = "By site: the Vault as an object, for providers that take one."
  value       = local.vaults
}
