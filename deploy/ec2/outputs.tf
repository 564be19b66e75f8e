output "role_arn" {
  description = "The role of the control plane."
  value       = aws_iam_role.controlplane.arn
}

output "settings" {
  description = "Settings of controlplane-svc that follow from this."
  value = {
    CONTROLPLANE_EC2_SUBNETS         = join(",", var.subnet_ids)
    CONTROLPLANE_EC2_SECURITY_GROUPS = aws_security_group.machines.id
    AWS_REGION                       = data.aws_region.this.name
  }
}
