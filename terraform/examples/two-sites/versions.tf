terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 6.25"
    }
  }
}

# Credentials of the vault's own account: one that holds this bucket and nothing else.
provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id]
}
