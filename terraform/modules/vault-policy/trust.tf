# Who may take which role.

locals {
  trusts = merge(
    { for name, site in var.sites : "writer/${name}" => site.trust },
    { for name, reader in var.readers : "reader/${name}" => reader.trust },
    var.auditor == null ? {} : { auditor = var.auditor },
    var.janitor == null ? {} : { janitor = var.janitor },
  )

  trust_policies = {
    for key, trust in local.trusts : key => trust.user ? null : jsonencode({
      Version = "2012-10-17"
      Statement = concat(
        [for issuer in compact([trust.issuer]) : {
          Sid       = "ServiceAccounts"
          Effect    = "Allow"
          Principal = { Federated = "arn:${var.partition}:iam::${var.account_id}:oidc-provider/${issuer}" }
          Action    = "sts:AssumeRoleWithWebIdentity"
          Condition = {
            StringEquals = {
              "${issuer}:aud" = "sts.amazonaws.com"
              "${issuer}:sub" = [for account in trust.service_accounts : "system:serviceaccount:${replace(account, "/", ":")}"]
            }
          }
        } if length(trust.service_accounts) > 0],
        [for principals in [trust.principals] : {
          Sid       = "Principals"
          Effect    = "Allow"
          Principal = { AWS = sort(principals) }
          Action    = "sts:AssumeRole"
        } if length(principals) > 0],
      )
    })
  }

  # "name: what is wrong", for every trust that is not exact. A wildcard in one would hand the role to others.
  bad_trusts = flatten([
    for key, trust in local.trusts : concat(
      length(trust.service_accounts) > 0 && trust.issuer == null ? ["${key}: service accounts need an issuer"] : [],
      trust.issuer == null ? [] : can(regex("^[A-Za-z0-9][A-Za-z0-9.-]*(/[A-Za-z0-9._/-]+)?$", trust.issuer)) ? [] :
      ["${key}: the issuer is written without https:// and without wildcards"],
      [for account in trust.service_accounts : "${key}: ${account} is not `namespace/name`"
      if !can(regex("^[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", account))],
      [for arn in trust.principals : "${key}: ${arn} is not the ARN of one role or user"
      if !can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/[^*?]+$", arn))],
      !trust.user && length(trust.service_accounts) + length(trust.principals) == 0 ? ["${key}: nobody may take it"] : [],
      trust.user && length(trust.service_accounts) + length(trust.principals) > 0 ? ["${key}: a user has keys; nobody takes its place"] : [],
    )
  ])

  # The same subject in two trusts would make two roles one.
  subjects = flatten([
    for key, trust in local.trusts : concat(
      [for account in trust.service_accounts : "${coalesce(trust.issuer, "-")} ${account}"],
      tolist(trust.principals),
    )
  ])

  # Whoever takes over a cluster can speak for each of its service accounts.
  protecting_issuers = compact([for _, site in var.sites : site.trust.issuer if length(site.protects) > 0])
  janitor_at_work    = var.janitor == null ? false : var.janitor.issuer == null ? false : contains(local.protecting_issuers, var.janitor.issuer)
}
