//! The path of a component.

use std::fmt;

/// The names of components from the root down: empty for the app, `["files", "blobs"]` for a nested
/// component.
///
/// Displayed as `files/blobs`; the root as an empty string.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComponentPath(Vec<String>);

impl ComponentPath {
    /// The app.
    pub fn root() -> ComponentPath {
        ComponentPath::default()
    }

    /// The component that this one mounts under `name`.
    #[must_use]
    pub fn child(&self, name: &str) -> ComponentPath {
        let mut names = self.0.clone();
        names.push(name.to_owned());
        ComponentPath(names)
    }

    /// Whether this is the app.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the root down.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Parses the [`Display`](fmt::Display) form. Empty names are skipped, so any text is a path.
    pub fn parse(text: &str) -> ComponentPath {
        ComponentPath(text.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }
}

impl fmt::Display for ComponentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}
