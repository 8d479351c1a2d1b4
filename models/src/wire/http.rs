//! What web servers answer, as far as anybody here asks one.
//!
//! Leaves out: methods, request headers, bodies of requests. A path is answered the same however it is asked for.

use std::sync::Arc;

use serde::Serialize;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// Header lines, as they are written; those that every server adds are left out.
    pub headers: Vec<String>,
    /// Body.
    pub body: String,
}

/// Everything a web server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpPages {
    /// The same for every path.
    Every(Arc<HttpAnswer>),
    /// These paths exist.
    Paths(Vec<(Arc<str>, Arc<HttpAnswer>)>),
}

impl HttpPages {
    /// Returns the answer to a request line, as Go's `net/http` gives it.
    pub fn answer(&self, line: &str) -> Arc<HttpAnswer> {
        let mut words = line.split(' ');
        let (_, target, version) = (words.next(), words.next(), words.next());
        let Some(target) = target.filter(|_| version.is_some_and(|v| v.starts_with("HTTP/")))
        else {
            return plain(400, &["Connection: close"], "400 Bad Request");
        };
        match self {
            Self::Every(answer) => Arc::clone(answer),
            Self::Paths(pages) => {
                let path = target.split('?').next().unwrap_or(target);
                let page = pages.iter().find(|(known, _)| **known == *path);
                page.map_or_else(
                    || {
                        plain(
                            404,
                            &["X-Content-Type-Options: nosniff"],
                            "404 page not found\n",
                        )
                    },
                    |(_, answer)| Arc::clone(answer),
                )
            }
        }
    }
}

fn plain(status: u16, more: &[&str], body: &str) -> Arc<HttpAnswer> {
    let mut headers = vec!["Content-Type: text/plain; charset=utf-8".to_owned()];
    headers.extend(more.iter().map(|line| (*line).to_owned()));
    Arc::new(HttpAnswer {
        status,
        headers,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_answered_and_others_do_not_exist() {
        let page = plain(200, &[], "fine");
        let pages = HttpPages::Paths(vec![("/healthz".into(), page)]);
        let status = |line| pages.answer(line).status;
        assert_eq!(status("GET /healthz HTTP/1.1"), 200);
        assert_eq!(status("GET /healthz?verbose HTTP/1.1"), 200);
        assert_eq!(status("GET /health HTTP/1.1"), 404);
        assert_eq!(status("hello"), 400);
    }
}
