//! Meaningless text to hide needles in: prose, sentence by sentence, and RULER's noise.

use fastrand::Rng;

use super::words::WORDS;

/// Names of people in the prose and in word problems.
pub(super) const NAMES: [&str; 74] = [
    "Ada", "Ben", "Cara", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jack", "Kara", "Liam", "Mona",
    "Noah", "Olga", "Paul", "Quinn", "Rosa", "Sam", "Tina", "Uma", "Vera", "Will", "Xena", "Yara", "Zed",
    "Amir", "Bela", "Chen", "Dora", "Emil", "Faye", "Glen", "Hana", "Igor", "June", "Kofi", "Lena", "Mark",
    "Nina", "Omar", "Petra", "Rafi", "Sara", "Tom", "Udo", "Vito", "Wanda", "Yuri", "Zoe", "Anton", "Bruno",
    "Clara", "Diego", "Elena", "Felix", "Greta", "Harry", "Ines", "Jonas", "Katya", "Leo", "Maria", "Nils",
    "Oscar", "Paola", "Ralf", "Sonia", "Theo", "Ursula", "Victor", "Wendy", "Yves", "Zara",
];

/// RULER's noise, always repeated as a whole.
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

/// Picks one element of a list that is not empty.
pub(super) fn pick<'a>(rng: &mut Rng, list: &[&'a str]) -> &'a str {
    list[rng.usize(..list.len())]
}

/// Writes a sentence of the prose haystack, which starts with a space.
pub(super) fn prose_sentence(rng: &mut Rng) -> String {
    let mut nouns = rng.fork();
    let mut adjs = rng.fork();
    let mut verbs = rng.fork();
    let mut noun = || pick(&mut nouns, &WORDS.prose_nouns);
    let mut adj = || pick(&mut adjs, &WORDS.prose_adjs);
    let mut verb = || pick(&mut verbs, &WORDS.prose_verbs);
    let place = pick(rng, &PREPOSITIONS);
    match rng.u8(..8) {
        0 => format!(" The {} {} will {} the {} {place} {}.", adj(), noun(), verb(), noun(), noun()),
        1 => format!(
            " In the {}, a {} and a {} may {} {place} {} {}.",
            noun(),
            noun(),
            noun(),
            verb(),
            adj(),
            noun()
        ),
        2 => format!(" Some say that every {} is {}, but the {} is {}.", noun(), adj(), noun(), adj()),
        3 => format!(
            " {} wants to {} the {} {}, and the {} is {}.",
            pick(rng, &NAMES),
            verb(),
            adj(),
            noun(),
            noun(),
            adj()
        ),
        4 => format!(" A {} can {}, and so can the {} {}.", noun(), verb(), adj(), noun()),
        5 => format!(" When the {} is {}, people {} {place} {}.", noun(), adj(), verb(), noun()),
        6 => format!(
            " It was {}, and the {} of the {} {} did {}.",
            rng.u32(1000..3000),
            noun(),
            adj(),
            noun(),
            verb()
        ),
        _ => format!(" The {} that you {} is never {}.", noun(), verb(), adj()),
    }
}
