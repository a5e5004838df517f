//! A report as Markdown for a paper, with each figure in an SVG file.

use std::{io::Write, path::Path};

use super::{
    Part,
    markdown::{plain, to_markdown},
};
use crate::{atomic_file::save, error::Error, view::Report, words::table::Table};

impl Report {
    pub(super) fn save_paper(&self, path: &Path) -> Result<(), Error> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut paper = format!("# {}\n", plain(&self.title));
        let mut n_figures = 0;
        for part in &self.parts {
            paper.push('\n');
            match part {
                Part::Explore(_) => {}
                Part::Text(text) => paper.push_str(&(to_markdown(text).trim().to_string() + "\n")),
                Part::Facts(tables) => {
                    paper.push_str(&tables.iter().map(table).collect::<Vec<_>>().join("\n"))
                }
                Part::Figure { figure, caption } => {
                    n_figures += 1;
                    let name = format!("{stem}-{n_figures}.svg");
                    figure.save(path.with_file_name(&name))?;
                    let address = name.replace('<', "\\<").replace('>', "\\>");
                    let alt = plain(figure.title());
                    let caption = plain(caption);
                    paper.push_str(&format!("![{alt}](<{address}>)\n\n*Figure {n_figures}.* {caption}\n"));
                }
            }
        }
        save(path, |file| file.write_all(paper.as_bytes()))
    }
}

fn table(table: &Table) -> String {
    let rows: String =
        table.rows.iter().map(|(name, value)| format!("| {} | {} |\n", plain(name), plain(value))).collect();
    format!("| {} | |\n|---|---|\n{rows}", plain(&table.title))
}

#[cfg(test)]
mod tests {
    use crate::{
        Error,
        trace::synthetic::{Shape, trace},
        view::Report,
    };

    #[test]
    fn a_paper_has_its_figures_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let trace = trace(&Shape::default());
        let map = trace.attention_map(1, 0).unwrap();
        let overview = trace.overview().unwrap();
        let report = Report::new("A <paper> | *one*").text("## Part\n\n<b>bold</b>").trace(&trace);
        let report = report.figure(&map, "A map").figure(&overview, "");
        report.save(folder.path().join("my paper.md")).unwrap();
        let paper = std::fs::read_to_string(folder.path().join("my paper.md")).unwrap();
        assert!(
            paper.starts_with("# A \\<paper\\> \\| \\*one\\*\n\n## Part\n\n&lt;b>bold&lt;/b>\n"),
            "{paper}"
        );
        assert!(
            paper.contains(&format!("![{}](<my paper-1.svg>)\n\n*Figure 1.* A map\n", map.figure().title())),
            "{paper}"
        );
        assert!(paper.contains("| Trace of 2,000 tokens | |\n|---|---|\n| model | synthetic"), "{paper}");
        assert_eq!(std::fs::read_to_string(folder.path().join("my paper-1.svg")).unwrap(), map.svg());
        assert_eq!(std::fs::read_to_string(folder.path().join("my paper-2.svg")).unwrap(), overview.svg());
    }

    #[test]
    fn other_endings_and_folders_that_are_not_there_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.pdf", "a", "html"] {
            let error = Report::new("a").save(folder.path().join(name)).unwrap_err().to_string();
            assert!(error.contains(".html or .md") && error.contains(name), "{error}");
        }
        let error = Report::new("a").save(folder.path().join("no/a.html")).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
