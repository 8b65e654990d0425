# A container for audit logs on Azure: an immutability policy that nobody can shorten once it is
# locked, no account keys, no public access, and roles for hosts and for readers. A host may add
# blobs and read them: neither replace nor remove any.

terraform {
  required_version = ">= 1.3"
  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = ">= 4.0"
    }
  }
}

variable "resource_group" {
  description = "The resource group of the storage account."
  type        = string
}

variable "location" {
  description = "The region, preferably that of the hosts."
  type        = string
}

variable "account" {
  description = "The name of the storage account to create."
  type        = string
}

variable "container" {
  description = "The name of the container to create."
  type        = string
  default     = "audit-logs"
}

variable "prefix" {
  description = "The prefix below which hosts write, without leading or trailing slashes."
  type        = string
  default     = "audit"

  validation {
    condition     = can(regex("^[^/'].*[^/']$|^[^/']$", var.prefix))
    error_message = "The prefix has at least one character, and no slash or quote at its ends."
  }
}

variable "lock_days" {
  description = "For how many days nobody can remove or replace a blob."
  type        = number
  default     = 2556
}

variable "lock" {
  description = "Whether the policy is locked: nobody, not even the owner, can then remove or shorten it. Try without a lock first."
  type        = bool
  default     = false
}

variable "host_principals" {
  description = "Object ids of the identities of hosts that write audit logs."
  type        = set(string)
  default     = []
}

variable "reader_principals" {
  description = "Object ids of the identities that read audit logs."
  type        = set(string)
  default     = []
}

locals {
  blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
  path  = "@Resource[${local.blobs}:path]"
}

resource "azurerm_storage_account" "audit" {
  name                            = var.account
  resource_group_name             = var.resource_group
  location                        = var.location
  account_tier                    = "Standard"
  account_replication_type        = "ZRS"
  min_tls_version                 = "TLS1_2"
  https_traffic_only_enabled      = true
  allow_nested_items_to_be_public = false
  # Keys of the account may do everything; identities have roles.
  shared_access_key_enabled       = false
  default_to_oauth_authentication = true
}

resource "azurerm_storage_container" "audit" {
  name                  = var.container
  storage_account_id    = azurerm_storage_account.audit.id
  container_access_type = "private"
}

resource "azurerm_storage_container_immutability_policy" "audit" {
  storage_container_resource_manager_id = azurerm_storage_container.audit.id
  immutability_period_in_days           = var.lock_days
  locked                                = var.lock
  protected_append_writes_all_enabled   = false
  protected_append_writes_enabled       = false
}

resource "azurerm_storage_management_policy" "audit" {
  storage_account_id = azurerm_storage_account.audit.id

  rule {
    name    = "audit-logs"
    enabled = true
    filters {
      prefix_match = ["${var.container}/${var.prefix}/dt="]
      blob_types   = ["blockBlob"]
    }
    actions {
      base_blob {
        tier_to_cool_after_days_since_modification_greater_than = 90
        delete_after_days_since_modification_greater_than       = var.lock_days + 1
      }
    }
  }
}

resource "azurerm_role_definition" "host" {
  name        = "${var.account} audit log host"
  scope       = azurerm_storage_account.audit.id
  description = "Adds audit logs and reads them back. It can neither replace nor remove."
  permissions {
    # Not blobs/write, which also replaces.
    data_actions = ["${local.blobs}/add/action", "${local.blobs}/read"]
  }
}

resource "azurerm_role_definition" "reader" {
  name        = "${var.account} audit log reader"
  scope       = azurerm_storage_account.audit.id
  description = "Lists and reads audit logs."
  permissions {
    data_actions = ["${local.blobs}/read"]
  }
}

resource "azurerm_role_assignment" "host" {
  for_each           = var.host_principals
  scope              = azurerm_storage_container.audit.id
  role_definition_id = azurerm_role_definition.host.role_definition_resource_id
  principal_id       = each.value
  condition_version  = "2.0"
  condition          = "(!(ActionMatches{'${local.blobs}/add/action'} OR ActionMatches{'${local.blobs}/read'}) OR ${local.path} StringLike '${var.prefix}/*')"
}

resource "azurerm_role_assignment" "reader" {
  for_each           = var.reader_principals
  scope              = azurerm_storage_container.audit.id
  role_definition_id = azurerm_role_definition.reader.role_definition_resource_id
  principal_id       = each.value
}

output "bucket_url" {
  description = "The bucket URL for hosts and the command `audit`, with AZURE_STORAGE_ACCOUNT_NAME set to the account."
  value       = "az://${var.container}/${var.prefix}"
}
