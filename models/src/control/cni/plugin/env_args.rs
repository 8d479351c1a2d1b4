//! `CNI_ARGS`: pairs `KEY=VALUE` between semicolons, read into the variables a plugin knows (`types.LoadArgs`).

/// Returns the pairs of variables that a plugin knows beside `IgnoreUnknown`.
///
/// # Errors
/// If a pair is not one, or a variable is unknown and that is not to be ignored.
pub(super) fn strings<'a>(
    args: &'a str,
    known: &[&str],
) -> Result<Vec<(&'a str, &'a str)>, String> {
    let (mut found, mut ignore_unknown, mut unknown) = (Vec::new(), false, Vec::new());
    for pair in args.split(';').filter(|_| !args.is_empty()) {
        let parts: Vec<&str> = pair.split('=').collect();
        let [key, value] = *parts else {
            return Err(format!("ARGS: invalid pair {pair:?}"));
        };
        match key {
            key if known.contains(&key) => found.push((key, value)),
            "IgnoreUnknown" => match &*value.to_lowercase() {
                "1" | "true" => ignore_unknown = true,
                "0" | "false" => ignore_unknown = false,
                other => {
                    let e = format!("boolean unmarshal error: invalid input {other}");
                    return Err(wrong(key, value, &e));
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

/// Returns the value of the one variable that a plugin knows, the last if it is given more than once.
///
/// # Errors
/// As [`strings`], or if the value does not fit.
pub(super) fn parse<T>(
    args: &str,
    known: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let mut last = None;
    for (key, value) in strings(args, &[known])? {
        last = Some(read(value).map_err(|e| wrong(key, value, &e))?);
    }
    Ok(last)
}

fn wrong(key: &str, value: &str, error: &str) -> String {
    let pair = format!("{key}={value}");
    format!("ARGS: error parsing value of pair {pair:?}: {error}")
}
