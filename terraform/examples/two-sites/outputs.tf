output "manifests" {
  description = "For each cluster: `terraform output -json manifests | jq -r .primary | kubectl apply -f -`."
  value       = module.manifests.manifests
}

output "roles" {
  description = "ARN of each role."
  value       = module.roles.arns
}

output "service_control_policy" {
  description = "For the organisation's management account to attach to the vault's account."
  value       = module.policy.service_control_policy
}
