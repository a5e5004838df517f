//! Sums over pairs of numbers, many side by side: of one running sum compilers make no vectors.

/// Numbers that are summed side by side.
const WIDE: usize = 16;

/// The inner product.
#[inline(always)]
pub fn product(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |a, b| a * b)
}

/// The square of the distance.
#[inline(always)]
pub fn square_of_distance(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |a, b| (a - b) * (a - b))
}

#[inline(always)]
fn sum(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<WIDE>(), b.as_chunks::<WIDE>());
    let mut sums = [0.0; WIDE];
    for (a, b) in a.iter().zip(b) {
        for i in 0..WIDE {
            sums[i] += of(a[i], b[i]);
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(&a, &b)| of(a, b)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_match_the_definition() {
        for n in [0, 3, 16, 37] {
            let [a, b]: [Vec<f32>; 2] = [1, 2].map(|k| (0..n).map(|i| ((i * k) % 7) as f32).collect());
            let pairs = || a.iter().zip(&b);
            assert_eq!(product(&a, &b), pairs().map(|(a, b)| a * b).sum::<f32>());
            assert_eq!(square_of_distance(&a, &b), pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f32>());
        }
    }
}
