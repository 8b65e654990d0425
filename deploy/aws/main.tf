# A bucket for audit logs: create-only, TLS only, versions, a retention that nobody can shorten, and
# policies for hosts and for readers. The documents are the plain JSON files beside this one.

terraform {
  required_version = ">= 1.3"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "bucket" {
  description = "The name of the bucket to create."
  type        = string
}

variable "prefix" {
  description = "The prefix below which hosts write, without leading or trailing slashes."
  type        = string
  default     = "audit"

  validation {
    condition     = can(regex("^[^/].*[^/]$|^[^/]$", var.prefix))
    error_message = "The prefix has at least one character, and no slash at its ends."
  }
}

variable "lock_days" {
  description = "For how many days nobody, not even the account's owner, can remove or change an object. It cannot be shortened later."
  type        = number
  default     = 2556
}

variable "host_roles" {
  description = "Names of the IAM roles of hosts that write audit logs."
  type        = set(string)
  default     = []
}

variable "reader_roles" {
  description = "Names of the IAM roles that read audit logs."
  type        = set(string)
  default     = []
}

locals {
  document = {
    for name in ["host-policy", "reader-policy", "bucket-policy"] :
    name => replace(replace(file("${path.module}/${name}.json"), "BUCKET", var.bucket), "PREFIX", var.prefix)
  }
}

resource "aws_s3_bucket" "audit" {
  bucket              = var.bucket
  object_lock_enabled = true
}

resource "aws_s3_bucket_versioning" "audit" {
  bucket = aws_s3_bucket.audit.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_object_lock_configuration" "audit" {
  bucket     = aws_s3_bucket.audit.id
  depends_on = [aws_s3_bucket_versioning.audit]
  rule {
    default_retention {
      mode = "COMPLIANCE"
      days = var.lock_days
    }
  }
}

resource "aws_s3_bucket_public_access_block" "audit" {
  bucket                  = aws_s3_bucket.audit.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_policy" "audit" {
  bucket     = aws_s3_bucket.audit.id
  policy     = local.document["bucket-policy"]
  depends_on = [aws_s3_bucket_public_access_block.audit]
}

resource "aws_s3_bucket_lifecycle_configuration" "audit" {
  bucket     = aws_s3_bucket.audit.id
  depends_on = [aws_s3_bucket_versioning.audit]

  rule {
    id     = "audit-logs"
    status = "Enabled"
    filter {
      prefix = "${var.prefix}/dt="
    }
    transition {
      days          = 90
      storage_class = "GLACIER_IR"
    }
    expiration {
      days = var.lock_days + 1
    }
    noncurrent_version_expiration {
      noncurrent_days = 1
    }
  }
}

resource "aws_iam_policy" "host" {
  name   = "${var.bucket}-audit-host"
  policy = local.document["host-policy"]
}

resource "aws_iam_policy" "reader" {
  name   = "${var.bucket}-audit-reader"
  policy = local.document["reader-policy"]
}

resource "aws_iam_role_policy_attachment" "host" {
  for_each   = var.host_roles
  role       = each.value
  policy_arn = aws_iam_policy.host.arn
}

resource "aws_iam_role_policy_attachment" "reader" {
  for_each   = var.reader_roles
  role       = each.value
  policy_arn = aws_iam_policy.reader.arn
}

output "bucket_url" {
  description = "The bucket URL for hosts and the command `audit`."
  value       = "s3://${var.bucket}/${var.prefix}"
}
