//! Makes Markdown harmless: raw HTML becomes text, links cannot run scripts, pictures cannot be fetched.

use std::ops::Range;

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

/// Renders Markdown as HTML.
pub(super) fn to_html(markdown: &str) -> String {
    let mut kept = Vec::new();
    let harmless = events(markdown).filter_map(|(event, _)| match event {
        Event::Html(raw) | Event::InlineHtml(raw) => Some(Event::Text(raw)),
        Event::Start(Tag::HtmlBlock) => Some(Event::Start(Tag::Paragraph)),
        Event::End(TagEnd::HtmlBlock) => Some(Event::End(TagEnd::Paragraph)),
        Event::Start(Tag::Link { .. } | Tag::Image { .. }) => {
            kept.push(!leads_astray(&event));
            kept.last().copied().unwrap_or_default().then_some(event)
        }
        Event::End(TagEnd::Link | TagEnd::Image) => kept.pop().unwrap_or_default().then_some(event),
        event => Some(event),
    });
    let mut page = String::new();
    html::push_html(&mut page, harmless);
    page
}

/// Escapes raw HTML and bad links, so that every Markdown renderer shows them as text.
pub(super) fn to_markdown(markdown: &str) -> String {
    let mut safe = String::new();
    let mut done = 0;
    let raw = |event: &Event| matches!(event, Event::Html(_) | Event::InlineHtml(_)) || leads_astray(event);
    for (_, range) in events(markdown).filter(|(event, _)| raw(event)) {
        // HTML inside a bad link was escaped with the link.
        if range.start >= done {
            safe.push_str(&markdown[done..range.start]);
            safe.push_str(&markdown[range.clone()].replace('<', "&lt;").replace('[', "\\["));
            done = range.end;
        }
    }
    safe + &markdown[done..]
}

/// Escapes plain text for one line of Markdown.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '|' | '~' | '&' | '$' | '!' => {
                plain.extend(['\\', c])
            }
            c if c.is_control() => plain.push(' '),
            c => plain.push(c),
        }
    }
    plain
}

fn events(markdown: &str) -> impl Iterator<Item = (Event<'_>, Range<usize>)> {
    Parser::new_ext(markdown, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH).into_offset_iter()
}

/// Returns whether an event opens a link that could run a script, or a picture that would be fetched.
fn leads_astray(event: &Event) -> bool {
    match event {
        Event::Start(Tag::Link { dest_url, .. }) => {
            scheme(dest_url).is_some_and(|s| !["http", "https", "mailto"].contains(&s.as_str()))
        }
        Event::Start(Tag::Image { dest_url, .. }) => !dest_url.starts_with("data:image/"),
        _ => false,
    }
}

/// Returns an address's scheme in lower case, read as browsers do: without spaces and control characters.
fn scheme(address: &CowStr) -> Option<String> {
    let address: String = address.chars().filter(|&c| c > ' ').collect();
    let (scheme, _) = address.split_once(':')?;
    (!scheme.contains(['/', '?', '#'])).then(|| scheme.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: [&str; 9] = [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "<div>\n<iframe src=\"https://example.org\">\n</div>",
        "[x](javascript:alert(1))",
        "[x](java&#x09;script:alert(1))",
        "[x][1]\n\n[1]: JAVASCRIPT:alert(1)",
        "<vbscript:alert(1)>",
        "![x](https://example.org/a.png)",
        "[<b onclick=alert(1)>x</b>](data:text/html,<script>alert(1)</script>)",
    ];

    #[test]
    fn nothing_hostile_survives_as_markup() {
        for hostile in HOSTILE {
            // The Markdown for a paper must be harmless too.
            for page in
                [to_html(hostile), to_html(&to_markdown(hostile)), trusting_html(&to_markdown(hostile))]
            {
                let tags = ["<script", "<img", "<iframe", "<div", "<a ", "<b "];
                assert!(!tags.iter().any(|tag| page.contains(tag)), "{hostile}: {page}");
            }
        }
    }

    /// Renders Markdown without any precautions.
    fn trusting_html(markdown: &str) -> String {
        let mut page = String::new();
        html::push_html(&mut page, Parser::new(markdown));
        page
    }

    #[test]
    fn what_was_written_still_shows() {
        assert_eq!(to_html(HOSTILE[0]), "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n");
        assert_eq!(to_html("[x](javascript:alert(1)) and [y](https://example.org/a:b)"), {
            "<p>x and <a href=\"https://example.org/a:b\">y</a></p>\n"
        });
        assert_eq!(to_html("*a* ~~b~~ `<c>`"), "<p><em>a</em> <del>b</del> <code>&lt;c&gt;</code></p>\n");
        assert!(to_html("| a |\n|---|\n| 1 |").contains("<td>1</td>"));
        assert!(
            to_html("![dot](data:image/png;base64,AA==)")
                .contains("<img src=\"data:image/png;base64,AA==\" alt=\"dot\"")
        );
        let harmless = "# A *title* with [a link](#part) and `<code>`";
        assert_eq!(to_markdown(harmless), harmless);
    }

    #[test]
    fn plain_text_stays_plain_in_markdown() {
        for text in [
            "a|b",
            "<b>*x*</b>",
            "[x](javascript:y)",
            "# no title",
            "![i](j)",
            "a & b &lt;",
            "`c` \\* ~~d~~ $e$",
        ] {
            let shown = trusting_html(&format!("x {}", plain(text)));
            let unescaped =
                shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("&quot;", "\"");
            assert_eq!(unescaped, format!("<p>x {text}</p>\n"));
        }
    }
}
