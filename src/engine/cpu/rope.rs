//! Rotates the heads of queries or keys by their positions, normed before where a family norms them.

use super::{lanes::vectorized, norm::root, parts::in_parts, sums::product};

/// Rows that one thread works on at a time.
const ROWS: usize = 32;

/// What becomes of every head of a row.
pub(super) struct Rotation<'a> {
    pub head_dim: usize,
    /// Weight and ε of a norm. `[head_dim]`
    pub norm: Option<(&'a [f32], f32)>,
    /// Cosines and sines of each row's position. `[n_rows, n_rotated / 2]`
    pub angles: [&'a [f32]; 2],
    pub scale: f32,
}

impl Rotation<'_> {
    /// Turns rows of `width` numbers, whole heads.
    pub fn of(&self, rows: &[f32], width: usize) -> Vec<f32> {
        let half = self.angles[0].len() / (rows.len() / width).max(1);
        in_parts(rows.len(), ROWS * width, |at, out| {
            let first = at.start / width;
            let [cos, sin] = self.angles.map(|angles| &angles[first * half..]);
            vectorized(
                #[inline(always)]
                || {
                    let rows = out.chunks_exact_mut(width).zip(rows[at].chunks_exact(width));
                    for ((out, row), (cos, sin)) in
                        rows.zip(cos.chunks_exact(half).zip(sin.chunks_exact(half)))
                    {
                        let heads = out.chunks_exact_mut(self.head_dim).zip(row.chunks_exact(self.head_dim));
                        for (out, head) in heads {
                            self.head(head, cos, sin, out);
                        }
                    }
                },
            );
        })
    }

    #[inline(always)]
    fn head(&self, head: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        out.copy_from_slice(head);
        if let Some((weight, eps)) = self.norm {
            let root = root(head, product(head, head), eps);
            for (x, weight) in out.iter_mut().zip(weight) {
                *x = *x / root * weight;
            }
        }
        let (rotated, rest) = out.split_at_mut(2 * cos.len());
        let (first, second) = rotated.split_at_mut(cos.len());
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
            (*a, *b) = ((*a * cos - *b * sin) * self.scale, (*a * sin + *b * cos) * self.scale);
        }
        for x in rest {
            *x *= self.scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of more rows than a thread takes at a time, and of heads of which a part is rotated.
    #[test]
    fn heads_are_normed_and_rotated_as_defined() {
        let (n_rows, n_heads, head_dim, half) = (ROWS + 3, 2, 7, 2);
        let number = |i: usize| ((i * 7919) % 1000) as f32 / 500.0 - 1.0;
        let rows: Vec<f32> = (0..n_rows * n_heads * head_dim).map(number).collect();
        let angle = |row: usize, i: usize| row as f32 * [1.0, 0.1][i];
        let table = |of: fn(f32) -> f32| -> Vec<f32> {
            (0..n_rows * half).map(|i| of(angle(i / half, i % half))).collect()
        };
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let weight: Vec<f32> = (0..head_dim).map(|i| 1.0 + i as f32 / 8.0).collect();
        for norm in [None, Some((&weight[..], 0.25))] {
            let rotation = Rotation { head_dim, norm, angles: [&cos, &sin], scale: 0.5 };
            let found = rotation.of(&rows, n_heads * head_dim);
            for (i, (head, found)) in rows.chunks(head_dim).zip(found.chunks(head_dim)).enumerate() {
                let squares: f32 = head.iter().map(|x| x * x).sum();
                let normed =
                    |i: usize| norm.map_or(head[i], |(w, eps)| head[i] / (squares / 7.0 + eps).sqrt() * w[i]);
                for (d, found) in found.iter().enumerate() {
                    let (sin, cos) = angle(i / n_heads, d % half).sin_cos();
                    let turned = match d {
                        0..2 => normed(d) * cos - normed(d + half) * sin,
                        2..4 => normed(d - half) * sin + normed(d) * cos,
                        _ => normed(d),
                    };
                    assert!((found - 0.5 * turned).abs() < 1e-6, "{i} {d}: {found} {turned}");
                }
            }
        }
    }
}
