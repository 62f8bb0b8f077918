# What the clusters get is what Holdfast's resource definitions take.

variables {
  vault                = { bucket = "hospital-vault", prefix = "hospital", region = "eu-central-1" }
  retention_days       = 90
  chunk_retention_days = 7
  recipients           = ["age1standby", "age1escrow"]
  sites = {
    primary = {
      namespace        = "hospital"
      role_arn         = "arn:aws:iam::111122223333:role/holdfast-primary-writer"
      service_accounts = ["holdfast-system/holdfast-operator", "hospital/holdfast"]
    }
    standby = { namespace = "hospital", identity_secret = "holdfast-identity" }
  }
}

run "vaults" {
  command = plan

  assert {
    condition = output.vaults.primary.spec == {
      region             = "eu-central-1"
      bucket             = "hospital-vault"
      prefix             = "hospital"
      retentionDays      = 90
      chunkRetentionDays = 7
      credentials        = { secretName = "holdfast-vault" }
      encryption         = { recipients = tolist(["age1standby", "age1escrow"]) }
    }
    error_message = "The primary site's Vault has no private key and no endpoint."
  }

  assert {
    condition     = output.vaults.standby.spec.encryption.identity == { secretName = "holdfast-identity" }
    error_message = "The standby site's Vault names the Secret of its private key."
  }

  assert {
    condition = alltrue(flatten([
      for _, vault in output.vaults : [
        for field in keys(vault.spec) :
        contains(keys(yamldecode(file("../../../manifests/crds/vaults.yaml")).spec.versions[0].schema.openAPIV3Schema.properties.spec.properties), field)
      ]
    ]))
    error_message = "Each field is one that the resource definition knows."
  }

  assert {
    condition = alltrue(flatten([
      for _, vault in output.vaults : [
        for field in yamldecode(file("../../../manifests/crds/vaults.yaml")).spec.versions[0].schema.openAPIV3Schema.properties.spec.required :
        contains(keys(vault.spec), field)
      ]
    ]))
    error_message = "Each field that the resource definition requires is there."
  }

  assert {
    condition     = "${output.vaults.primary.apiVersion} ${output.vaults.primary.kind}" == "holdfast.dev/v1alpha1 Vault"
    error_message = "The resource is of our kind and version."
  }
}

run "text" {
  command = plan

  assert {
    condition = [for document in split("---\n", output.manifests.primary) : yamldecode(document).kind] == [
      "ServiceAccount", "ServiceAccount", "Vault",
    ]
    error_message = "One text holds the service accounts and the Vault."
  }

  assert {
    condition     = yamldecode(split("---\n", output.manifests.primary)[0]).metadata.annotations["eks.amazonaws.com/role-arn"] == "arn:aws:iam::111122223333:role/holdfast-primary-writer"
    error_message = "A service account names the role that it takes."
  }

  assert {
    condition     = yamldecode(output.manifests.standby).kind == "Vault"
    error_message = "Without service accounts there is the Vault alone."
  }
}

run "a_role_instead_of_keys" {
  command = plan

  variables {
    sites = {
      primary = {
        namespace        = "hospital"
        role_arn         = "arn:aws:iam::111122223333:role/holdfast-primary-writer"
        service_accounts = ["holdfast-system/holdfast-operator", "hospital/holdfast"]
        web_identity     = true
      }
    }
  }

  assert {
    condition = output.vaults.primary.spec.credentials == {
      webIdentity = { roleArn = "arn:aws:iam::111122223333:role/holdfast-primary-writer", serviceAccountName = "holdfast" }
    }
    error_message = "The Vault names the role and who takes it, and no Secret."
  }
}

run "a_role_that_no_pod_may_take" {
  command = plan

  variables {
    sites = {
      primary = {
        namespace        = "hospital"
        role_arn         = "arn:aws:iam::111122223333:role/holdfast-primary-writer"
        service_accounts = ["holdfast-system/holdfast-operator"]
        web_identity     = true
      }
    }
  }

  expect_failures = [var.sites]
}

run "another_store" {
  command = plan

  variables {
    vault = { bucket = "hospital-vault", region = "us-east-1", endpoint = "https://s3.hospital.example" }
    sites = { primary = { namespace = "hospital", vault_spec = "retentionDays: 120" } }
  }

  assert {
    condition     = output.vaults.primary.spec.endpoint == "https://s3.hospital.example" && output.vaults.primary.spec.prefix == ""
    error_message = "A store other than AWS is named by its endpoint."
  }

  assert {
    condition     = output.vaults.primary.spec.retentionDays == 120
    error_message = "What a site says of its own comes last."
  }
}

run "a_private_key" {
  command = plan

  variables {
    recipients = ["AGE-SECRET-KEY-1QQQ"]
  }

  expect_failures = [var.recipients]
}

run "service_accounts_without_a_role" {
  command = plan

  variables {
    sites = { primary = { namespace = "hospital", service_accounts = ["hospital/holdfast"] } }
  }

  expect_failures = [var.sites]
}

run "a_namespace_that_is_none" {
  command = plan

  variables {
    sites = { primary = { namespace = "Hospital_1" } }
  }

  expect_failures = [var.sites]
}
