//! Random numbers that depend on a seed and a name, not on the order of calls.

/// SplitMix64, seeded by (seed, name): the same parameter gets the same values wherever it stands.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream for `name` under `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a of the name, mixed with the seed.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut random = Self(hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.bits();
        random
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// `rows` x `columns` with orthonormal rows or columns, whichever are fewer, times `scale`,
    /// times sqrt(rows/columns) where rows are more (RWKV's convention).
    pub fn orthogonal(&mut self, rows: usize, columns: usize, scale: f64) -> Vec<f32> {
        let (count, length) = (rows.min(columns), rows.max(columns));
        let mut basis: Vec<Vec<f64>> = Vec::with_capacity(count);
        while basis.len() < count {
            let mut v: Vec<f64> = (0..length).map(|_| self.normal()).collect();
            for _ in 0..2 {
                for b in &basis {
                    let dot: f64 = b.iter().zip(&v).map(|(x, y)| x * y).sum();
                    v.iter_mut().zip(b).for_each(|(x, y)| *x -= dot * y);
                }
            }
            let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            if norm > 1e-6 {
                basis.push(v.into_iter().map(|x| x / norm).collect());
            }
        }
        let gain = scale * if rows > columns { (rows as f64 / columns as f64).sqrt() } else { 1.0 };
        let mut out = Vec::with_capacity(rows * columns);
        for i in 0..rows {
            for j in 0..columns {
                let value = if rows > columns { basis[j][i] } else { basis[i][j] };
                out.push((gain * value) as f32);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orthogonal_columns_and_rows() {
        let (rows, columns) = (12, 5);
        let m = Random::new(1, "x").orthogonal(rows, columns, 0.1);
        let expected = 0.01 * rows as f32 / columns as f32;
        for i in 0..columns {
            for j in 0..columns {
                let dot: f32 = (0..rows).map(|r| m[r * columns + i] * m[r * columns + j]).sum();
                assert!((dot - if i == j { expected } else { 0.0 }).abs() < 1e-6);
            }
        }
        let m = Random::new(1, "x").orthogonal(3, 7, 0.1);
        let dot: f32 = (0..7).map(|c| m[c] * m[7 + c]).sum();
        assert!(dot.abs() < 1e-7);
    }

    #[test]
    fn moments() {
        let mut random = Random::new(3, "moments");
        let x: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05);
    }
}
