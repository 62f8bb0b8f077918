variable "vault" {
  description = "Where the vault is: bucket, prefix, region and, for a store other than AWS, the endpoint."
  type = object({
    bucket   = string
    prefix   = optional(string, "")
    region   = string
    endpoint = optional(string)
  })
}

variable "retention_days" {
  description = "As in `modules/vault-policy`."
  type        = number
}

variable "chunk_retention_days" {
  description = "As in `modules/vault-policy`."
  type        = number
}

variable "recipients" {
  description = "Public age keys (`age1...`) that everything is encrypted to: the standby site's and one whose private half lies in a safe."
  type        = list(string)

  validation {
    condition     = length(var.recipients) >= 1 && length(var.recipients) <= 16 && alltrue([for key in var.recipients : can(regex("^age1[a-z0-9]+$", key))])
    error_message = "Recipients are 1 to 16 public age keys; each begins with age1. A private key never goes through Terraform: its state would hold it."
  }
}

variable "sites" {
  description = <<-EOT
    The sites, by name: the namespace of the Vault, the Secrets that it names, and the service accounts (`namespace/name`) that
    are to take the role `role_arn`. With `web_identity` the Vault names that role instead of a Secret with keys, for the operator and
    for the one service account of the Vault's own namespace, which the operator's pods run as. `identity_secret` is for sites that decrypt; the primary site has none. `vault_spec` is YAML
    (or JSON) that is merged over the Vault's spec, for fields that this module does not know.
  EOT
  type = map(object({
    namespace          = string
    vault_name         = optional(string, "vault")
    credentials_secret = optional(string, "holdfast-vault")
    identity_secret    = optional(string)
    role_arn           = optional(string)
    service_accounts   = optional(set(string), [])
    web_identity       = optional(bool, false)
    vault_spec         = optional(string, "{}")
  }))

  validation {
    condition = alltrue([
      for _, site in var.sites : can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", site.namespace)) && can(regex("^[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$", site.vault_name))
    ])
    error_message = "A namespace has at most 63 and the name of a Vault at most 52 lower-case letters, digits and hyphens."
  }

  validation {
    condition     = alltrue([for _, site in var.sites : length(site.service_accounts) == 0 || site.role_arn != null])
    error_message = "Service accounts take a role: name its ARN in `role_arn`."
  }

  validation {
    condition = alltrue([
      for _, site in var.sites :
      !site.web_identity || length([for account in site.service_accounts : account if split("/", account)[0] == site.namespace]) == 1
    ])
    error_message = "With `web_identity` one service account is of the Vault's namespace: agents, relays and archivers run as it."
  }
}
