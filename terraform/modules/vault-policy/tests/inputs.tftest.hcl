# Bad input is refused by name, before anything is made.

variables {
  bucket     = "hospital-vault"
  account_id = "111122223333"
  sites = {
    primary = { protects = ["billing"], trust = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] } }
  }
  administrators = ["arn:aws:iam::111122223333:role/terraform"]
}

run "a_bucket_name_with_capitals" {
  command = plan

  variables {
    bucket = "Hospital"
  }

  expect_failures = [var.bucket]
}

run "a_prefix_with_a_wildcard" {
  command = plan

  variables {
    prefix = "hospital*"
  }

  expect_failures = [var.prefix]
}

run "a_prefix_that_ends_with_a_slash" {
  command = plan

  variables {
    prefix = "hospital/"
  }

  expect_failures = [var.prefix]
}

run "an_account_id_that_is_none" {
  command = plan

  variables {
    account_id = "1111"
  }

  expect_failures = [var.account_id]
}

run "an_unknown_partition" {
  command = plan

  variables {
    partition = "aws-moon"
  }

  expect_failures = [var.partition]
}

run "a_name_with_a_wildcard" {
  command = plan

  variables {
    name = "hold*"
  }

  expect_failures = [var.name]
}

run "a_database_with_a_wildcard" {
  command = plan

  variables {
    sites = { primary = { protects = ["billing*"], trust = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] } } }
  }

  expect_failures = [var.sites]
}

run "a_database_that_climbs" {
  command = plan

  variables {
    sites = { primary = { protects = ["../billing"], trust = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] } } }
  }

  expect_failures = [var.sites]
}

run "a_site_without_databases" {
  command = plan

  variables {
    sites = { primary = { protects = [], trust = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] } } }
  }

  expect_failures = [var.sites]
}

run "a_site_with_a_bad_name" {
  command = plan

  variables {
    sites = { "Primary*" = { protects = ["billing"], trust = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] } } }
  }

  expect_failures = [var.sites]
}

run "nobody_administers" {
  command = plan

  variables {
    administrators = []
  }

  expect_failures = [var.administrators]
}

run "everybody_administers" {
  command = plan

  variables {
    administrators = ["arn:aws:iam::111122223333:role/*"]
  }

  expect_failures = [var.administrators]
}

run "the_root_user_administers" {
  command = plan

  variables {
    administrators = ["arn:aws:iam::111122223333:root"]
  }

  expect_failures = [var.administrators]
}

run "a_retention_of_half_a_day" {
  command = plan

  variables {
    retention_days = 0.5
  }

  expect_failures = [var.retention_days]
}

run "chunks_locked_for_longer_than_segments" {
  command = plan

  variables {
    chunk_retention_days = 91
  }

  expect_failures = [var.chunk_retention_days]
}

run "a_longest_lock_below_the_retention" {
  command = plan

  variables {
    max_retention_days = 90
  }

  expect_failures = [var.max_retention_days]
}

run "a_lock_for_longer_than_the_store_takes" {
  command = plan

  variables {
    max_retention_days = 40000
  }

  expect_failures = [var.max_retention_days]
}

run "a_key_alias" {
  command = plan

  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:111122223333:alias/vault"
  }

  expect_failures = [var.kms_key_arn]
}

run "service_accounts_without_an_issuer" {
  command = plan

  variables {
    sites = { primary = { protects = ["billing"], trust = { service_accounts = ["hospital/holdfast"] } } }
  }

  expect_failures = [output.roles]
}

run "an_issuer_with_https" {
  command = plan

  variables {
    sites = { primary = { protects = ["billing"], trust = { issuer = "https://oidc.primary.example", service_accounts = ["hospital/holdfast"] } } }
  }

  expect_failures = [output.roles]
}

run "an_issuer_with_a_wildcard" {
  command = plan

  variables {
    sites = { primary = { protects = ["billing"], trust = { issuer = "oidc.*.example", service_accounts = ["hospital/holdfast"] } } }
  }

  expect_failures = [output.roles]
}

run "any_service_account" {
  command = plan

  variables {
    sites = { primary = { protects = ["billing"], trust = { issuer = "oidc.primary.example", service_accounts = ["hospital/*"] } } }
  }

  expect_failures = [output.roles]
}

run "any_principal" {
  command = plan

  variables {
    auditor = { principals = ["*"] }
  }

  expect_failures = [output.roles]
}

run "a_whole_account" {
  command = plan

  variables {
    auditor = { principals = ["arn:aws:iam::777788889999:root"] }
  }

  expect_failures = [output.roles]
}

run "a_role_for_nobody" {
  command = plan

  variables {
    auditor = {}
  }

  expect_failures = [output.roles]
}

run "a_user_with_a_trust" {
  command = plan

  variables {
    auditor = { user = true, principals = ["arn:aws:iam::777788889999:role/auditor"] }
  }

  expect_failures = [output.roles]
}

run "a_reader_with_a_bad_name" {
  command = plan

  variables {
    readers = { "a*" = { trust = { principals = ["arn:aws:iam::111122223333:role/people"] } } }
  }

  expect_failures = [output.roles]
}

run "one_subject_for_two_roles" {
  command = plan

  variables {
    auditor = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] }
  }

  expect_failures = [output.roles]
}

run "a_janitor_in_the_cluster_of_the_primary_site" {
  command = plan

  variables {
    janitor = { issuer = "oidc.primary.example", service_accounts = ["janitor/janitor"] }
  }

  expect_failures = [output.roles]
}

run "a_janitor_in_the_cluster_of_a_primary_site_with_a_user" {
  command = plan

  variables {
    sites   = { primary = { protects = ["billing"], trust = { issuer = "oidc.primary.example", user = true } } }
    janitor = { issuer = "oidc.primary.example", service_accounts = ["janitor/janitor"] }
  }

  expect_failures = [output.roles]
}

run "more_databases_than_a_policy_holds" {
  command = plan

  variables {
    sites = {
      primary = {
        protects = [for n in range(80) : "a-database-with-a-long-name-number-${n}"]
        trust    = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] }
      }
    }
  }

  expect_failures = [output.roles]
}
