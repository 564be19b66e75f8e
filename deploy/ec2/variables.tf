variable "name" {
  description = "What the names of all that is made begin with."
  type        = string
  default     = "molecule"
}

variable "subnet_ids" {
  description = "Subnets that machines go to, best one in each zone, all of one VPC."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) > 0
    error_message = "Give at least one subnet."
  }
}

variable "tenant_cidrs" {
  description = "Where tenant-svc runs: it reaches agents, and agents reach it."
  type        = list(string)
}

variable "agent_port" {
  description = "The port that agents serve."
  type        = number
  default     = 8000
}

variable "tenant_port" {
  description = "The port of tenants' TENANT_AGENT_URL."
  type        = number
  default     = 7071
}

variable "resolver_cidr" {
  description = "The VPC's DNS resolver."
  type        = string
  default     = "169.254.169.253/32"
}

variable "assume_role_policy" {
  description = "Who may take the control plane's role: its service account, task or instance, as JSON."
  type        = string
}
