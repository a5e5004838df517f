//! Text without meaning to hide needles in: prose, sentence by sentence, and RULER's noise.

use fastrand::Rng;

use super::words::WORDS;

/// People of the prose and of the word problems.
pub(super) const NAMES: [&str; 74] = [
    "Ada", "Ben", "Cara", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kara", "Liam", "Mona",
    "Noah", "Olga", "Paul", "Quinn", "Rosa", "Sam", "Tina", "Uma", "Vera", "Will", "Xena", "Yara", "Zed",
    "Amir", "Bela", "Chen", "Dora", "Emil", "Faye", "Glen", "Hana", "Igor", "June", "Kofi", "Lena", "Mark",
    "Nina", "Omar", "Petra", "Rafi", "Sara", "Tom", "Udo", "Vito", "Wanda", "Yuri", "Zoe", "Anton", "Bruno",
    "Clara", "Diego", "Elena", "Felix", "Greta", "Harry", "Ines", "Jonas", "Katya", "Leo", "Maria", "Nils",
    "Oscar", "Paola", "Ralf", "Sonia", "Theo", "Ursula", "Victor", "Wendy", "Yves", "Zara",
];

/// RULER's noise, repeated as a whole.
pub(super) const NOISE: &str =
    " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

const PREPOSITIONS: [&str; 8] = [
    "near the",
    "behind the",
    "under the",
    "beside the",
    "across the",
    "inside the",
    "above the",
    "without the",
];

/// One of a list that is not empty.
pub(super) fn pick<'a>(rng: &mut Rng, list: &[&'a str]) -> &'a str {
    list[rng.usize(..list.len())]
}

/// A sentence of the prose haystack, with a space before it.
pub(super) fn prose_sentence(rng: &mut Rng) -> String {
    let mut nouns = rng.fork();
    let mut adjs = rng.fork();
    let mut verbs = rng.fork();
    let mut n = || pick(&mut nouns, &WORDS.prose_nouns);
    let mut a = || pick(&mut adjs, &WORDS.prose_adjs);
    let mut v = || pick(&mut verbs, &WORDS.prose_verbs);
    let p = pick(rng, &PREPOSITIONS);
    match rng.u8(..8) {
        0 => format!(" The {} {} will {} the {} {p} {}.", a(), n(), v(), n(), n()),
        1 => format!(" In the {}, a {} and a {} may {} {p} {} {}.", n(), n(), n(), v(), a(), n()),
        2 => format!(" Some say that every {} is {}, but the {} is {}.", n(), a(), n(), a()),
        3 => format!(
            " {} wants to {} the {} {}, and the {} is {}.",
            pick(rng, &NAMES),
            v(),
            a(),
            n(),
            n(),
            a()
        ),
        4 => format!(" A {} can {}, and so can the {} {}.", n(), v(), a(), n()),
        5 => format!(" When the {} is {}, people {} {p} {}.", n(), a(), v(), n()),
        6 => format!(" It was {}, and the {} of the {} {} did {}.", rng.u32(1000..3000), n(), a(), n(), v()),
        _ => format!(" The {} that you {} is never {}.", n(), v(), a()),
    }
}
