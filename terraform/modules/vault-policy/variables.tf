variable "bucket" {
  description = "Name of the vault's bucket."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket name has 3 to 63 lower-case letters, digits, dots and hyphens."
  }
}

variable "prefix" {
  description = "Everything of the vault is below this prefix, as in `Vault.spec.prefix`. No slash at either end; empty for none."
  type        = string
  default     = ""

  validation {
    condition     = length(var.prefix) <= 256 && can(regex("^$|^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$", var.prefix))
    error_message = "The prefix has at most 256 letters, digits, `_`, `.`, `-` and inner slashes. A wildcard in it would open other prefixes."
  }
}

variable "account_id" {
  description = "The AWS account of the vault, 12 digits. Nothing else should live in it."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "An account id has 12 digits."
  }
}

variable "partition" {
  description = "The AWS partition."
  type        = string
  default     = "aws"

  validation {
    condition     = contains(["aws", "aws-cn", "aws-us-gov", "aws-eusc"], var.partition)
    error_message = "The partition is one of aws, aws-cn, aws-us-gov and aws-eusc."
  }
}

variable "name" {
  description = "What the names of the roles begin with."
  type        = string
  default     = "holdfast"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,23}$", var.name))
    error_message = "The name has at most 24 lower-case letters, digits and hyphens and begins with a letter."
  }
}

variable "sites" {
  description = <<-EOT
    The sites, by name. `protects` are the databases that the site's agents stream into the vault; `recovers` are those that
    the site follows, archives, takes over and writes after a failover. Rights must be there before a site is lost: two
    sites that are to change places name each database in both lists. `trust` says who may take the site's writer role:
    `service_accounts` (`namespace/name`) of the cluster whose tokens `issuer` signs (without https://), and `principals` (ARNs).
    A cluster whose tokens are not used gets a user with access keys instead (`user`); name its issuer all the same, so that the
    janitor is kept away from it.
  EOT
  type = map(object({
    protects = optional(set(string), [])
    recovers = optional(set(string), [])
    trust = object({
      issuer           = optional(string)
      service_accounts = optional(set(string), [])
      principals       = optional(set(string), [])
      user             = optional(bool, false)
    })
  }))

  validation {
    condition     = alltrue([for name, _ in var.sites : can(regex("^[a-z][a-z0-9-]{0,19}$", name))])
    error_message = "The name of a site has at most 20 lower-case letters, digits and hyphens and begins with a letter."
  }

  validation {
    condition     = alltrue([for _, site in var.sites : length(site.protects) + length(site.recovers) > 0])
    error_message = "Each site protects or recovers at least one database; leave out a site that does neither."
  }

  validation {
    condition = alltrue([
      for database in flatten([for _, site in var.sites : concat(tolist(site.protects), tolist(site.recovers))]) :
      can(regex("^[a-z0-9][a-z0-9._-]{0,127}$", database))
    ])
    error_message = "The name of a database has at most 128 lower-case letters, digits, `-`, `_` and `.`, and begins with a letter or a digit. A wildcard in it would open other databases."
  }
}

variable "readers" {
  description = "Who may read, by name: people who restore by hand, a second copy, a verifier elsewhere. `databases` empty means all."
  type = map(object({
    databases = optional(set(string), [])
    trust = object({
      issuer           = optional(string)
      service_accounts = optional(set(string), [])
      principals       = optional(set(string), [])
      user             = optional(bool, false)
    })
  }))
  default = {}
}

variable "auditor" {
  description = "Who may look at names, versions, locks and settings, and read evidence; none by default."
  type = object({
    issuer           = optional(string)
    service_accounts = optional(set(string), [])
    principals       = optional(set(string), [])
    user             = optional(bool, false)
  })
  default = null
}

variable "janitor" {
  description = "Who may delete what has expired; none by default. Never at a site that writes what it deletes."
  type = object({
    issuer           = optional(string)
    service_accounts = optional(set(string), [])
    principals       = optional(set(string), [])
    user             = optional(bool, false)
  })
  default = null
}

variable "administrators" {
  description = "ARNs of the roles or users who may change the bucket's settings: whoever runs Terraform, and one for emergencies. Not even they can delete a version or shorten a lock."
  type        = set(string)

  validation {
    condition     = length(var.administrators) > 0
    error_message = "Name at least one administrator; otherwise nobody, this Terraform included, could change the bucket's settings again."
  }

  validation {
    condition     = alltrue([for arn in var.administrators : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/[^*?]+$", arn))])
    error_message = "An administrator is the ARN of one role or user, without wildcards."
  }
}

variable "retention_days" {
  description = "For how many days seals, backups, segments, indexes and journals are locked, as in `Vault.spec.retentionDays`."
  type        = number
  default     = 90

  validation {
    condition     = var.retention_days >= 2 && var.retention_days <= 36500 && floor(var.retention_days) == var.retention_days
    error_message = "The retention is a whole number of days from 2 to 36500."
  }
}

variable "chunk_retention_days" {
  description = "For how many days chunks of the log are locked, as in `Vault.spec.chunkRetentionDays`. Also the default retention of the bucket."
  type        = number
  default     = 7

  validation {
    condition     = var.chunk_retention_days >= 2 && var.chunk_retention_days <= var.retention_days && floor(var.chunk_retention_days) == var.chunk_retention_days
    error_message = "The retention of chunks is a whole number of days from 2 to `retention_days`."
  }
}

variable "max_retention_days" {
  description = "The longest lock that a writer may set, in days. A thief of its credentials could otherwise make the hospital pay for a century of storage. AWS takes no lock above 36500 days."
  type        = number
  default     = 400

  validation {
    condition     = var.max_retention_days > var.retention_days && var.max_retention_days <= 36500
    error_message = "The longest lock is above `retention_days` and at most 36500."
  }
}

variable "kms_key_arn" {
  description = "A KMS key that the store encrypts with as well; null for S3's own keys. What is stored is encrypted by Holdfast in any case, and who deletes a KMS key deletes the vault."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.kms_key_arn))
    error_message = "The KMS key is named by the ARN of the key itself, not of an alias."
  }
}

variable "principal_arns" {
  description = "For `portable_bucket_policy`: ARNs of the store's own identities, by role (`writer/SITE`, `reader/NAME`, `auditor`, `janitor`)."
  type        = map(string)
  default     = {}
}
