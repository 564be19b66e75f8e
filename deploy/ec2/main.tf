# What the control plane needs of an AWS account: a role that may do what policy.json says, a security group for machines,
# and the settings that follow from both.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

data "aws_caller_identity" "this" {}
data "aws_region" "this" {}

data "aws_subnet" "machines" {
  count = length(var.subnet_ids)
  id    = var.subnet_ids[count.index]
}

resource "aws_iam_policy" "controlplane" {
  name = "${var.name}-controlplane"
  policy = templatefile("${path.module}/policy.json", {
    region  = data.aws_region.this.name
    account = data.aws_caller_identity.this.account_id
  })
}

resource "aws_iam_role" "controlplane" {
  name               = "${var.name}-controlplane"
  assume_role_policy = var.assume_role_policy
}

resource "aws_iam_role_policy_attachment" "controlplane" {
  role       = aws_iam_role.controlplane.name
  policy_arn = aws_iam_policy.controlplane.arn
}

# Machines of different organisations share this group, and nothing of it lets them reach each other.
resource "aws_security_group" "machines" {
  name        = "${var.name}-machines"
  description = "Machines of workspaces: agents are reached by tenants only"
  vpc_id      = data.aws_subnet.machines[0].vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "agents" {
  for_each          = toset(var.tenant_cidrs)
  security_group_id = aws_security_group.machines.id
  description       = "Tenants reach agents"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = var.agent_port
  to_port           = var.agent_port
}

# Images and model providers are on the internet; what is private is let out to only where it is listed.
resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.machines.id
  description       = "Registries, model providers, the control plane's boot address, tenants"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "dns" {
  for_each          = toset(["tcp", "udp"])
  security_group_id = aws_security_group.machines.id
  description       = "The VPC's resolver"
  cidr_ipv4         = var.resolver_cidr
  ip_protocol       = each.value
  from_port         = 53
  to_port           = 53
}

resource "aws_vpc_security_group_egress_rule" "tenants" {
  for_each          = toset(var.tenant_cidrs)
  security_group_id = aws_security_group.machines.id
  description       = "Agents reach their tenants"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = var.tenant_port
  to_port           = var.tenant_port
}
