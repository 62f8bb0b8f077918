# Least rights, role by role.

variables {
  bucket     = "hospital-vault"
  prefix     = "hospital"
  account_id = "111122223333"
  sites = {
    primary = { protects = ["billing"], trust = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] } }
    standby = { recovers = ["billing"], trust = { issuer = "oidc.standby.example", service_accounts = ["hospital/holdfast"] } }
    cellar  = { protects = ["archive"], trust = { user = true } }
  }
  readers        = { people = { trust = { principals = ["arn:aws:iam::111122223333:role/people"] } } }
  auditor        = { principals = ["arn:aws:iam::777788889999:role/auditor"] }
  janitor        = { issuer = "oidc.elsewhere.example", service_accounts = ["janitor/janitor"] }
  administrators = ["arn:aws:iam::111122223333:role/terraform"]
}

run "who_there_is" {
  command = plan

  assert {
    condition = { for key, role in output.roles : key => "${role.kind} ${role.name}" } == {
      "writer/primary" = "role holdfast-primary-writer"
      "writer/standby" = "role holdfast-standby-writer"
      "writer/cellar"  = "user holdfast-cellar-writer"
      "reader/people"  = "role holdfast-people-reader"
      auditor          = "role holdfast-auditor"
      janitor          = "role holdfast-janitor"
    }
    error_message = "One identity for each purpose."
  }

  assert {
    condition     = output.roles["writer/cellar"].arn == "arn:aws:iam::111122223333:user/holdfast-cellar-writer" && output.roles["writer/cellar"].trust == null
    error_message = "A site without tokens that AWS can check gets a user, whom nobody can impersonate."
  }
}

run "actions" {
  command = plan

  assert {
    condition     = toset(flatten([for s in jsondecode(output.roles["janitor"].policy).Statement : s.Action])) == toset(["s3:DeleteObjectVersion"])
    error_message = "The janitor deletes versions and nothing else."
  }

  assert {
    condition = alltrue([
      for key, role in output.roles : key == "janitor" || length([
        for action in flatten([for s in jsondecode(role.policy).Statement : s.Action]) : action if startswith(action, "s3:Delete")
      ]) == 0
    ])
    error_message = "Nobody but the janitor deletes."
  }

  assert {
    condition = toset([
      for key, role in output.roles : key if contains(flatten([for s in jsondecode(role.policy).Statement : s.Action]), "s3:PutObject")
    ]) == toset(["writer/primary", "writer/standby", "writer/cellar"])
    error_message = "Writers write, and nobody else."
  }

  assert {
    condition = alltrue(flatten([
      for key, role in output.roles : [for s in jsondecode(role.policy).Statement : [for action in s.Action : !strcontains(action, "*")]]
    ]))
    error_message = "No right is given by a wildcard."
  }

  assert {
    condition = one([for s in jsondecode(output.roles["auditor"].policy).Statement : s.Resource if contains(s.Action, "s3:GetObject")]) == [
      "arn:aws:s3:::hospital-vault/hospital/v1/evidence/*", "arn:aws:s3:::hospital-vault/hospital/v1/run/*",
    ]
    error_message = "The auditor reads the bodies of evidence and journals alone."
  }
}

run "places" {
  command = plan

  assert {
    condition = one([for s in jsondecode(output.roles["writer/primary"].policy).Statement : s.Resource if contains(s.Action, "s3:PutObject")]) == [
      for folder in ["db/billing/identity", "db/billing/log/*", "db/billing/backup/*", "probe/*", "evidence/*", "conformance/*"] :
      "arn:aws:s3:::hospital-vault/hospital/v1/${folder}"
    ]
    error_message = "A site that protects writes the log and the backups of its own databases."
  }

  assert {
    condition = one([for s in jsondecode(output.roles["writer/standby"].policy).Statement : s.Resource if contains(s.Action, "s3:PutObject")]) == [
      for folder in ["db/billing/*", "plan/*", "run/*", "probe/*", "evidence/*", "conformance/*"] :
      "arn:aws:s3:::hospital-vault/hospital/v1/${folder}"
    ]
    error_message = "A site that recovers writes all of its databases, plans and journals."
  }

  assert {
    condition = one([for s in jsondecode(output.roles["janitor"].policy).Statement : s.Resource]) == [
      for folder in ["log", "backup", "segment"] : "arn:aws:s3:::hospital-vault/hospital/v1/db/*/${folder}/*"
    ]
    error_message = "Only chunks, backups and segments ever expire."
  }

  assert {
    condition     = alltrue([for key, role in output.roles : strcontains(role.policy, "hospital-vault/hospital/v1/") && !strcontains(role.policy, "\"*\"")])
    error_message = "Each right is for a place in this vault."
  }
}

run "without_a_prefix" {
  command = plan

  variables {
    prefix = ""
  }

  assert {
    condition     = one([for s in jsondecode(output.roles["janitor"].policy).Statement : s.Resource])[0] == "arn:aws:s3:::hospital-vault/v1/db/*/log/*"
    error_message = "Without a prefix, keys begin with v1/."
  }
}

run "another_partition" {
  command = plan

  variables {
    partition      = "aws-cn"
    administrators = ["arn:aws-cn:iam::111122223333:role/terraform"]
    readers        = {}
    auditor        = null
  }

  assert {
    condition     = !strcontains(output.vault.bucket_policy, "arn:aws:") && alltrue([for _, role in output.roles : !strcontains(role.policy, "arn:aws:")])
    error_message = "Every ARN is of the partition."
  }
}

run "portable" {
  command = plan

  variables {
    principal_arns = { janitor = "arn:aws:iam::000000000000:user/janitor" }
  }

  assert {
    condition = length([
      for s in jsondecode(output.portable_bucket_policy).Statement : s
      if strcontains(jsonencode(s), "s3:if-none-match") || strcontains(jsonencode(s), "s3:object-lock-") || strcontains(jsonencode(s), "aws:PrincipalArn")
    ]) == 0
    error_message = "The portable policy names no key that only AWS knows."
  }

  assert {
    condition = one([for s in jsondecode(output.portable_bucket_policy).Statement : s.Principal.AWS if s.Sid == "JanitorDeleteExpired"]) == [
      "arn:aws:iam::000000000000:user/janitor",
    ]
    error_message = "The store's own identities take the place of roles."
  }

  assert {
    condition = !contains(one([
      for s in jsondecode(output.portable_bucket_policy).Statement : s.Principal.AWS if s.Sid == "OnlyTheJanitorDeletes"
    ]), "arn:aws:iam::000000000000:user/janitor")
    error_message = "Whom a denial spares is left out by name."
  }
}
