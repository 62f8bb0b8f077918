variable "roles" {
  description = "The output `roles` of `modules/vault-policy`."
  type = map(object({
    kind   = string
    name   = string
    arn    = string
    policy = string
    trust  = optional(string)
  }))
}

variable "issuers" {
  description = "OIDC issuers of the clusters to register in the account, without https://. Leave out those that are registered already."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for issuer in var.issuers : can(regex("^[A-Za-z0-9][A-Za-z0-9.-]*(/[A-Za-z0-9._/-]+)?$", issuer))])
    error_message = "An issuer is written without https:// and without a slash at its end."
  }
}

variable "tags" {
  description = "Tags of everything that is made here."
  type        = map(string)
  default     = {}
}
