# A bucket for audit logs on Google Cloud: a retention that nobody can shorten once it is locked, no
# public access, and roles for hosts and for readers. A host may create objects and read them;
# overwriting needs the permission to delete, which nobody gets here.

terraform {
  required_version = ">= 1.3"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.0"
    }
  }
}

variable "project" {
  description = "The project of the bucket."
  type        = string
}

variable "location" {
  description = "The region of the bucket, preferably that of its hosts."
  type        = string
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
  description = "For how many days nobody can remove or replace an object."
  type        = number
  default     = 2556
}

variable "lock" {
  description = "Whether the retention is locked: nobody, not even the owner, can then remove or shorten it. Try without a lock first."
  type        = bool
  default     = false
}

variable "hosts" {
  description = "Members that write audit logs, such as serviceAccount:host@project.iam.gserviceaccount.com."
  type        = set(string)
  default     = []
}

variable "readers" {
  description = "Members that read audit logs."
  type        = set(string)
  default     = []
}

resource "google_storage_bucket" "audit" {
  name                        = var.bucket
  project                     = var.project
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  retention_policy {
    retention_period = var.lock_days * 24 * 60 * 60
    is_locked        = var.lock
  }

  # What is locked cannot be restored by accident either: deleted objects are gone.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      age            = 90
      matches_prefix = ["${var.prefix}/dt="]
    }
    action {
      type          = "SetStorageClass"
      storage_class = "COLDLINE"
    }
  }

  lifecycle_rule {
    condition {
      age            = var.lock_days + 1
      matches_prefix = ["${var.prefix}/dt="]
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_project_iam_custom_role" "host" {
  project     = var.project
  role_id     = "auditLogHost"
  title       = "Audit log host"
  description = "Creates audit logs and reads them back. It can neither overwrite nor remove."
  permissions = ["storage.objects.create", "storage.objects.get"]
}

resource "google_project_iam_custom_role" "reader" {
  project     = var.project
  role_id     = "auditLogReader"
  title       = "Audit log reader"
  description = "Lists and reads audit logs."
  permissions = ["storage.objects.get", "storage.objects.list"]
}

resource "google_storage_bucket_iam_member" "host" {
  for_each = var.hosts
  bucket   = google_storage_bucket.audit.name
  role     = google_project_iam_custom_role.host.id
  member   = each.value

  condition {
    title      = "below-prefix"
    expression = "resource.name.startsWith(\"projects/_/buckets/${var.bucket}/objects/${var.prefix}/\")"
  }
}

# Listing is a permission on the bucket, so it has no prefix.
resource "google_storage_bucket_iam_member" "reader" {
  for_each = var.readers
  bucket   = google_storage_bucket.audit.name
  role     = google_project_iam_custom_role.reader.id
  member   = each.value
}

output "bucket_url" {
  description = "The bucket URL for hosts and the command `audit`."
  value       = "gs://${var.bucket}/${var.prefix}"
}
