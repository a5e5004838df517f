//! RULER's score of an answer.

/// Returns the share of the references that appear in a model's output, ignoring case; 0 without references.
pub fn score(output: &str, answers: &[String]) -> f64 {
    let output = output.to_lowercase();
    let found = answers.iter().filter(|answer| output.contains(&answer.to_lowercase())).count();
    found as f64 / answers.len().max(1) as f64
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
}
