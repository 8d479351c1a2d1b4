//! `CNI_ARGS`: pairs `KEY=VALUE` between semicolons, read into the variables a plugin knows (`types.LoadArgs`).

/// Returns the value of the one variable that a plugin knows beside `IgnoreUnknown`.
///
/// # Errors
/// If a pair is not one, a value does not fit, or a variable is unknown and that is not to be ignored.
pub(super) fn parse<T>(
    args: &str,
    known: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let (mut found, mut ignore_unknown, mut unknown) = (None, false, Vec::new());
    for pair in args.split(';').filter(|_| !args.is_empty()) {
        let parts: Vec<&str> = pair.split('=').collect();
        let [key, value] = *parts else {
            return Err(format!("ARGS: invalid pair {pair:?}"));
        };
        let wrong = |e: String| format!("ARGS: error parsing value of pair {pair:?}: {e}");
        match key {
            key if key == known => found = Some(read(value).map_err(wrong)?),
            "IgnoreUnknown" => match &*value.to_lowercase() {
                "1" | "true" => ignore_unknown = true,
                "0" | "false" => ignore_unknown = false,
                other => {
                    let e = format!("boolean unmarshal error: invalid input {other}");
                    return Err(wrong(e));
                }
            },
            _ => unknown.push(format!("{pair:?}")),
        }
    }
    if !unknown.is_empty() && !ignore_unknown {
        return Err(format!("ARGS: unknown args [{}]", unknown.join(" ")));
    }
    Ok(found)
}

/// Returns the value of a variable that is any text.
///
/// # Errors
/// As [`parse`].
pub(super) fn string(args: &str, known: &str) -> Result<Option<String>, String> {
    parse(args, known, |value| Ok(value.to_owned()))
}
