# No provider: everything here is decided from the inputs alone, so it can be tried without a cloud.
terraform {
  required_version = ">= 1.9"
}
