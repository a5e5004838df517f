//! What stands between the two products of a feed-forward block, number by number.

use super::lanes::exp2;

/// `gate / (1 + e^−gate) · up`, element by element.
#[inline(always)]
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        let e = exp2(-gate.abs() * std::f32::consts::LOG2_E);
        let sigmoid = if gate < 0.0 { e } else { 1.0 } / (1.0 + e);
        *out = gate * sigmoid * up;
    }
}

/// `gate/2 · (1 + tanh(√(2/π) · (gate + 0.044715 gate³))) · up`, element by element.
#[inline(always)]
pub fn geglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // ½ (1 + tanh(y)) is 1 / (1 + e^−2y).
    const TWICE: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        let y = TWICE * (gate + 0.044_715 * gate * gate * gate);
        let e = exp2(-y.abs() * std::f32::consts::LOG2_E);
        let share = if y < 0.0 { e } else { 1.0 } / (1.0 + e);
        *out = gate * share * up;
    }
}

/// `gate / (1 + e^−1.702 gate) · (up + 1)`, element by element, of gates of at most `limit` and of `up` between
/// −`limit` and `limit`. A NaN stays one.
#[inline(always)]
pub fn clamped_swiglu(gate: &[f32], up: &[f32], limit: f32, out: &mut [f32]) {
    const ALPHA: f32 = 1.702;
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        let gate = if gate > limit { limit } else { gate };
        let e = exp2(-gate.abs() * (ALPHA * std::f32::consts::LOG2_E));
        let sigmoid = if gate < 0.0 { e } else { 1.0 } / (1.0 + e);
        *out = gate * sigmoid * (up.clamp(-limit, limit) + 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::lanes::vectorized, *};

    #[test]
    fn swiglu_matches_the_definition() {
        let gate: Vec<f32> = (-400..400).map(|i| i as f32 * 0.5).collect();
        let mut out = vec![0.0; gate.len()];
        vectorized(|| swiglu(&gate, &vec![2.0; gate.len()], &mut out));
        for (&gate, &out) in gate.iter().zip(&out) {
            let exact = 2.0 * gate as f64 / (1.0 + (-gate as f64).exp());
            // The exponent is rounded to 24 bits, and exp2 takes what is below 2⁻¹²⁵ for 0.
            let (rounded, lost) =
                (gate.abs() as f64 * 2f64.powi(-23) * exact.abs(), 2.0 * gate.abs() as f64 * 2f64.powi(-125));
            assert!(
                (out as f64 - exact).abs() <= 5e-7 * exact.abs() + rounded + lost,
                "{gate}: {out} {exact}"
            );
        }
    }

    #[test]
    fn clamped_swiglu_matches_the_definition() {
        let gate: Vec<f32> = (-400..400).map(|i| i as f32 * 0.05).collect();
        for up in [-9.0, -7.0, -1.0, 0.3, 6.9, 30.0] {
            let mut out = vec![0.0; gate.len()];
            vectorized(|| clamped_swiglu(&gate, &vec![up; gate.len()], 7.0, &mut out));
            for (&gate, &out) in gate.iter().zip(&out) {
                let x = f64::from(gate).min(7.0);
                let exact = x / (1.0 + (-1.702 * x).exp()) * (f64::from(up).clamp(-7.0, 7.0) + 1.0);
                assert!(
                    (out as f64 - exact).abs() <= 2e-6 * exact.abs() + 2e-6,
                    "{gate} {up}: {out} {exact}"
                );
            }
        }
        let mut out = [0.0; 2];
        clamped_swiglu(&[f32::NAN, 1.0], &[1.0, f32::NAN], 7.0, &mut out);
        assert!(out.iter().all(|x| x.is_nan()), "{out:?}");
    }

    #[test]
    fn geglu_matches_the_definition() {
        let gate: Vec<f32> = (-400..400).map(|i| i as f32 * 0.05).collect();
        let mut out = vec![0.0; gate.len()];
        vectorized(|| geglu(&gate, &vec![2.0; gate.len()], &mut out));
        for (&gate, &out) in gate.iter().zip(&out) {
            let x = gate as f64;
            let exact = x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
            assert!((out as f64 - exact).abs() <= 2e-6 * exact.abs() + 2e-6, "{gate}: {out} {exact}");
        }
    }
}
