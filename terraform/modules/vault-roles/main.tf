# The identities of the vault. What they may do and who may take them is decided in `modules/vault-policy`.

locals {
  roles = { for key, role in var.roles : key => role if role.kind == "role" }
  users = { for key, role in var.roles : key => role if role.kind == "user" }
}

resource "aws_iam_openid_connect_provider" "cluster" {
  for_each = var.issuers

  url            = "https://${each.value}"
  client_id_list = ["sts.amazonaws.com"]
  tags           = var.tags
}

resource "aws_iam_role" "vault" {
  for_each = local.roles

  name                 = each.value.name
  description          = "Holdfast vault: ${each.key}"
  assume_role_policy   = each.value.trust
  max_session_duration = 3600
  tags                 = var.tags

  depends_on = [aws_iam_openid_connect_provider.cluster]
}

resource "aws_iam_role_policy" "vault" {
  for_each = local.roles

  name   = "vault"
  role   = aws_iam_role.vault[each.key].name
  policy = each.value.policy
}

# For clusters whose tokens AWS cannot check. Access keys are made by hand (`aws iam create-access-key`) and go straight into the
# cluster's Secret, so that they stand in no state file.
resource "aws_iam_user" "vault" {
  for_each = local.users

  name = each.value.name
  tags = var.tags
}

resource "aws_iam_user_policy" "vault" {
  for_each = local.users

  name   = "vault"
  user   = aws_iam_user.vault[each.key].name
  policy = each.value.policy
}
