//! How well a score separates true cases from false ones.

/// Returns the area under the ROC curve: the share of pairs of a true and a false case in which the true one
/// scores higher; ties count half.
///
/// Returns `None` when all cases are true or all are false.
pub fn auc(cases: &[(f64, bool)]) -> Option<f64> {
    let mut sorted = cases.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n_true = cases.iter().filter(|case| case.1).count();
    let n_false = cases.len() - n_true;
    if n_true == 0 || n_false == 0 {
        return None;
    }
    let (mut below, mut wins) = (0, 0.0);
    for ties in sorted.chunk_by(|a, b| a.0 == b.0) {
        let n = ties.iter().filter(|case| case.1).count();
        wins += n as f64 * (below as f64 + (ties.len() - n) as f64 / 2.0);
        below += ties.len() - n;
    }
    Some(wins / (n_true as f64 * n_false as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_pairs_in_the_right_order() {
        assert_eq!(auc(&[(0.9, true), (0.8, false), (0.7, true), (0.1, false)]), Some(0.75));
        assert_eq!(auc(&[(1.0, true), (1.0, false)]), Some(0.5));
        assert_eq!(auc(&[(1.0, false), (2.0, true), (1.0, true), (0.0, false)]), Some(0.875));
        assert_eq!((auc(&[(1.0, true)]), auc(&[(1.0, false)]), auc(&[])), (None, None, None));
    }
}
