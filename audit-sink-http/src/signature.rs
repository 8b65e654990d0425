//! The signatures of a webhook.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::secret::Secret;

/// The prefix of a Standard Webhooks key, before its base64.
const PREFIX: &str = "whsec_";

/// Signs bodies with one secret, or with a new and an old one during a rotation.
#[derive(Debug)]
pub(crate) struct Signer {
    secrets: Vec<Secret>,
}

impl Signer {
    /// Creates a signer with these secrets.
    ///
    /// # Errors
    ///
    /// If a secret begins with `whsec_` and the rest is not base64.
    pub(crate) fn new(secrets: Vec<Secret>) -> Result<Signer, String> {
        for secret in &secrets {
            key(secret)?;
        }
        Ok(Signer { secrets })
    }

    /// The headers of a request with this id and body, sent at this time (seconds since the Unix
    /// epoch).
    pub(crate) fn headers(
        &self,
        id: &str,
        seconds: i64,
        body: &[u8],
    ) -> Vec<(&'static str, String)> {
        let mut headers =
            vec![("webhook-id", id.to_owned()), ("webhook-timestamp", seconds.to_string())];
        let Some(first) = self.secrets.first() else { return headers };
        // As Convex does it: the key is the secret's text, and there is one signature.
        let digest = hmac(first.as_str().as_bytes(), &[body]);
        headers.push(("x-webhook-signature", format!("sha256={}", HEXLOWER.encode(&digest))));
        let signatures = self.secrets.iter().filter_map(|secret| {
            let signed = hmac(&key(secret).ok()?, &[format!("{id}.{seconds}.").as_bytes(), body]);
            Some(format!("v1,{}", STANDARD.encode(signed)))
        });
        headers.push(("webhook-signature", signatures.collect::<Vec<_>>().join(" ")));
        headers
    }
}

/// The key for Standard Webhooks: the bytes after `whsec_`, or the text itself.
fn key(secret: &Secret) -> Result<Vec<u8>, String> {
    match secret.as_str().strip_prefix(PREFIX) {
        Some(encoded) => STANDARD
            .decode(encoded)
            .map_err(|_| "a secret that begins with whsec_ goes on with base64".to_owned()),
        None => Ok(secret.as_str().as_bytes().to_vec()),
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the specification of Standard Webhooks, and one of RFC 4231.
    #[test]
    fn signatures_are_those_of_the_specifications() {
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signer = Signer::new(vec![secret]).unwrap();
        let body = br#"{"test": 2432232314}"#;
        let headers = signer.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        let signature = headers.iter().find(|(name, _)| *name == "webhook-signature").unwrap();
        assert_eq!(signature.1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");

        let signer = Signer::new(vec![Secret::new("Jefe")]).unwrap();
        let headers = signer.headers("id", 0, b"what do ya want for nothing?");
        let signature = headers.iter().find(|(name, _)| *name == "x-webhook-signature").unwrap();
        assert_eq!(
            signature.1,
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn two_secrets_make_two_signatures() {
        let signer = Signer::new(vec![Secret::new("new secret"), Secret::new("old secret")]);
        let headers = signer.unwrap().headers("id", 1, b"{}");
        let (_, signatures) =
            headers.iter().find(|(name, _)| *name == "webhook-signature").unwrap();
        assert_eq!(signatures.matches("v1,").count(), 2);
        let error = Signer::new(vec![Secret::new("whsec_!")]).unwrap_err();
        assert!(!error.contains('!'), "{error}");
    }
}
