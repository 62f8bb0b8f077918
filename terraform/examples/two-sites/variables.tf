variable "account_id" {
  description = "The AWS account that holds the vault and nothing else."
  type        = string
}

variable "region" {
  description = "Where the vault is. Not where either site is, if one event could take both."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket, unique in all of AWS."
  type        = string
}

variable "issuers" {
  description = "OIDC issuer of each cluster, without https:// (`aws eks describe-cluster --query cluster.identity.oidc.issuer`)."
  type        = object({ primary = string, standby = string, janitor = string })
}

variable "administrators" {
  description = "ARNs of the role that runs this Terraform and of one for emergencies."
  type        = set(string)
}

variable "recipients" {
  description = "Public age keys: the standby site's, and the one in the safe (`holdfast keys`)."
  type        = list(string)
}

variable "people" {
  description = "ARNs of the roles that people take to read the vault by hand, and to audit it."
  type        = object({ readers = set(string), auditors = set(string) })
}

variable "web_identity" {
  description = "Whether the clusters' service accounts take the writers' roles. The operator reads keys from the Vault's Secret, so by default each site gets a user with keys."
  type        = bool
  default     = false
}
