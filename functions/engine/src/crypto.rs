//! The cryptography behind `crypto.subtle`. `js/crypto.js` checks names and keys, but nothing here
//! trusts them: an operation that is not possible returns `None`.

use std::num::NonZeroU32;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::pkcs8::Document;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED, ECDSA_P521_SHA512_FIXED_SIGNING,
    ED25519, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair, RsaSignatureEncoding,
    UnparsedPublicKey, VerificationAlgorithm,
};
use aws_lc_rs::{digest, hkdf, hmac, pbkdf2};
use rquickjs::{Ctx, Function, Object, TypedArray};

use super::bytes::of_characters;

type Bytes<'js> = rquickjs::Result<Option<TypedArray<'js, u8>>>;

/// Adds the functions that `js/crypto.js` uses.
pub(super) fn add<'js>(ctx: &Ctx<'js>, natives: &Object<'js>) -> rquickjs::Result<()> {
    let digested = |ctx: Ctx<'js>, hash: String, data: String| -> Bytes<'js> {
        given(ctx, digest_of(&hash).map(|hash| digest::digest(hash, &of_characters(&data))))
    };
    natives.set("digest", Function::new(ctx.clone(), digested)?)?;
    let authenticated = |ctx: Ctx<'js>, hash: String, key: String, data: String| -> Bytes<'js> {
        given(ctx, hmac_key(&hash, &key).map(|key| hmac::sign(&key, &of_characters(&data))))
    };
    natives.set("hmac", Function::new(ctx.clone(), authenticated)?)?;
    let is_authentic = |hash: String, key: String, data: String, tag: String| {
        let key = hmac_key(&hash, &key)?;
        Some(hmac::verify(&key, &of_characters(&data), &of_characters(&tag)).is_ok())
    };
    natives.set("hmacVerify", Function::new(ctx.clone(), is_authentic)?)?;
    let stretched =
        |ctx: Ctx<'js>, hash: String, password: String, salt: String, times: u32, bytes: usize| {
            given(ctx, stretch(&hash, &password, &salt, times, bytes))
        };
    natives.set("pbkdf2", Function::new(ctx.clone(), stretched)?)?;
    let expanded =
        |ctx: Ctx<'js>, hash: String, secret: String, salt: String, info: String, bytes: usize| {
            given(ctx, expand(&hash, &secret, &salt, &info, bytes))
        };
    natives.set("hkdf", Function::new(ctx.clone(), expanded)?)?;
    let sealed =
        |ctx: Ctx<'js>, is_seal: bool, key: String, iv: String, more: String, data: String| {
            given(ctx, seal(is_seal, &key, &iv, &more, &data))
        };
    natives.set("aesGcm", Function::new(ctx.clone(), sealed)?)?;
    let signed = |ctx: Ctx<'js>, scheme: String, key: String, data: String| -> Bytes<'js> {
        given(ctx, sign(&scheme, &of_characters(&key), &of_characters(&data)))
    };
    natives.set("sign", Function::new(ctx.clone(), signed)?)?;
    let verified = |scheme: String, key: String, signature: String, data: String| {
        let key = UnparsedPublicKey::new(verification(&scheme)?, of_characters(&key));
        Some(key.verify(&of_characters(&data), &of_characters(&signature)).is_ok())
    };
    natives.set("verify", Function::new(ctx.clone(), verified)?)?;
    let is_usable = |kind: String, is_private: bool, key: String| {
        is_key(&kind, is_private, &of_characters(&key))
    };
    natives.set("isKey", Function::new(ctx.clone(), is_usable)?)?;
    let public = |ctx: Ctx<'js>, kind: String, key: String| -> Bytes<'js> {
        given(ctx, public_key(&kind, &of_characters(&key)))
    };
    natives.set("publicKey", Function::new(ctx.clone(), public)?)?;
    let generated = |ctx: Ctx<'js>, kind: String| -> Bytes<'js> { given(ctx, generate(&kind)) };
    natives.set("generateKey", Function::new(ctx.clone(), generated)?)
}

fn given<'js>(ctx: Ctx<'js>, bytes: Option<impl AsRef<[u8]>>) -> Bytes<'js> {
    bytes.map(|bytes| TypedArray::new_copy(ctx, bytes)).transpose()
}

fn digest_of(hash: &str) -> Option<&'static digest::Algorithm> {
    match hash {
        "SHA-1" => Some(&digest::SHA1_FOR_LEGACY_USE_ONLY),
        "SHA-256" => Some(&digest::SHA256),
        "SHA-384" => Some(&digest::SHA384),
        "SHA-512" => Some(&digest::SHA512),
        _ => None,
    }
}

fn hmac_key(hash: &str, key: &str) -> Option<hmac::Key> {
    let algorithm = match hash {
        "SHA-1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        "SHA-256" => hmac::HMAC_SHA256,
        "SHA-384" => hmac::HMAC_SHA384,
        "SHA-512" => hmac::HMAC_SHA512,
        _ => return None,
    };
    Some(hmac::Key::new(algorithm, &of_characters(key)))
}

fn stretch(hash: &str, password: &str, salt: &str, times: u32, bytes: usize) -> Option<Vec<u8>> {
    let algorithm = match hash {
        "SHA-1" => pbkdf2::PBKDF2_HMAC_SHA1,
        "SHA-256" => pbkdf2::PBKDF2_HMAC_SHA256,
        "SHA-384" => pbkdf2::PBKDF2_HMAC_SHA384,
        "SHA-512" => pbkdf2::PBKDF2_HMAC_SHA512,
        _ => return None,
    };
    let mut derived = vec![0; bytes];
    let (salt, password) = (of_characters(salt), of_characters(password));
    pbkdf2::derive(algorithm, NonZeroU32::new(times)?, &salt, &password, &mut derived);
    Some(derived)
}

fn expand(hash: &str, secret: &str, salt: &str, info: &str, bytes: usize) -> Option<Vec<u8>> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let algorithm = match hash {
        "SHA-1" => hkdf::HKDF_SHA1_FOR_LEGACY_USE_ONLY,
        "SHA-256" => hkdf::HKDF_SHA256,
        "SHA-384" => hkdf::HKDF_SHA384,
        "SHA-512" => hkdf::HKDF_SHA512,
        _ => return None,
    };
    let key = hkdf::Salt::new(algorithm, &of_characters(salt)).extract(&of_characters(secret));
    let info = of_characters(info);
    let info = [&info[..]];
    let mut derived = Vec::new();
    let output = key.expand(&info, Length(bytes)).ok()?;
    derived.resize(bytes, 0);
    output.fill(&mut derived).ok()?;
    Some(derived)
}

fn seal(is_seal: bool, key: &str, iv: &str, more: &str, data: &str) -> Option<Vec<u8>> {
    let key = of_characters(key);
    let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &key).ok()?);
    let nonce = Nonce::try_assume_unique_for_key(&of_characters(iv)).ok()?;
    let more = Aad::from(of_characters(more));
    let mut data = of_characters(data);
    if is_seal {
        key.seal_in_place_append_tag(nonce, more, &mut data).ok()?;
        return Some(data);
    }
    let opened = key.open_in_place(nonce, more, &mut data).ok()?.len();
    data.truncate(opened);
    Some(data)
}

/// Signs with a private key in PKCS#8 format.
fn sign(scheme: &str, key: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let random = SystemRandom::new();
    let encoding: &'static RsaSignatureEncoding = match scheme {
        "RSASSA SHA-256" => &RSA_PKCS1_SHA256,
        "RSASSA SHA-384" => &RSA_PKCS1_SHA384,
        "RSASSA SHA-512" => &RSA_PKCS1_SHA512,
        "RSA-PSS SHA-256" => &RSA_PSS_SHA256,
        "RSA-PSS SHA-384" => &RSA_PSS_SHA384,
        "RSA-PSS SHA-512" => &RSA_PSS_SHA512,
        "Ed25519" => {
            let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).ok()?;
            return Some(key.sign(data).as_ref().to_vec());
        }
        _ => {
            let (kind, hash) = scheme.rsplit_once(' ')?;
            let (algorithm, own) = ecdsa(kind)?;
            let key = EcdsaKeyPair::from_pkcs8(algorithm, key).ok().filter(|_| hash == own)?;
            return Some(key.sign(&random, data).ok()?.as_ref().to_vec());
        }
    };
    let key = RsaKeyPair::from_pkcs8(key).ok()?;
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(encoding, &random, data, &mut signature).ok()?;
    Some(signature)
}

/// The algorithm of a key's curve, and the hash that it signs with.
fn ecdsa(kind: &str) -> Option<(&'static EcdsaSigningAlgorithm, &'static str)> {
    match kind {
        "ECDSA P-256" => Some((&ECDSA_P256_SHA256_FIXED_SIGNING, "SHA-256")),
        "ECDSA P-384" => Some((&ECDSA_P384_SHA384_FIXED_SIGNING, "SHA-384")),
        "ECDSA P-521" => Some((&ECDSA_P521_SHA512_FIXED_SIGNING, "SHA-512")),
        _ => None,
    }
}

fn verification(scheme: &str) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match scheme {
        "RSASSA SHA-1" => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        "RSASSA SHA-256" => &RSA_PKCS1_2048_8192_SHA256,
        "RSASSA SHA-384" => &RSA_PKCS1_2048_8192_SHA384,
        "RSASSA SHA-512" => &RSA_PKCS1_2048_8192_SHA512,
        "RSA-PSS SHA-256" => &RSA_PSS_2048_8192_SHA256,
        "RSA-PSS SHA-384" => &RSA_PSS_2048_8192_SHA384,
        "RSA-PSS SHA-512" => &RSA_PSS_2048_8192_SHA512,
        "ECDSA P-256 SHA-256" => &ECDSA_P256_SHA256_FIXED,
        "ECDSA P-384 SHA-384" => &ECDSA_P384_SHA384_FIXED,
        "ECDSA P-521 SHA-512" => &ECDSA_P521_SHA512_FIXED,
        "Ed25519" => &ED25519,
        _ => return None,
    })
}

/// Whether a key is a usable one of this kind.
fn is_key(kind: &str, is_private: bool, key: &[u8]) -> bool {
    if is_private {
        return match (kind, ecdsa(kind)) {
            ("RSA", _) => RsaKeyPair::from_pkcs8(key).is_ok(),
            ("Ed25519", _) => Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).is_ok(),
            (_, Some((algorithm, _))) => EcdsaKeyPair::from_pkcs8(algorithm, key).is_ok(),
            (_, None) => false,
        };
    }
    let scheme = match (kind, ecdsa(kind)) {
        ("RSA", _) => "RSASSA SHA-256".to_owned(),
        (_, Some((_, hash))) => format!("{kind} {hash}"),
        (_, None) => kind.to_owned(),
    };
    verification(&scheme).is_some_and(|algorithm| ParsedPublicKey::new(algorithm, key).is_ok())
}

/// A new private key in PKCS#8 format.
fn generate(kind: &str) -> Option<Document> {
    let random = SystemRandom::new();
    match kind {
        "Ed25519" => Ed25519KeyPair::generate_pkcs8v1(&random).ok(),
        _ => EcdsaKeyPair::generate_pkcs8(ecdsa(kind)?.0, &random).ok(),
    }
}

/// The public part of a private key.
fn public_key(kind: &str, key: &[u8]) -> Option<Vec<u8>> {
    match kind {
        "Ed25519" => {
            let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).ok()?;
            Some(key.public_key().as_ref().to_vec())
        }
        _ => {
            let key = EcdsaKeyPair::from_pkcs8(ecdsa(kind)?.0, key).ok()?;
            Some(key.public_key().as_ref().to_vec())
        }
    }
}
