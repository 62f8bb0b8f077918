# What is where, and who is who.

locals {
  bucket_arn  = "arn:${var.partition}:s3:::${var.bucket}"
  objects_arn = "${local.bucket_arn}/*"
  root        = var.prefix == "" ? "v1" : "${var.prefix}/v1"
  root_arn    = "${local.bucket_arn}/${local.root}"

  databases = toset(flatten([for _, site in var.sites : concat(tolist(site.protects), tolist(site.recovers))]))

  # Folders of one database that whoever protects it writes, and those that whoever recovers it writes besides.
  protecting = ["identity", "log/*", "backup/*"]
  recovering = ["segment/*", "index/*"]

  # Where the checks of a store leave what they tried: their objects may lack a lock or have a short one.
  trials = ["${local.root_arn}/conformance/*"]

  # Where something may be deleted once its lock has ended. Never a seal's lock before `retention_days`, never an identity,
  # an index, a plan, a journal or evidence.
  expiring = [for folder in ["log", "backup", "segment"] : "${local.root_arn}/db/*/${folder}/*"]

  # What has the long retention, as far as its place tells. Seals stand among the chunks.
  lasting = concat(
    [for folder in ["identity", "backup/*", "segment/*", "index/*"] : "${local.root_arn}/db/*/${folder}"],
    [for folder in ["plan", "run", "evidence"] : "${local.root_arn}/${folder}/*"],
  )

  role_names = merge(
    { for name, _ in var.sites : "writer/${name}" => "${var.name}-${name}-writer" },
    { for name, _ in var.readers : "reader/${name}" => "${var.name}-${name}-reader" },
    var.auditor == null ? {} : { auditor = "${var.name}-auditor" },
    var.janitor == null ? {} : { janitor = "${var.name}-janitor" },
  )
  role_kinds = { for key, trust in local.trusts : key => trust.user ? "user" : "role" }
  role_arns = {
    for key, name in local.role_names : key => "arn:${var.partition}:iam::${var.account_id}:${local.role_kinds[key]}/${name}"
  }
}
