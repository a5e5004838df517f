//! RULER's score of an answer.

/// Returns the share of the references that appear in a model's output, ignoring case; 0 without references.
pub fn score(output: &str, answers: &[String]) -> f64 {
    let found = answers.iter().filter(|answer| find_answer(output, answer).is_some()).count();
    found as f64 / answers.len().max(1) as f64
}

/// Returns the first byte of a reference in a model's output, ignoring case.
pub fn find_answer(output: &str, answer: &str) -> Option<usize> {
    let answer = answer.to_lowercase();
    let starts_at = |at: usize| {
        let mut rest = output[at..].chars().flat_map(char::to_lowercase);
        answer.chars().all(|c| rest.next() == Some(c))
    };
    output.char_indices().map(|(at, _)| at).find(|&at| starts_at(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_count_wherever_they_stand() {
        let answers = ["ABCDE".to_string(), "fghij".into()];
        assert_eq!(score(" Fghij, then abcde.", &answers), 1.0);
        assert_eq!(score(" abcd fghij", &answers), 0.5);
        assert_eq!(score("", &answers), 0.0);
        assert_eq!(score("anything", &[]), 0.0);
    }

    #[test]
    fn an_answer_is_found_at_its_first_byte() {
        for (output, answer, at) in [
            (": 46403", "46403", Some(2)),
            ("É “3F2A”, 3f2a", "3f2a", Some(6)),
            ("4640", "46403", None),
            ("", "4", None),
        ] {
            assert_eq!(find_answer(output, answer), at, "{output}");
        }
    }
}
