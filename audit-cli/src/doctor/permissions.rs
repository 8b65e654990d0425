//! Each provider's names for the permissions of hosts and readers, and for its protections.

/// A provider's names for the permissions of hosts and readers.
pub(super) struct Permissions {
    pub(super) put: &'static str,
    pub(super) get: &'static str,
    pub(super) list: &'static str,
    /// How to forbid overwriting.
    pub(super) overwriting: &'static str,
    /// How to forbid deleting.
    pub(super) deleting: &'static str,
}

impl Permissions {
    pub(super) fn of(url: &str) -> &'static Permissions {
        match url.split_once(':').map_or("", |(scheme, _)| scheme) {
            "s3" => &Permissions {
                put: "s3:PutObject",
                get: "s3:GetObject",
                list: "s3:ListBucket",
                overwriting: "deny s3:PutObject without If-None-Match in the bucket's policy (Sid \
                              NoOverwriting; audit policy bucket)",
                deleting: "do not allow s3:DeleteObject, and deny it in the bucket's policy (Sid \
                           NoDeleting; audit policy bucket)",
            },
            "gs" => &Permissions {
                put: "storage.objects.create",
                get: "storage.objects.get",
                list: "storage.objects.list",
                overwriting: "let the credentials create objects and not replace them: \
                              roles/storage.objectCreator and a role with storage.objects.get",
                deleting: "take storage.objects.delete away, and set a retention policy on the \
                           bucket",
            },
            "az" => &Permissions {
                put: "creating blobs (SAS permission c)",
                get: "reading blobs (SAS permission r)",
                list: "listing blobs (SAS permission l)",
                overwriting: "let the credentials create blobs and not replace them (SAS \
                              permission c without w), or set an immutability policy on the \
                              container",
                deleting: "take the permission to delete blobs away (SAS permission d), and set \
                           an immutability policy on the container",
            },
            _ => &Permissions {
                put: "creating files",
                get: "reading files",
                list: "listing the directory",
                overwriting: OF_DIRECTORY,
                deleting: OF_DIRECTORY,
            },
        }
    }
}

pub(super) const OF_DIRECTORY: &str =
    "who may write to a directory may change what is in it: it is for development";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_the_providers_own_permissions() {
        for (url, own, others) in [
            ("s3://b/p", "s3:", ["storage.", "SAS"]),
            ("gs://b/p", "storage.", ["s3:", "SAS"]),
            ("az://b/p", "SAS", ["s3:", "storage."]),
            ("file:///b", "directory", ["s3:", "SAS"]),
        ] {
            let Permissions { put, get, list, overwriting, deleting } = *Permissions::of(url);
            let all = [put, get, list, overwriting, deleting].join(" ");
            assert!(all.contains(own), "{all}");
            assert!(!others.iter().any(|other| all.contains(other)), "{all}");
        }
    }
}
