//! The buckets of the flat gradient buffer, and the order in which they are sent.
//!
//! A few other values precede the gradients. Buckets are cut from the end of the buffer, since
//! backward reaches the last parameters first.

use std::ops::Range;

/// The buckets of a buffer; the first one is at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    /// The elements of each bucket.
    pub ranges: Vec<Range<usize>>,
    /// For each parameter, the buckets that its gradient overlaps.
    pub of: Vec<Range<usize>>,
}

impl Buckets {
    /// Cuts a buffer into buckets. It holds `front` values, the gradients of parameters of these `sizes`,
    /// and padding to a multiple of `slices`; every bucket begins at such a multiple. A bucket has at most
    /// `most` elements, unless a single parameter has more.
    pub fn cut(front: usize, sizes: &[usize], most: usize, slices: usize) -> Self {
        let end = front + sizes.iter().sum::<usize>();
        let length = end.next_multiple_of(slices);
        let mut starts = Vec::new();
        let (mut start, mut elements) = (end, length - end);
        for &size in sizes.iter().rev() {
            if start < end && elements + size > most {
                starts.push(start.next_multiple_of(slices));
                elements = 0;
            }
            start -= size;
            elements += size;
        }
        starts.push(0);
        let mut before = length;
        let range = |start| start..std::mem::replace(&mut before, start);
        let ranges: Vec<Range<usize>> = starts.into_iter().map(range).collect();
        let mut offset = front;
        let of = |&size: &usize| {
            let elements = offset..offset + size;
            offset += size;
            holders(&ranges, &elements)
        };
        let of = sizes.iter().map(of).collect();
        Self { ranges, of }
    }

    /// The buckets that overlap these elements.
    pub fn holding(&self, elements: &Range<usize>) -> Range<usize> {
        holders(&self.ranges, elements)
    }

    /// The bucket with the values in front, which is complete last.
    pub fn last(&self) -> usize {
        self.ranges.len() - 1
    }

    /// All buckets in the order in which backward completes them; or only every second one first, which is
    /// as much as backward can hide if communication takes as long as all computation. The others then
    /// follow in the order in which the next forward pass needs them, from the values in front on.
    pub fn order(&self, into_forward: bool) -> Vec<usize> {
        let all = 0..self.ranges.len();
        let is_late = |bucket: &usize| into_forward && (bucket % 2 == 1 || *bucket == self.last());
        let (late, mut order): (Vec<usize>, Vec<usize>) = all.partition(is_late);
        order.extend(late.into_iter().rev());
        order
    }
}

fn holders(ranges: &[Range<usize>], elements: &Range<usize>) -> Range<usize> {
    let first = ranges.partition_point(|range| range.start >= elements.end);
    let end = ranges.partition_point(|range| range.end > elements.start);
    first..end.max(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_cut_from_the_end() {
        let buckets = Buckets::cut(5, &[4, 3, 10, 2, 1], 8, 1);
        assert_eq!(buckets.ranges, [22..25, 12..22, 0..12]);
        assert_eq!(buckets.of, [2..3, 2..3, 1..2, 0..1, 0..1]);
        assert_eq!(buckets.holding(&(21..23)), 0..2);
        assert_eq!(buckets.holding(&(0..5)), 2..3);
    }

    #[test]
    fn they_can_be_sliced_and_parameters_cut_in_two() {
        let buckets = Buckets::cut(4, &[4, 3, 10, 2, 1], 8, 3);
        assert_eq!(buckets.ranges, [21..24, 12..21, 0..12]);
        assert_eq!(buckets.of, [2..3, 2..3, 1..3, 0..1, 0..1]);
        let buckets = Buckets::cut(1, &[1, 1, 1], 1, 4);
        assert_eq!(buckets.ranges, [4..4, 4..4, 0..4]);
        assert_eq!(buckets.of, [2..3, 2..3, 2..3]);
    }

    #[test]
    fn values_without_gradients_are_a_bucket() {
        let buckets = Buckets::cut(5, &[], 8, 2);
        assert_eq!(buckets.ranges.first(), Some(&(0..6)));
        assert_eq!((buckets.last(), buckets.of.len()), (0, 0));
    }

    #[test]
    fn every_bucket_is_sent_once_and_half_of_them_late() {
        let buckets = Buckets::cut(1, &[1; 7], 1, 1);
        assert_eq!(buckets.order(false), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(buckets.order(true), [0, 2, 4, 6, 5, 3, 1]);
        assert_eq!(Buckets::cut(1, &[1; 6], 1, 1).order(true), [0, 2, 4, 5, 3, 1]);
        assert_eq!(Buckets::cut(1, &[], 1, 1).order(true), [0]);
    }
}
