use plotters::style::RGBColor;

use super::*;
use crate::{
    trace::synthetic::{Shape, trace, trace_of_words},
    view::plot::{
        bitmap::tests::decode,
        theme::{HATCH, PAPER, kept_color},
    },
};

fn long() -> Trace {
    trace(&Shape { n_tokens: 16_384, n_layers: 1, n_heads: 4, top_k: 100, ..Default::default() })
}

fn rgb(RGBColor(r, g, b): RGBColor) -> [u8; 3] {
    [r, g, b]
}

#[test]
fn the_needle_is_darker_than_its_surroundings() {
    let (width, _, cells) = decode(long().attention_map(0, 3).unwrap().figure().svg());
    let darkness = |row: usize, column: usize| {
        765 - cells[row * width + column].iter().map(|&c| u32::from(c)).sum::<u32>()
    };
    let needle = 16_384 / 8 / 10 * 8 / 32;
    for row in 465..512 {
        assert!(
            darkness(row, needle) > 300 && darkness(row, needle) > darkness(row, needle + 5) + 100,
            "row {row}"
        );
    }
}

#[test]
fn three_states_have_three_colours() {
    let (_, _, cells) = decode(long().attention_map(0, 0).unwrap().figure().svg());
    let has = |color| cells.contains(&color);
    assert!(has(rgb(HATCH)) && has(rgb(PAPER)));
    assert!(cells.iter().any(|&c| c != rgb(HATCH) && c != rgb(PAPER)));
    assert!(rgb(kept_color(0.0)) != rgb(HATCH) && rgb(HATCH) != rgb(PAPER));
}

#[test]
fn every_geometry_is_drawn_small_and_without_styles() {
    for (n_tokens, block_size_q, block_size_k, window) in [
        (1, 32, 8, None),
        (7, 1, 1, None),
        (8, 8, 8, None),
        (157, 16, 32, Some(20)),
        (4001, 32, 8, Some(512)),
        (1 << 17, 64, 64, None),
    ] {
        let top_k = if n_tokens > 5000 { 3 } else { 40 };
        let shape = Shape {
            n_tokens,
            block_size_q,
            block_size_k,
            window,
            top_k,
            n_layers: 1,
            n_heads: 2,
            ..Default::default()
        };
        let map = trace(&shape).attention_map(0, 1).unwrap();
        let svg = map.svg();
        assert!(svg.len() < 200_000 && !svg.contains("style="), "{n_tokens}");
        assert!(
            svg.starts_with("<svg")
                && svg.contains("role=\"img\"")
                && svg.contains("</title>")
                && svg.contains("</desc>")
        );
        assert_eq!(svg, map.svg(), "the same map, the same figure");
    }
}

#[test]
fn noise_in_every_cell_stays_under_the_limit() {
    let shape = Shape { n_tokens: 8192, n_layers: 1, n_heads: 1, top_k: 1000, ..Default::default() };
    let map = trace(&shape).attention_map(0, 0).unwrap();
    assert!(map.svg().len() < 200_000);
    let marked =
        (0..200).try_fold(map, |map, i| map.mark(&format!("sentence {i}"), i * 40..i * 40 + 36)).unwrap();
    assert!(marked.svg().len() < 200_000, "{}", marked.svg().len());
}

#[test]
fn zoomed_rows_are_single_tokens_with_their_text() {
    let map = long().attention_map(0, 3).unwrap().queries(16_370..16_384).unwrap().keys(1630..1650).unwrap();
    let svg = map.svg();
    assert!(
        svg.contains("␣river")
            && svg.contains("key tokens 1,630 to 1,649")
            && svg.contains("query token on a key token")
    );
    let (width, height, cells) = decode(&svg);
    assert_eq!((width % 20, height % 14), (0, 0));
    // The needle's block is tokens 1632 to 1639; its first key holds the most.
    let cell = |key: usize| cells[key * (width / 20)];
    assert!([HATCH, PAPER].map(rgb).contains(&cell(0)), "pruned");
    assert!(cell(2).iter().map(|&c| u32::from(c)).sum::<u32>() < cell(5).iter().map(|&c| u32::from(c)).sum());
}

#[test]
fn hostile_text_is_escaped() {
    let words = ["</svg><script>", "\u{0}\u{1b}", "\u{ffff}", "\"'&", "]]>"].map(String::from);
    let shape = Shape { n_tokens: 5, n_layers: 1, n_heads: 1, top_k: 20, ..Default::default() };
    let map = trace_of_words(&shape, &words).attention_map(0, 0).unwrap().mark("<b>\u{7}", 1..3).unwrap();
    let svg = map.svg();
    assert!(!svg.contains("<script") && !svg.contains("<b>") && svg.contains("&lt;/svg&gt;"));
    assert!(svg.chars().all(|c| c == '\n' || (c >= ' ' && c != '\u{ffff}')));
    assert_eq!((svg.matches("<svg").count(), svg.matches("</svg>").count()), (1, 1));
}

#[test]
fn what_does_not_exist_is_refused_early() {
    let trace = trace(&Shape::default());
    for error in [trace.attention_map(2, 0).err(), trace.attention_map(0, 2).err()] {
        assert!(matches!(error, Some(Error::Missing { .. })));
    }
    let map = trace.attention_map(0, 0).unwrap();
    for span in [
        Span { start: 0, end: 2001 },
        Span { start: 5, end: 5 },
        Span { start: 9, end: 3 },
        Span { start: 3000, end: usize::MAX },
    ] {
        let errors = [
            map.clone().queries(span).err(),
            map.clone().keys(span).err(),
            map.clone().mark("m", span).err(),
        ];
        assert!(errors.iter().all(|e| matches!(e, Some(Error::Missing { .. }))), "{span:?}");
    }
}
