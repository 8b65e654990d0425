//! Bytes and text for JavaScript.
//!
//! Bytes come from JavaScript as a string with one character per byte, since only unsafe code can
//! borrow the engine's buffers. They go to JavaScript as a copy, which counts towards the engine's
//! memory.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rquickjs::{Ctx, Exception, Function, Object, String as Text, TypedArray};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Adds the functions that the built-in modules use.
pub(super) fn add<'js>(ctx: &Ctx<'js>, natives: &Object<'js>) -> rquickjs::Result<()> {
    natives.set("utf8", Function::new(ctx.clone(), utf8)?)?;
    natives.set("text", Function::new(ctx.clone(), text)?)?;
    natives.set("base64", Function::new(ctx.clone(), base64)?)?;
    natives.set("fromBase64", Function::new(ctx.clone(), from_base64)?)
}

/// The bytes of a string with one character per byte.
pub(super) fn of_characters(characters: &str) -> Vec<u8> {
    characters.chars().filter_map(|byte| u8::try_from(u32::from(byte)).ok()).collect()
}

fn utf8<'js>(ctx: Ctx<'js>, text: Text<'js>) -> rquickjs::Result<TypedArray<'js, u8>> {
    TypedArray::new_copy(ctx, text.to_string()?)
}

fn text(ctx: Ctx<'_>, bytes: String, is_fatal: bool) -> rquickjs::Result<String> {
    match String::from_utf8(of_characters(&bytes)) {
        Ok(text) => Ok(text),
        Err(_) if is_fatal => Err(Exception::throw_type(&ctx, "the bytes are not UTF-8")),
        Err(error) => Ok(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

fn base64(bytes: String) -> String {
    BASE64.encode(of_characters(&bytes))
}

/// The decoded bytes, or `None` if the text is not base64.
fn from_base64(ctx: Ctx<'_>, text: String) -> rquickjs::Result<Option<TypedArray<'_, u8>>> {
    BASE64.decode(text).ok().map(|bytes| TypedArray::new_copy(ctx, bytes)).transpose()
}
