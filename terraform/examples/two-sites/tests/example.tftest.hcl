# The example, wired and planned against a mocked provider.

mock_provider "aws" {}

variables {
  account_id     = "111122223333"
  region         = "eu-central-1"
  bucket         = "hospital-vault"
  issuers        = { primary = "oidc.primary.example", standby = "oidc.standby.example", janitor = "oidc.elsewhere.example" }
  administrators = ["arn:aws:iam::111122223333:role/terraform", "arn:aws:iam::111122223333:role/emergency"]
  recipients     = ["age1standby", "age1escrow"]
  people = {
    readers  = ["arn:aws:iam::444455556666:role/on-call"]
    auditors = ["arn:aws:iam::777788889999:role/auditor"]
  }
}

run "wired" {
  command = plan

  assert {
    condition     = toset(keys(output.roles)) == toset(["auditor", "janitor", "reader/janitor", "reader/people", "writer/primary", "writer/standby"])
    error_message = "Two writers, readers, an auditor and a janitor."
  }

  assert {
    condition     = toset(keys(output.manifests)) == toset(["primary", "standby"])
    error_message = "A text for each cluster."
  }

  assert {
    condition     = strcontains(output.manifests.standby, "holdfast-identity") && !strcontains(output.manifests.primary, "holdfast-identity")
    error_message = "The private key is at the standby site alone."
  }

  assert {
    condition     = !strcontains(output.manifests.primary, "ServiceAccount")
    error_message = "With users, no service account takes a role."
  }
}

run "with_web_identity" {
  command = plan

  variables {
    web_identity = true
  }

  assert {
    condition     = toset(keys(output.roles)) == toset(["auditor", "janitor", "reader/janitor", "reader/people", "writer/primary", "writer/standby"])
    error_message = "The same identities."
  }

  assert {
    condition     = strcontains(output.manifests.primary, "arn:aws:iam::111122223333:role/holdfast-primary-writer")
    error_message = "Each cluster's service accounts take its own writer's role."
  }
}
