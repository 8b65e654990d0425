//! From what a user wrote to what the engine reads.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use swc_common::errors::{DiagnosticBuilder, Emitter, Handler, Level};
use swc_common::sync::Lrc;
use swc_common::{GLOBALS, Globals, SourceMap};
use swc_ts_fast_strip::{ErrorCode, Mode, Options, operate};

use super::LoadError;

/// The JavaScript of a source file. Types become spaces, so that lines and columns stay those that
/// the user sees.
pub(crate) fn javascript(path: &Path, text: String) -> Result<String, LoadError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension {
        "ts" | "mts" | "tsx" => on_a_large_stack(path, || stripped(path, &text)),
        "json" => Ok(format!("export default {text};")),
        _ => Ok(text),
    }
}

/// The stack for reading one file, in bytes. The parser calls itself for each level of an
/// expression or a type, and a stack that overflows ends the process: this is enough for thousands
/// of brackets in one another. It is address space; memory is taken as it is used.
const STACK_BYTES: usize = 1 << 30;

fn on_a_large_stack(
    path: &Path,
    work: impl FnOnce() -> Result<String, LoadError> + Send,
) -> Result<String, LoadError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("functions-load".to_owned());
        let thread = thread.stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| LoadError::at(path, error))?;
        thread.join().unwrap_or_else(|_| Err(LoadError::at(path, "the TypeScript parser panicked")))
    })
}

fn stripped(path: &Path, text: &str) -> Result<String, LoadError> {
    match strip(path, text, Mode::StripOnly) {
        Ok(code) => Ok(code),
        // `enum` and `namespace` are code, not types: what they mean must be written out, and
        // positions are lost.
        Err((ErrorCode::UnsupportedSyntax, error)) => {
            strip(path, text, Mode::Transform).map_err(|_| error)
        }
        Err((_, error)) => Err(error),
    }
}

fn strip(path: &Path, text: &str, mode: Mode) -> Result<String, (ErrorCode, LoadError)> {
    let map: Lrc<SourceMap> = Lrc::default();
    let found = Found::default();
    let handler = Handler::with_emitter(
        true,
        false,
        Box::new(Collector { map: Lrc::clone(&map), found: found.clone() }),
    );
    let mut options = Options {
        module: Some(true),
        filename: Some(path.display().to_string()),
        mode,
        ..Options::default()
    };
    options.parser.decorators = true;
    options.parser.tsx = path.extension().is_some_and(|extension| extension == "tsx");
    let output = GLOBALS.set(&Globals::new(), || operate(&map, &handler, text.to_owned(), options));
    output.map(|output| output.code).map_err(|error| {
        let first = found.lock().unwrap_or_else(PoisonError::into_inner).first().cloned();
        let load_error = match first {
            Some((place, message)) => LoadError::new(format!("{}{place}", path.display()), message),
            None => LoadError::at(path, error.message),
        };
        (error.code, load_error)
    })
}

/// Places as `:line:column`, and what is wrong there.
type Found = Arc<Mutex<Vec<(String, String)>>>;

/// Keeps what the parser complains about.
struct Collector {
    map: Lrc<SourceMap>,
    found: Found,
}

impl Emitter for Collector {
    fn emit(&mut self, diagnostic: &mut DiagnosticBuilder<'_>) {
        if !matches!(diagnostic.level, Level::Error | Level::Fatal | Level::Bug | Level::PhaseFatal)
        {
            return;
        }
        let place = diagnostic.span.primary_span().map(|span| {
            let at = self.map.lookup_char_pos(span.lo);
            format!(":{}:{}", at.line, at.col.0 + 1)
        });
        let complaint = (place.unwrap_or_default(), diagnostic.message());
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push(complaint);
    }
}
