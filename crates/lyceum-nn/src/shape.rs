//! The sizes of a tensor: up to four dimensions, row-major, no strides, no allocation.

/// At most four dimensions; unused ones are 1 and do not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: u8,
}

impl Shape {
    /// # Panics
    /// When `dims` has more than four entries.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= 4, "a shape has at most four dimensions, got {dims:?}");
        let mut all = [1; 4];
        all[..dims.len()].copy_from_slice(dims);
        Shape { dims: all, rank: dims.len() as u8 }
    }

    /// The sizes, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// The number of elements.
    #[allow(clippy::len_without_is_empty, reason = "the length of the tensor, not of a container")]
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// The innermost size (1 for a scalar).
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// How many innermost rows there are.
    pub fn rows(&self) -> usize {
        self.dims[..(self.rank as usize).saturating_sub(1)].iter().product()
    }

    /// The outermost size (1 for a scalar).
    pub fn first(&self) -> usize {
        self.dims().first().copied().unwrap_or(1)
    }

    /// The same shape with another innermost size.
    pub fn with_last(mut self, last: usize) -> Self {
        assert!(self.rank > 0, "a scalar has no innermost dimension");
        self.dims[self.rank as usize - 1] = last;
        self
    }

    /// The same shape with another outermost size.
    pub fn with_first(mut self, first: usize) -> Self {
        assert!(self.rank > 0, "a scalar has no outermost dimension");
        self.dims[0] = first;
        self
    }
}

impl std::ops::Index<usize> for Shape {
    type Output = usize;
    fn index(&self, i: usize) -> &usize {
        &self.dims()[i]
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}
