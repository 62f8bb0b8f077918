output "bucket" {
  description = "Name of the bucket, once all its settings and its policy are in force."
  value       = aws_s3_bucket_policy.vault.bucket
}

output "bucket_arn" {
  description = "ARN of the bucket."
  value       = aws_s3_bucket.vault.arn
}
