//! Tables of where the time went.

use crate::{
    trace::{LoadSeconds, Seconds},
    words::{
        numbers::seconds,
        table::{Describe, Table, show_as_table},
    },
};

show_as_table!(LoadSeconds, Seconds);

impl Describe for Seconds {
    fn table(&self) -> Table {
        Table::new("Time")
            .row("load", seconds(self.load))
            .maybe("of which", self.load_parts.map(|parts| parts.line()))
            .row("search", seconds(self.search))
            .row("attention", seconds(self.attention))
            .row("total", seconds(self.total))
    }
}

impl Seconds {
    /// The total and its largest parts on one line.
    pub(super) fn line(&self) -> String {
        let [total, load, search, attention] =
            [self.total, self.load, self.search, self.attention].map(seconds);
        format!("{total}: load {load}, search {search}, attention {attention}")
    }
}

impl Describe for LoadSeconds {
    fn table(&self) -> Table {
        Table::new("Time of loading")
            .row("find", seconds(self.find))
            .row("files", seconds(self.files))
            .row("tokenizer", seconds(self.tokenizer))
            .row("device", seconds(self.device))
    }
}

impl LoadSeconds {
    /// All parts on one line.
    pub(super) fn line(&self) -> String {
        let [find, files, tokenizer, device] =
            [self.find, self.files, self.tokenizer, self.device].map(seconds);
        format!("find {find}, files {files}, tokenizer {tokenizer}, device {device}")
    }
}
