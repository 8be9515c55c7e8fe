//! What a sequence has read, in pages of P tokens: f32, or bf16 in the order of register tiles, which takes
//! half the memory and is multiplied as it lies.
//!
//! An f32 page is keys `[1, G, N, P]` (one channel of all tokens after the other, as products with one query
//! want them) and values `[1, G, P, N]`. A rounded one, on the processor only, is pairs along what products
//! sum over, in panels of 32 columns: keys `[G, P / 32, N / 2, 32 x 2]`, two channels of a token side by side,
//! and values `[G, N / 32, P / 2, 32 x 2]`, one channel of two tokens.

use crate::cpu::pairs::{COLUMNS, pair, product_by_panels, weave};
use crate::cpu::{Matrix, product_by_rows};
use crate::glue::{flex, from_flex, on_cpu, slice};
use burn::tensor::{DType, Device, Tensor, TensorData, bf16};
use burn_flex::FlexTensor;

/// What one sequence has read: keys and values of its pages, in turn, all full but the last. [`append`](Self::append)
/// makes them. A page's spare room holds finite numbers.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    /// Keys, values, keys, values, ...
    pub pages: &'a [Tensor<4>],
    /// Tokens held, the query's own included.
    pub length: usize,
}

/// PageSizes of a page.
#[derive(Clone, Copy, Debug)]
pub struct PageSizes {
    /// Key heads (G).
    pub groups: usize,
    /// Tokens (P).
    pub tokens: usize,
    /// Channels of a head (N).
    pub size: usize,
}

impl Cache<'_> {
    /// Whether pages of so many tokens, for heads of this size, can be of bf16 on the device.
    pub fn can_round(device: &Device, tokens: usize, size: usize) -> bool {
        tokens.is_multiple_of(COLUMNS) && size.is_multiple_of(COLUMNS) && on_cpu(&Tensor::<1>::empty([0], device))
    }

    /// Writes keys and values `[1, T, G, N]` behind the `length` tokens that `pages`, of `tokens` each, hold. New
    /// pages are of the kind of those before them, the first ones `rounded` or not.
    ///
    /// # Panics
    /// When keys and values are not of one shape, or pages are rounded that cannot be ([`Cache::can_round`]) or
    /// would need gradients.
    pub fn append(pages: &mut Vec<Tensor<4>>, length: usize, tokens: usize, k: Tensor<4>, v: Tensor<4>, rounded: bool) {
        assert_eq!(k.dims(), v.dims(), "append: keys and values of one shape");
        let rounded = pages.first().map_or(rounded, |page| page.dtype() == DType::BF16);
        if rounded { append_rounded(pages, length, tokens, k, v) } else { append_whole(pages, length, tokens, k, v) }
    }

    /// The same keys and values in pages of bf16, or of f32; none where these are no pages that hold `length` tokens.
    pub fn converted(&self, rounded: bool) -> Option<Vec<Tensor<4>>> {
        let Some(PageSizes { groups, tokens, size }) = self.sizes() else { return Some(Vec::new()) };
        let shapes = match self.pages[1].dtype() {
            DType::BF16 => rounded_shapes(groups, tokens, size),
            _ => [[1, groups, size, tokens], [1, groups, tokens, size]],
        };
        let alike = |page: &[Tensor<4>]| {
            page.iter().map(Tensor::dims).eq(shapes) && page.iter().all(|part| part.dtype() == self.pages[1].dtype())
        };
        let count = self.pages.len() / 2;
        let held = groups * tokens * size > 0 && self.length <= count * tokens && self.length + tokens > count * tokens;
        let can = !rounded || Self::can_round(&self.pages[1].device(), tokens, size);
        if !(held && can && self.pages.chunks(2).all(alike)) {
            return None;
        }
        let mut pages = Vec::new();
        Self::append(&mut pages, 0, tokens, self.keys(), self.values(), rounded);
        Some(pages)
    }

    /// Tokens that a page has room for; none without pages.
    pub fn tokens_a_page(&self) -> Option<usize> {
        self.sizes().map(|sizes| sizes.tokens)
    }

    /// PageSizes of its pages; none without pages.
    pub(super) fn sizes(&self) -> Option<PageSizes> {
        let values = self.pages.get(1)?;
        Some(match (values.dtype(), values.dims()) {
            (DType::BF16, [groups, panels, pairs, _]) => PageSizes { groups, tokens: 2 * pairs, size: panels * COLUMNS },
            (_, [_, groups, tokens, size]) => PageSizes { groups, tokens, size },
        })
    }

    /// The keys held, f32 `[1, S, G, N]`.
    pub fn keys(&self) -> Tensor<4> {
        self.held(0)
    }

    /// The values held, f32 `[1, S, G, N]`.
    pub fn values(&self) -> Tensor<4> {
        self.held(1)
    }

    fn held(&self, values: usize) -> Tensor<4> {
        let Some(sizes) = self.sizes() else { panic!("a cache without pages") };
        let pages = self.pages.iter().skip(values).step_by(2).cloned().map(|page| match (page.dtype(), values) {
            (DType::BF16, _) => {
                let device = page.device();
                let page = unrounded(words(&flex(page)), sizes, values == 1);
                Tensor::from_data(TensorData::new(page, [1, sizes.tokens, sizes.groups, sizes.size]), &device)
            }
            (_, 0) => page.permute([0, 3, 1, 2]),
            _ => page.swap_dims(1, 2),
        });
        Tensor::cat(pages.collect(), 1).narrow(1, 0, self.length)
    }
}

/// Pages where they lie; on the processor only.
pub(super) struct Lent(Vec<FlexTensor>);

/// Keys or values of one page, in order of its kind.
#[derive(Clone, Copy)]
pub(super) enum Page<'a> {
    Whole(&'a [f32]),
    Rounded(&'a [u32]),
}

impl Lent {
    pub fn of(pages: &[Tensor<4>]) -> Self {
        Self(
            pages
                .iter()
                .cloned()
                .map(|page| {
                    let page = flex(page);
                    if page.is_contiguous() { page } else { page.to_contiguous() }
                })
                .collect(),
        )
    }

    pub fn pages(&self) -> Vec<Page<'_>> {
        self.0
            .iter()
            .map(|page| match page.dtype() {
                DType::BF16 => Page::Rounded(words(page)),
                _ => Page::Whole(page.as_slice().expect("made contiguous")),
            })
            .collect()
    }
}

impl<'a> Page<'a> {
    /// One head's, of `elements` keys or values.
    pub fn head(self, group: usize, elements: usize) -> Self {
        match self {
            Self::Whole(data) => Self::Whole(&data[group * elements..][..elements]),
            Self::Rounded(words) => Self::Rounded(&words[group * elements / 2..][..elements / 2]),
        }
    }

    /// `out (+)= left right` with a head's `columns` columns on the right.
    pub fn product(self, out: &mut [f32], stride: usize, keep: bool, left: Matrix<'_>, columns: usize) {
        match self {
            Self::Whole(data) => product_by_rows(out, stride, keep, left, Matrix::new(data, data.len() / columns, columns)),
            Self::Rounded(words) => product_by_panels(out, stride, keep, left, words),
        }
    }
}

fn append_whole(pages: &mut Vec<Tensor<4>>, length: usize, tokens: usize, k: Tensor<4>, v: Tensor<4>) {
    let [_, new, g, n] = k.dims();
    for (used, from, count) in runs(length, tokens, new) {
        if used == 0 {
            let device = k.device();
            pages.extend([Tensor::zeros([1, g, n, tokens], &device), Tensor::zeros([1, g, tokens, n], &device)]);
        }
        let [keys, values] = last(pages);
        let new_tokens = |x: &Tensor<4>| x.clone().narrow(1, from, count);
        let at = used..used + count;
        pages.push(keys.slice_assign([0..1, 0..g, 0..n, at.clone()], new_tokens(&k).permute([0, 2, 3, 1])));
        pages.push(values.slice_assign([0..1, 0..g, at, 0..n], new_tokens(&v).swap_dims(1, 2)));
    }
}

fn append_rounded(pages: &mut Vec<Tensor<4>>, length: usize, tokens: usize, k: Tensor<4>, v: Tensor<4>) {
    let [_, new, groups, size] = k.dims();
    let sizes = PageSizes { groups, tokens, size };
    assert!(Cache::can_round(&k.device(), tokens, size), "append: pages of {tokens} tokens of {size} channels in bf16");
    let (k, v) = (slice(k), slice(v));
    for (used, from, count) in runs(length, tokens, new) {
        if used == 0 {
            pages.extend(
                rounded_shapes(groups, tokens, size).map(|shape| from_flex(FlexTensor::zeros(shape.into(), DType::BF16))),
            );
        }
        let range = from * groups * size..(from + count) * groups * size;
        let [mut keys, mut values] = last(pages).map(flex);
        write_keys(bytemuck::cast_slice_mut(keys.storage_mut::<bf16>()), &k.as_slice()[range.clone()], used, sizes);
        write_values(bytemuck::cast_slice_mut(values.storage_mut::<bf16>()), &v.as_slice()[range], used, sizes);
        pages.extend([from_flex(keys), from_flex(values)]);
    }
}

/// The last page's keys and values, taken out, so that they are written to where they lie.
fn last(pages: &mut Vec<Tensor<4>>) -> [Tensor<4>; 2] {
    let (Some(values), Some(keys)) = (pages.pop(), pages.pop()) else {
        panic!("a cache without the page that its length tells of")
    };
    [keys, values]
}

/// The runs of `new` tokens behind `length` that lie in one page: where in it, which, how many.
fn runs(length: usize, tokens: usize, new: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (used, from) = ((length + done) % tokens, done);
        let count = (tokens - used).min(new - done);
        done += count;
        (count > 0).then_some((used, from, count))
    })
}

/// Shapes of a rounded page's keys and values.
fn rounded_shapes(groups: usize, tokens: usize, size: usize) -> [[usize; 4]; 2] {
    [[groups, tokens / COLUMNS, size / 2, 2 * COLUMNS], [groups, size / COLUMNS, tokens / 2, 2 * COLUMNS]]
}

/// Keys `[T, G, N]` at `used`.
fn write_keys(page: &mut [u32], new: &[f32], used: usize, PageSizes { groups, tokens, size }: PageSizes) {
    let mut line = vec![0; size / 2];
    for (at, row) in (used..).zip(new.chunks_exact(groups * size)) {
        for (head, page) in row.chunks_exact(size).zip(page.chunks_exact_mut(tokens * size / 2)) {
            pair(head, &mut line);
            let column = at / COLUMNS * COLUMNS * size / 2 + at % COLUMNS;
            for (word, to) in line.iter().zip(page[column..].iter_mut().step_by(COLUMNS)) {
                *to = *word;
            }
        }
    }
}

/// Values `[T, G, N]` at `used`.
fn write_values(page: &mut [u32], new: &[f32], used: usize, PageSizes { groups, tokens, size }: PageSizes) {
    let width = groups * size;
    let mut line = [0; COLUMNS];
    let (mut at, mut rest) = (used, new);
    while !rest.is_empty() {
        // An even token and the one behind it together, else one alone, which leaves the other half as it is.
        let together = at.is_multiple_of(2) && rest.len() >= 2 * width;
        let (now, after) = rest.split_at(if together { 2 * width } else { width });
        let mask = match (together, at.is_multiple_of(2)) {
            (true, _) => u32::MAX,
            (false, true) => 0xffff,
            (false, false) => 0xffff_0000,
        };
        for (index, columns) in now[..width].chunks_exact(COLUMNS).enumerate() {
            let second = &now[now.len() - width + index * COLUMNS..][..COLUMNS];
            weave(columns, second, &mut line);
            // `index` counts panels of all heads, one after the other as they lie.
            let to = &mut page[(index * tokens / 2 + at / 2) * COLUMNS..][..COLUMNS];
            for (to, word) in to.iter_mut().zip(line) {
                *to = *to & !mask | word & mask;
            }
        }
        at += now.len() / width;
        rest = after;
    }
}

/// A rounded page as f32 `[P, G, N]`.
fn unrounded(words: &[u32], PageSizes { groups, tokens, size }: PageSizes, values: bool) -> Vec<f32> {
    let mut out = vec![0.0; tokens * groups * size];
    let (columns, pairs) = if values { (size, tokens / 2) } else { (tokens, size / 2) };
    let lines = (0..groups).flat_map(|g| (0..columns / COLUMNS).flat_map(move |j| (0..pairs).map(move |p| (g, j, p))));
    for ((g, j, p), line) in lines.zip(words.chunks_exact(COLUMNS)) {
        for (c, word) in line.iter().enumerate() {
            for (half, bits) in [word << 16, word & 0xffff_0000].into_iter().enumerate() {
                let (summed, column) = (2 * p + half, j * COLUMNS + c);
                let (t, n) = if values { (summed, column) } else { (column, summed) };
                out[(t * groups + g) * size + n] = f32::from_bits(bits);
            }
        }
    }
    out
}

/// Its pairs as words.
fn words(page: &FlexTensor) -> &[u32] {
    bytemuck::cast_slice(page.as_slice::<bf16>().expect("a rounded page in one piece"))
}
