//! A service's configuration: a file over the embedded defaults, the environment over the
//! file, flags over all.
//!
//! Every wrong key or value is an error that says where it was written, what was expected and
//! which key is nearest. What a key means is for the service to know.

mod reader;
mod tree;
mod units;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use reader::{Failure, Reader};
pub use tree::{FILE_BYTES_MAX, Origin, yaml_options};
use tree::{Node, Value};
pub use units::{ByteCount, HumaneDuration, above_zero, parse_bytes, parse_duration};

/// Everything that a configuration is put together from, weakest first.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// The commented default file, compiled in: it has every key.
    pub defaults: &'a str,
    /// Files laid over the defaults, in this order.
    pub files: Vec<PathBuf>,
    /// Environment variables `PREFIX_SECTION__KEY`; the prefix with its underscore.
    pub variable_prefix: &'a str,
    /// The environment, usually `std::env::vars().collect()`.
    pub variables: Vec<(String, String)>,
    /// Flags as (dotted key, value).
    pub overrides: Vec<(String, String)>,
    /// Keys with another name: (old dotted path, right dotted path).
    pub aliases: &'a [(&'a str, &'a str)],
    /// Dotted keys that are accepted and do nothing yet.
    pub not_yet_effective: &'a [&'a str],
}

/// A configuration, and what there is to say about it in the log.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The configuration itself.
    pub value: T,
    /// Keys that somebody set and that do nothing yet, each with where it was set.
    pub not_yet_effective: Vec<(String, Origin)>,
    /// Variables with the prefix that name no key of this service, each with the nearest key. Told
    /// and not refused: an environment has what others put into it.
    pub unknown_variables: Vec<(String, String)>,
    /// All of it, with where each value was written.
    whole: Node,
}

impl<T> Loaded<T> {
    /// Logs a warning for each thing that was set and has no effect.
    pub fn warn(&self) {
        for (key, origin) in &self.not_yet_effective {
            tracing::warn!(%key, %origin, "this configuration key is accepted but not yet effective");
        }
        for (variable, hint) in &self.unknown_variables {
            tracing::warn!(%variable, %hint, "this environment variable names no key of this service");
        }
    }

    /// The refusal of a value that only its service can judge, with the place where it was written.
    pub fn wrong(&self, key: &str, message: impl Into<String>) -> ConfigError {
        let node = self.whole.get(key).unwrap_or(&self.whole);
        ConfigError::Invalid {
            origin: node.origin.clone(),
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// The file is no YAML, or goes beyond its budget.
    #[error("{origin}: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// The parser's own words.
        message: String,
    },
    /// There is no such key.
    #[error("{origin}: unknown key {key}; {hint}")]
    UnknownKey {
        /// Where.
        origin: Origin,
        /// Its dotted path.
        key: String,
        /// The nearest right key, or which there are.
        hint: String,
    },
    /// The key has a value that it cannot have.
    #[error("{origin}: {}{message}", prefix(origin, key))]
    Invalid {
        /// Where.
        origin: Origin,
        /// Its dotted path.
        key: String,
        /// What is wrong and what was expected.
        message: String,
    },
}

/// The key, unless the place of a value says it already.
fn prefix(origin: &Origin, key: &str) -> String {
    match origin {
        Origin::Flag(flag) if **flag == *key => String::new(),
        _ if key.is_empty() => String::new(),
        _ => format!("{key}: "),
    }
}

/// Puts the configuration together.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn load<T: DeserializeOwned>(sources: &Sources<'_>) -> Result<Loaded<T>, ConfigError> {
    let defaults = Node::parse("built-in defaults", sources.defaults)?;
    let mut layers = Vec::new();
    for file in &sources.files {
        layers.push(Node::parse(&file.display().to_string(), &read_file(file)?)?);
    }
    let (variables, unknown_variables) = variables(sources, &defaults);
    layers.push(variables);
    layers.push(overrides(sources));

    let mut whole = defaults.clone();
    let mut not_yet_effective = Vec::new();
    for mut layer in layers {
        layer.rename(sources.aliases)?;
        for key in sources.not_yet_effective {
            if let Some(node) = layer.get(key) {
                not_yet_effective.push(((*key).to_owned(), node.origin.clone()));
            }
        }
        whole.lay(layer);
    }
    let value = read(&whole, &defaults)?;
    Ok(Loaded {
        value,
        not_yet_effective,
        unknown_variables,
        whole,
    })
}

/// Reads one value from YAML text, with the same bounds and messages as a configuration file.
///
/// # Errors
/// The first thing that is wrong, with its place in `file_name`.
pub fn parse<T: DeserializeOwned>(file_name: &str, text: &str) -> Result<T, ConfigError> {
    let node = Node::parse(file_name, text)?;
    read(&node, &node)
}

/// Reads a regular file of at most [`FILE_BYTES_MAX`]; never waits on a pipe or a device.
///
/// # Errors
/// Says what the path is instead, or why it cannot be read.
pub fn read_file(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |why: String| ConfigError::Unreadable {
        path: path.to_owned(),
        why,
    };
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if !metadata.is_file() {
        return Err(unreadable("it is not a regular file".into()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(unreadable(format!(
            "it has {} bytes, and {FILE_BYTES_MAX} is the most",
            metadata.len()
        )));
    }
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(error.to_string()))?;
    Ok(text)
}

/// The variables as a layer, and those that fit no key, each with the nearest one.
fn variables(sources: &Sources<'_>, defaults: &Node) -> (Node, Vec<(String, String)>) {
    let mut layer = Node::empty(Origin::Variable(sources.variable_prefix.into()));
    let mut unknown = Vec::new();
    if sources.variable_prefix.is_empty() {
        return (layer, unknown);
    }
    for (name, text) in &sources.variables {
        let Some(rest) = name.strip_prefix(sources.variable_prefix) else {
            continue;
        };
        let path = rest.to_lowercase().replace("__", ".");
        let right = sources
            .aliases
            .iter()
            .find(|(old, _)| *old == path)
            .map(|(_, new)| *new);
        if defaults.get(right.unwrap_or(&path)).is_none() {
            unknown.push((name.clone(), nearest_variable(sources, &path, defaults)));
            continue;
        }
        let origin = Origin::Variable(name.as_str().into());
        let node = Node {
            value: Value::Untyped(text.clone()),
            origin: origin.clone(),
        };
        layer.put(&path, &origin, node);
    }
    (layer, unknown)
}

/// The name that a variable should have had, if one is near.
fn nearest_variable(sources: &Sources<'_>, path: &str, defaults: &Node) -> String {
    let paths = defaults.paths();
    let nearest = paths
        .iter()
        .map(|known| (strsim::osa_distance(path, known), known))
        .min();
    match nearest {
        Some((distance, known)) if distance <= path.chars().count() / 3 + 1 => {
            let name = known.to_uppercase().replace('.', "__");
            format!("did you mean {}{name}?", sources.variable_prefix)
        }
        _ => "there is no key like it".to_owned(),
    }
}

fn overrides(sources: &Sources<'_>) -> Node {
    let mut layer = Node::empty(Origin::Flag("".into()));
    for (path, text) in &sources.overrides {
        let origin = Origin::Flag(path.as_str().into());
        let node = Node {
            value: Value::Untyped(text.clone()),
            origin: origin.clone(),
        };
        layer.put(path, &origin, node);
    }
    layer
}

fn read<T: DeserializeOwned>(whole: &Node, defaults: &Node) -> Result<T, ConfigError> {
    T::deserialize(Reader::new(whole)).map_err(|failure| explain(failure, whole, defaults))
}

fn explain(failure: Failure, whole: &Node, defaults: &Node) -> ConfigError {
    let failure = *failure.0;
    let origin = failure.origin.unwrap_or_else(|| whole.origin.clone());
    let parent = failure
        .path
        .iter()
        .fold(String::new(), |path, key| join(&path, key));
    match failure.unknown_key {
        Some((key, siblings)) => ConfigError::UnknownKey {
            origin,
            hint: hint(&key, &parent, &siblings, defaults),
            key: join(&parent, &key),
        },
        None => ConfigError::Invalid {
            origin,
            key: parent,
            message: failure.message,
        },
    }
}

/// The nearest key beside it, else the nearest anywhere, else which keys there are.
fn hint(key: &str, parent: &str, siblings: &[&str], defaults: &Node) -> String {
    let near = |candidate: &str| {
        let distance = strsim::osa_distance(key, candidate);
        (distance <= key.chars().count() / 3 + 1).then_some(distance)
    };
    let beside = siblings
        .iter()
        .filter_map(|sibling| Some((near(sibling)?, *sibling)))
        .min();
    if let Some((_, sibling)) = beside {
        return format!("did you mean {}?", join(parent, sibling));
    }
    let paths = defaults.paths();
    let anywhere = paths.iter().filter_map(|path| {
        let last = path.rsplit('.').next().unwrap_or(path);
        Some((near(last)?, path))
    });
    if let Some((_, path)) = anywhere.min() {
        return format!("did you mean {path}?");
    }
    match siblings {
        [] => "there is no key like it".into(),
        _ => format!("the keys here are {}", siblings.join(", ")),
    }
}

fn join(prefix: &str, key: &str) -> String {
    match (prefix.is_empty(), key.starts_with('[')) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{prefix}{key}"),
        (false, false) => format!("{prefix}.{key}"),
    }
}

#[cfg(test)]
mod tests;
