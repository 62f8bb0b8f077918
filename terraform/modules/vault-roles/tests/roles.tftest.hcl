# Each identity gets the policy and the trust that were decided. The provider is mocked: nothing reaches AWS.

mock_provider "aws" {}

run "decision" {
  module {
    source = "../vault-policy"
  }

  variables {
    bucket     = "hospital-vault"
    account_id = "111122223333"
    sites = {
      primary = { protects = ["billing"], trust = { issuer = "oidc.primary.example", service_accounts = ["hospital/holdfast"] } }
      cellar  = { protects = ["archive"], trust = { user = true } }
    }
    janitor        = { issuer = "oidc.elsewhere.example", service_accounts = ["janitor/janitor"] }
    administrators = ["arn:aws:iam::111122223333:role/terraform"]
  }
}

run "identities" {
  command = plan

  variables {
    roles   = run.decision.roles
    issuers = ["oidc.primary.example"]
  }

  assert {
    condition     = toset(keys(aws_iam_role.vault)) == toset(["writer/primary", "janitor"]) && toset(keys(aws_iam_user.vault)) == toset(["writer/cellar"])
    error_message = "A role each, and a user where the cluster's tokens cannot be checked."
  }

  assert {
    condition     = alltrue([for key, role in aws_iam_role.vault : role.name == run.decision.roles[key].name && role.assume_role_policy == run.decision.roles[key].trust])
    error_message = "Each role has the name that the bucket's policy knows, and the trust that was decided."
  }

  assert {
    condition     = alltrue([for key, policy in merge(aws_iam_role_policy.vault, aws_iam_user_policy.vault) : policy.policy == run.decision.roles[key].policy])
    error_message = "Each identity has the policy that was decided."
  }

  assert {
    condition     = alltrue([for key, policy in aws_iam_role_policy.vault : policy.role == run.decision.roles[key].name]) && aws_iam_user_policy.vault["writer/cellar"].user == "holdfast-cellar-writer"
    error_message = "Each policy belongs to its own identity."
  }

  assert {
    condition     = alltrue([for _, role in aws_iam_role.vault : role.max_session_duration == 3600])
    error_message = "What is stolen is worthless after an hour."
  }

  assert {
    condition     = aws_iam_openid_connect_provider.cluster["oidc.primary.example"].url == "https://oidc.primary.example" && aws_iam_openid_connect_provider.cluster["oidc.primary.example"].client_id_list == tolist(["sts.amazonaws.com"])
    error_message = "The cluster's tokens are accepted for AWS alone."
  }
}

run "an_issuer_with_https" {
  command = plan

  variables {
    roles   = run.decision.roles
    issuers = ["https://oidc.primary.example"]
  }

  expect_failures = [var.issuers]
}
