//! Manifests that are broken, enormous or hostile.

use std::fs;

use super::{POD, directory, full, refused, shell, well};

/// Commands that read manifests.
const READERS: [&str; 6] = [
    "get pods -f FILE",
    "get endpoints -f FILE -o json",
    "exec node/node-a -f FILE -- ip addr",
    "trace -f FILE --from pod/shop/web --to 10.0.0.1:80",
    "reach -f FILE",
    "init -f FILE",
];

fn refuse(test: &str, content: impl AsRef<[u8]>, says: &str) {
    let dir = directory(test);
    fs::write(dir.join("x.yaml"), content).unwrap();
    for reader in READERS {
        let line = format!("podwire {}", reader.replace("FILE", "x.yaml"));
        refused(&format!("{test}: {line}"), &shell(&dir, &line), says);
        if full() {
            continue;
        }
        refused(
            test,
            &shell(&dir, "podwire materialize -f x.yaml --out made"),
            says,
        );
        assert!(!dir.join("made").exists(), "{test}");
        let twice = "podwire diff x.yaml x.yaml";
        refused(test, &shell(&dir, twice), says);
        break;
    }
}

#[test]
fn what_is_no_text() {
    refuse("zero byte", format!("{POD}#\0\n"), "x.yaml:1:1");
    refuse("utf-16", b"\xff\xfea\0:\0", "FILE_BINARY");
    refuse(
        "not utf-8",
        b"a: \x80\x80\n",
        "byte 3 is not part of a UTF-8 text",
    );
    refuse("surrogate", b"a: \xed\xa0\x80\n", "FILE_BINARY");
    refuse("empty", "", "FILE_EMPTY");
    refuse("only a mark", "\u{feff}", "FILE_EMPTY");
}

#[test]
fn every_spelling_of_a_line_end() {
    let dir = directory("line ends");
    let mark = format!("\u{feff}{POD}");
    let texts = [POD.replace('\n', "\r\n"), POD.replace('\n', "\r"), mark];
    for text in texts {
        fs::write(dir.join("x.yaml"), &text).unwrap();
        let done = shell(&dir, "podwire get pods -f x.yaml");
        well(&text, &done);
        assert!(super::text(&done.stdout).contains("web"));
    }
}

#[test]
fn letters_that_turn_the_terminal_around() {
    let name = |name: &str| POD.replace("web, namespace", &format!("{name:?}, namespace"));
    let odd = "\\u202eevil\\x1b[31m";
    let odd = name("ODD").replace("ODD", odd);
    refuse("escapes", odd, "MAN_BAD_NAME");
    let raw = POD.replace("Pod", "P\u{1b}]0;title\u{7}od");
    refuse("a title for the window", raw, "MAN_UNKNOWN_KIND");
    let raw = POD.replace("Pod", "\u{202e}doP\u{202c}");
    refuse("from the right to the left", raw, "MAN_UNKNOWN_KIND");
}

#[test]
fn bombs() {
    let mut lol = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let items = vec![format!("*a{}", n - 1); 10].join(", ");
        lol += &format!("a{n}: &a{n} [{items}]\n");
    }
    refuse("aliases of aliases", lol, "MAN_ALIASES");
    refuse("a cycle", "a: &a [*a]\n", "MAN_ALIASES");
    let mut merges = "a0: &a0 {k: v}\n".to_owned();
    for n in 1..40 {
        merges += &format!("a{n}: &a{n} {{<<: [*a{0}, *a{0}], k{n}: v}}\n", n - 1);
    }
    refuse("merges of merges", merges, "error[MAN_");
    refuse("no such anchor", "a: *b\n", "x.yaml:1:4");
}

#[test]
fn nested_without_end() {
    let depth = if full() { 10_000_000 } else { 100_000 };
    for opening in ["[", "{a: ", "- ", "? ", "&a [", "!!seq ["] {
        refuse(
            &format!("nested {opening:?}"),
            opening.repeat(depth),
            "error[MAN_",
        );
    }
}

#[test]
fn long_lines() {
    let long = if full() { 250 << 20 } else { 3 << 20 };
    refuse("one word", "x".repeat(long), "MAN_NOT_AN_OBJECT");
    refuse(
        "two bytes a letter",
        "é".repeat(long / 2),
        "MAN_NOT_AN_OBJECT",
    );
    refuse(
        "a text",
        format!("a: \"{}\"", "x".repeat(long)),
        "x.yaml:1:1",
    );
    refuse("a key", format!("{}: 1", "x".repeat(long)), "error[MAN_");
    refuse(
        "an open text",
        format!("a: \"{}", "x".repeat(long)),
        "MAN_SYNTAX",
    );
    refuse("a comment", format!("#{}", "x".repeat(long)), "FILE_EMPTY");
    refuse(
        "a list",
        format!("[{}]", "1,".repeat(long / 8)),
        "MAN_NOT_AN_OBJECT",
    );
    let keys: String = (0..long / 64).map(|n| format!("a{n}: 1, ")).collect();
    refuse("keys", format!("{{{keys}}}"), "MAN_NOT_AN_OBJECT");
    refuse(
        "one key again",
        format!("{{{}}}", "a: 1, ".repeat(long / 64)),
        "more problems",
    );
    let dir = directory("too long");
    let line = "truncate -s 1G x.yaml; podwire get pods -f x.yaml";
    refused("a gigabyte", &shell(&dir, line), "larger than 256 MiB");
    let line = "yes aaaa | tr -d '\\n' | podwire get pods -f -";
    refused("no end", &shell(&dir, line), "larger than 256 MiB");
    fs::remove_file(dir.join("x.yaml")).unwrap();
}

#[test]
fn many_documents() {
    let many = if full() { 1_000_000 } else { 20_000 };
    refuse("empty documents", "---\n".repeat(many), "FILE_EMPTY");
    refuse(
        "no objects",
        "---\na: 1\n".repeat(many),
        "more problems are not shown",
    );
    refuse(
        "broken documents",
        "---\na: b: c\n".repeat(many),
        "MAN_SYNTAX",
    );
    refuse(
        "the same twice",
        format!("{POD}---\n{}", POD.replace("80", "81")),
        "MAN_DUPLICATE_OBJECT",
    );
}

#[test]
fn numbers_beyond_measure() {
    let deployment = |replicas: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: shop}}\nspec:\n  replicas: {replicas}\n  \
             selector: {{matchLabels: {{a: b}}}}\n  template:\n    metadata: {{labels: {{a: b}}}}\n    \
             spec: {{containers: [{{name: m, image: x}}]}}\n"
        )
    };
    refuse("replicas", deployment("2000000000"), "MAN_TOO_MANY");
    refuse(
        "more replicas",
        deployment("99999999999999999999"),
        "MAN_WRONG_TYPE",
    );
    refuse("fewer replicas", deployment("-1"), "x.yaml:5:13");
    refuse("no number", deployment(".nan"), "MAN_WRONG_TYPE");
    refuse("half a replica", deployment("1.5"), "MAN_WRONG_TYPE");
    let each = |n: usize| deployment("150000").replace("name: web", &format!("name: web{n}"));
    refuse(
        "together",
        format!("{}---\n{}", each(1), each(2)),
        "more than 200000 pods",
    );
    let port = |port: &str| POD.replace("containerPort: 80", &format!("containerPort: {port}"));
    for number in [
        "0",
        "65536",
        "-1",
        "4294967376",
        "18446744073709551696",
        "1e400",
    ] {
        refuse(&format!("port {number}"), port(number), "x.yaml:4:");
    }
}

#[test]
fn a_manifest_cut_anywhere() {
    let dir = directory("cut");
    let whole = format!("{POD}---\n{}", POD.replace("web", "wob"));
    let step = if full() { 1 } else { 12 };
    for at in (0..whole.len()).step_by(step) {
        fs::write(dir.join("x.yaml"), &whole[..at]).unwrap();
        let done = shell(&dir, "podwire get pods -f x.yaml");
        let code = done.status.code();
        assert!(matches!(code, Some(0 | 2)), "{at}: {code:?}");
    }
}
