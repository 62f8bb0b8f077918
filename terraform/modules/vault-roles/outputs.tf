output "arns" {
  description = "ARN of each role and user, by its key (`writer/SITE`, `reader/NAME`, `auditor`, `janitor`)."
  value = merge(
    { for key, role in aws_iam_role.vault : key => role.arn },
    { for key, user in aws_iam_user.vault : key => user.arn },
  )
}
