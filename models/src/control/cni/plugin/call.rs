//! What happens to every call before a plugin's own code runs: environment, names, versions, and the form of errors.
//!
//! # Fidelity
//! The text of a JSON syntax error is Go's only for input that ends too early. After ADD and DEL the real library also
//! refuses a `CNI_NETNS` that is the plugin's own namespace; that is not looked at.

use serde_json::{Map, Value};

use super::go_json;

/// Versions of the specification that most plugins support.
pub const ALL_VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// Versions that know CHECK.
pub(super) const SINCE_0_4: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];

/// The newest version of the specification.
const NEWEST: &str = "1.1.0";

/// One call: the environment and the standard input.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// `CNI_COMMAND`.
    pub command: &'a str,
    /// `CNI_CONTAINERID`.
    pub container_id: &'a str,
    /// `CNI_NETNS`.
    pub netns: &'a str,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `CNI_ARGS`.
    pub args: &'a str,
    /// `CNI_PATH`.
    pub path: &'a str,
    /// The network configuration, JSON.
    pub stdin: &'a str,
}

/// What a plugin's own code is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container.
    Add,
    /// See whether the attachment is still as it was made.
    Check,
    /// Detach it.
    Del,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Exit status of the program: 0 or 1.
    pub exit: u8,
    /// What it printed: a result, an error, or nothing.
    pub stdout: Option<Value>,
}

/// An error as the specification has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PluginError {
    /// Well-known code, 999 for whatever the plugin itself found.
    pub code: u16,
    /// What is wrong.
    pub message: String,
    /// More about it, often empty.
    pub details: String,
}

impl PluginError {
    const VERSION: u16 = 1;
    const ENVIRONMENT: u16 = 4;
    const DECODING: u16 = 6;
    const CONFIG: u16 = 7;
    const INTERNAL: u16 = 999;

    /// Returns an error of a plugin's own code.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Self::INTERNAL, message, "")
    }

    fn new(code: u16, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: details.into(),
        }
    }

    /// Reads an error that another plugin printed.
    pub(super) fn from_json(printed: &Value) -> Self {
        let text = |key: &str| {
            let text = printed.get(key).and_then(Value::as_str);
            text.unwrap_or("").to_owned()
        };
        let code = printed.get("code").and_then(Value::as_u64);
        let code = code.and_then(|code| u16::try_from(code).ok());
        Self::new(code.unwrap_or(Self::INTERNAL), text("msg"), text("details"))
    }

    fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("code".into(), self.code.into());
        map.insert("msg".into(), self.message.clone().into());
        if !self.details.is_empty() {
            map.insert("details".into(), self.details.clone().into());
        }
        Value::Object(map)
    }
}

/// Checks a call as every plugin does, and runs the plugin's own code if nothing is wrong.
pub fn dispatch(
    call: &Call<'_>,
    versions: &[&str],
    run: impl FnOnce(Verb) -> Result<Option<Value>, PluginError>,
) -> Answer {
    match answer(call, versions, run) {
        Ok(stdout) => Answer { exit: 0, stdout },
        Err(error) => Answer {
            exit: 1,
            stdout: Some(error.to_json()),
        },
    }
}

fn answer(
    call: &Call<'_>,
    versions: &[&str],
    run: impl FnOnce(Verb) -> Result<Option<Value>, PluginError>,
) -> Result<Option<Value>, PluginError> {
    environment(call)?;
    if call.command == "VERSION" {
        let mut map = Map::new();
        map.insert("cniVersion".into(), NEWEST.into());
        map.insert("supportedVersions".into(), versions.to_vec().into());
        return Ok(Some(Value::Object(map)));
    }
    names(call)?;
    match call.command {
        "ADD" => {
            exact_version(call.stdin, versions)?;
            run(Verb::Add)
        }
        "DEL" => {
            exact_version(call.stdin, versions)?;
            run(Verb::Del)
        }
        "CHECK" => {
            at_least(call, versions, "0.4.0")?;
            run(Verb::Check)
        }
        // No plugin here has code of its own for these two: the library answers alone.
        "GC" | "STATUS" => at_least(call, versions, "1.1.0").map(|()| None),
        other => Err(PluginError::new(
            PluginError::ENVIRONMENT,
            format!("unknown CNI_COMMAND: {other}"),
            "",
        )),
    }
}

/// Names the variables that the command needs and that are empty.
fn environment(call: &Call<'_>) -> Result<(), PluginError> {
    let attachment = matches!(call.command, "ADD" | "CHECK" | "DEL");
    let variables = [
        ("CNI_COMMAND", call.command, true),
        ("CNI_CONTAINERID", call.container_id, attachment),
        (
            "CNI_NETNS",
            call.netns,
            matches!(call.command, "ADD" | "CHECK"),
        ),
        ("CNI_IFNAME", call.ifname, attachment),
        ("CNI_PATH", call.path, attachment),
    ];
    let missing: Vec<&str> = variables
        .iter()
        .filter(|(_, value, needed)| *needed && value.is_empty())
        .map(|(name, ..)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(",");
    Err(PluginError::new(
        PluginError::ENVIRONMENT,
        format!("required env variables [{missing}] missing"),
        "",
    ))
}

/// Letters, digits, and after the first character also `_`, `.` and `-`.
fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn names(call: &Call<'_>) -> Result<(), PluginError> {
    let decoding = |e: String| {
        let message = format!("error unmarshall network config: {e}");
        PluginError::new(PluginError::DECODING, message, "")
    };
    let value = go_json::parse(call.stdin).map_err(decoding)?;
    let name = go_json::top_string(&value, "name").map_err(decoding)?;
    let config =
        |message: &str, details: &str| Err(PluginError::new(PluginError::CONFIG, message, details));
    if name.is_empty() {
        return config("missing network name", "");
    }
    if !is_plain(&name) {
        return config("invalid characters found in network name", &name);
    }
    if matches!(call.command, "GC" | "STATUS") {
        return Ok(());
    }
    let environment = |message: &str, details: &str| {
        Err(PluginError::new(PluginError::ENVIRONMENT, message, details))
    };
    if call.container_id.is_empty() {
        return environment("missing containerID", "");
    }
    if !is_plain(call.container_id) {
        return environment("invalid characters in containerID", call.container_id);
    }
    match call.ifname {
        "" => environment("interface name is empty", ""),
        long if long.len() > 15 => environment(
            "interface name is too long",
            "interface name should be less than 16 characters",
        ),
        "." | ".." => environment("interface name is . or ..", ""),
        name if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) => environment(
            "interface name contains / or : or whitespace characters",
            "",
        ),
        _ => Ok(()),
    }
}

fn config_version(stdin: &str) -> Result<String, PluginError> {
    let decoded = go_json::parse(stdin).and_then(|v| go_json::top_string(&v, "cniVersion"));
    let version = decoded.map_err(|e| {
        let message = format!("decoding version from network config: {e}");
        PluginError::new(PluginError::DECODING, message, "")
    })?;
    Ok(if version.is_empty() {
        "0.1.0".to_owned()
    } else {
        version
    })
}

fn exact_version(stdin: &str, versions: &[&str]) -> Result<(), PluginError> {
    let version = config_version(stdin)?;
    if versions.contains(&&*version) {
        return Ok(());
    }
    let supported: Vec<String> = versions.iter().map(|v| format!("{v:?}")).collect();
    let supported = supported.join(" ");
    Err(PluginError::new(
        PluginError::VERSION,
        "incompatible CNI versions",
        format!("config is {version:?}, plugin supports [{supported}]"),
    ))
}

/// Commands that came with a later version of the specification.
fn at_least(call: &Call<'_>, versions: &[&str], first: &str) -> Result<(), PluginError> {
    let version = config_version(call.stdin)?;
    let decoding = |e: String| PluginError::new(PluginError::DECODING, e, "");
    let parsed = parse_version(&version).map_err(decoding)?;
    let refused = |who: &str| {
        let message = format!("{who} version does not allow {}", call.command);
        Err(PluginError::new(PluginError::VERSION, message, ""))
    };
    if parsed < parse_version(first).map_err(decoding)? {
        return refused("config");
    }
    let known = versions
        .iter()
        .any(|v| parse_version(v).is_ok_and(|v| v >= parsed));
    if !known {
        return refused("plugin");
    }
    exact_version(call.stdin, versions)
}

/// Reads a version of the specification: up to three numbers.
///
/// # Errors
/// If a part is not a number, in the words of the CNI library.
pub fn parse_version(version: &str) -> Result<[u64; 3], String> {
    if version.is_empty() {
        return Err(format!("invalid version {version:?}: the version is empty"));
    }
    let parts: Vec<&str> = version.split('.').collect();
    if parts.len() > 3 {
        return Err(format!("invalid version {version:?}: too many parts"));
    }
    let mut numbers = [0; 3];
    let places = ["major", "minor", "micro"];
    for ((number, part), place) in numbers.iter_mut().zip(parts).zip(places) {
        *number = part.parse().map_err(|_| {
            format!(
                "failed to convert {place} version part {part:?}: strconv.Atoi: parsing {part:?}: invalid syntax"
            )
        })?;
    }
    Ok(numbers)
}
