//! Rows of activations in groups of 32 codes of 8 bits, for products with weights in blocks.

/// Rows in groups of 32 numbers, `scale · code` each.
pub struct Rows {
    pub n_rows: usize,
    /// Groups of a row.
    pub n_groups: usize,
    /// `[n_rows, n_groups]`, as everything below.
    pub codes: Vec<[i16; 32]>,
    pub scales: Vec<f32>,
    /// The sum of each half's numbers.
    pub sums: Vec<[f32; 2]>,
}

impl Rows {
    /// Rounds rows of `width` numbers, a multiple of 32, to 127 steps between 0 and the largest of their
    /// group. A group with a number that is not finite becomes NaN.
    pub fn new(x: &[f32], width: usize) -> Self {
        let groups = x.as_chunks().0;
        let mut rows = Rows {
            n_rows: x.len() / width,
            n_groups: width / 32,
            codes: vec![[0; 32]; groups.len()],
            scales: vec![0.0; groups.len()],
            sums: vec![[0.0; 2]; groups.len()],
        };
        for (i, group) in groups.iter().enumerate() {
            (rows.scales[i], rows.sums[i]) = round(group, &mut rows.codes[i]);
        }
        rows
    }

    /// The groups of a row, each with its codes, scale and sums.
    #[inline(always)]
    pub fn row(&self, row: usize) -> (&[[i16; 32]], &[f32], &[[f32; 2]]) {
        let groups = row * self.n_groups..(row + 1) * self.n_groups;
        (&self.codes[groups.clone()], &self.scales[groups.clone()], &self.sums[groups])
    }
}

/// Writes the codes of a group; returns its scale, and the sum of the numbers that each half's codes stand for.
fn round(numbers: &[f32; 32], codes: &mut [i16; 32]) -> (f32, [f32; 2]) {
    let most = numbers.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    if !numbers.iter().all(|x| x.is_finite()) {
        return (f32::NAN, [f32::NAN; 2]);
    }
    let scale = most / 127.0;
    let steps = if scale == 0.0 { 0.0 } else { 127.0 / most };
    for (code, x) in codes.iter_mut().zip(numbers) {
        *code = (x * steps).round_ties_even() as i16;
    }
    let sum = |half: &[i16]| scale * half.iter().map(|&code| i32::from(code)).sum::<i32>() as f32;
    (scale, [sum(&codes[..16]), sum(&codes[16..])])
}
