//! URLs for JavaScript, following the URL standard.

use rquickjs::prelude::Opt;
use rquickjs::{Ctx, Function, Object};
use url::{Url, quirks};

/// Adds the functions that the built-in modules use.
pub(super) fn add<'js>(ctx: &Ctx<'js>, natives: &Object<'js>) -> rquickjs::Result<()> {
    natives.set("url", Function::new(ctx.clone(), parse)?)?;
    natives.set("changeUrl", Function::new(ctx.clone(), change)?)
}

/// The parts of a URL as JSON text, or `None` if it is invalid.
fn parse(href: String, base: Opt<Option<String>>) -> Option<String> {
    let url = match base.0.flatten() {
        Some(base) => Url::parse(&base).ok()?.join(&href).ok()?,
        None => Url::parse(&href).ok()?,
    };
    Some(parts(&url))
}

/// The parts of a URL with one part changed, or `None` if the change is invalid.
fn change(href: String, part: String, value: String) -> Option<String> {
    let mut url = Url::parse(&href).ok()?;
    match part.as_str() {
        "href" => quirks::set_href(&mut url, &value).ok()?,
        "protocol" => quirks::set_protocol(&mut url, &value).ok()?,
        "username" => quirks::set_username(&mut url, &value).ok()?,
        "password" => quirks::set_password(&mut url, &value).ok()?,
        "host" => quirks::set_host(&mut url, &value).ok()?,
        "hostname" => quirks::set_hostname(&mut url, &value).ok()?,
        "port" => quirks::set_port(&mut url, &value).ok()?,
        "pathname" => quirks::set_pathname(&mut url, &value),
        "search" => quirks::set_search(&mut url, &value),
        "hash" => quirks::set_hash(&mut url, &value),
        _ => return None,
    }
    Some(parts(&url))
}

fn parts(url: &Url) -> String {
    serde_json::json!({
        "href": quirks::href(url),
        "origin": quirks::origin(url),
        "protocol": quirks::protocol(url),
        "username": quirks::username(url),
        "password": quirks::password(url),
        "host": quirks::host(url),
        "hostname": quirks::hostname(url),
        "port": quirks::port(url),
        "pathname": quirks::pathname(url),
        "search": quirks::search(url),
        "hash": quirks::hash(url),
    })
    .to_string()
}
