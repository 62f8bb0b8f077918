variable "vault" {
  description = "The output `vault` of `modules/vault-policy`: the bucket's name, its settings and its policy."
  type = object({
    bucket        = string
    bucket_arn    = string
    bucket_policy = string
    settings = object({
      versioning  = string
      object_lock = object({ mode = string, days = number })
      ownership   = string
      public_access = object({
        block_public_acls       = bool
        block_public_policy     = bool
        ignore_public_acls      = bool
        restrict_public_buckets = bool
      })
      encryption      = object({ algorithm = string, key_arn = string, blocked = list(string) })
      lifecycle_rules = list(object({ id = string, abort_unfinished_uploads_days = number }))
    })
  })
}

variable "access_log_bucket" {
  description = "A bucket of the same account and region for S3's access logs, without a default retention; null for none."
  type        = string
  default     = null
}

variable "trail_bucket" {
  description = "A bucket, of another account at best, for a CloudTrail trail of each change and deletion; null for none. Its policy must let CloudTrail write."
  type        = string
  default     = null
}

variable "trail_reads" {
  description = "Whether the trail also has each read. A relay reads every object once: expect one event for each."
  type        = bool
  default     = false
}

variable "block_public_access_of_account" {
  description = "Whether public access is blocked for the whole account. The vault's account holds nothing else, so yes."
  type        = bool
  default     = true
}

variable "tags" {
  description = "Tags of the bucket and the trail."
  type        = map(string)
  default     = {}
}
