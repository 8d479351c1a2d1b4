//! Where two traces part, as `diff -u` shows it: what both have, then how each goes on.

use std::fmt::Write as _;

use super::text::{self, Detail, Style};
use crate::trace::Trace;
use crate::trace::diff::Difference;

/// Returns the first difference of two traces as text.
pub fn difference(difference: &Difference<'_>, left: &Trace, right: &Trace) -> String {
    let parts = [
        (' ', difference.common, left, ""),
        (
            '-',
            difference.left,
            left,
            "- (the first trace ends here)\n",
        ),
        (
            '+',
            difference.right,
            right,
            "+ (the second trace ends here)\n",
        ),
    ];
    let all = parts
        .iter()
        .flat_map(|(_, records, trace, _)| records.iter().map(|record| (record, &trace.names)));
    let mut texts = text::set(all, Detail::Detailed, Style::Plain).into_iter();
    let mut out = format!("@@ record {} @@\n", difference.position);
    for (sign, records, _, instead) in parts {
        if records.is_empty() {
            out.push_str(instead);
        }
        for text in texts.by_ref().take(records.len()) {
            for line in text.lines() {
                let _ = writeln!(out, "{sign} {line}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::render::text::tests::story;
    use crate::trace::diff::first_difference;

    #[test]
    fn shows_both_ways_on() {
        let (left, mut right) = (story(), story());
        right.records.truncate(6);
        right.records[5].step.by = None;
        let found = first_difference(&left, &right, 1).unwrap();
        insta::assert_snapshot!(difference(&found, &left, &right), @r#"
        @@ record 5 @@
          4  <3  1.000008s  node-a  node:vethf3a1  PREROUTING  #4  translated  destination 10.96.0.17:7070 → 10.244.2.5:7070
                                                                     by rule -A KUBE-SEP-X -p tcp -j DNAT --to-destination 10.244.2.5:7070  (shop.yaml:40)
        - 5  <4  1.000008s  node-a  node:vethf3a1  ROUTING     #4  routed      via 172.18.0.3 dev eth0
        -                                                            by route 10.244.2.0/24 via 172.18.0.3 dev eth0
        - 6  <5  1.000008s  node-a  node:eth0      NEIGHBOUR   #4  resolved    172.18.0.3 is at 00:00:00:00:00:00
        + 5  <4  1.000008s  node-a  node:vethf3a1  ROUTING     #4  routed      via 172.18.0.3 dev eth0
        "#);
    }
}
