# The same for a store that has bucket policies and identities but neither roles nor AWS's condition keys (SeaweedFS, Ceph, MinIO):
# one bucket policy that grants and denies. What only AWS can be told is left out; Object Lock itself is enforced by the store.

locals {
  named_arns = merge(local.role_arns, var.principal_arns)

  portable_denials = [
    for denial in local.denials : {
      for key, value in {
        Sid    = denial.sid
        Effect = "Deny"
        # Whom it does not spare, by name. An identity that the policy does not know has no rights here anyway.
        Principal = length(local.spared_arns[denial.sid]) == 0 ? { AWS = ["*"] } : {
          AWS = sort([for key, arn in local.named_arns : arn if !contains(try(denial.except, []), key)])
        }
        Action      = denial.actions
        Resource    = try(denial.resources, null)
        NotResource = try(denial.not_resources, null)
        Condition   = try(denial.condition, {})
      } : key => value if value != null && value != {}
    } if !try(denial.aws_only, false)
  ]

  portable_grants = flatten([
    for key, statements in local.store_statements : [
      for statement in statements : merge(statement, {
        Sid       = "${replace(title(replace(key, "/[^a-z0-9]/", " ")), " ", "")}${statement.Sid}"
        Principal = { AWS = [local.named_arns[key]] }
      })
    ]
  ])

  portable_bucket_policy = jsonencode({ Version = "2012-10-17", Statement = concat(local.portable_grants, local.portable_denials) })
}
