//! Places of a block's maps: those whose lives overlap have places of their own.

/// Numbers of an aligned piece of memory.
pub(super) const ALIGNED: usize = 4;

/// Where a map is: at a place that is known, or in the memory that maps share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Home {
    Fixed(usize),
    Shared(usize),
}

/// A map, or some of its channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub home: Home,
    /// Of the first channel's first pixel.
    pub offset: usize,
    pub pitch: usize,
    pub plane: usize,
}

impl View {
    /// From channel `channel` on.
    pub(super) fn after(self, channel: usize) -> View {
        View {
            offset: self.offset + channel * self.plane,
            ..self
        }
    }
}

/// A map in shared places, with the first and the last step that use it.
struct Life {
    size: usize,
    first: usize,
    last: usize,
}

/// The memory that maps share.
#[derive(Default)]
pub(super) struct Memory {
    lives: Vec<Life>,
}

impl Memory {
    /// New memory of its own from the first step that uses it to the last.
    pub(super) fn take(&mut self, size: usize) -> View {
        self.lives.push(Life {
            size: size.next_multiple_of(ALIGNED),
            first: usize::MAX,
            last: 0,
        });
        View {
            home: Home::Shared(self.lives.len() - 1),
            offset: 0,
            pitch: 0,
            plane: 0,
        }
    }

    /// A new map, with room for a margin of a pixel or without.
    pub(super) fn map(
        &mut self,
        channels: usize,
        [height, width]: [usize; 2],
        margin: bool,
    ) -> View {
        let around = usize::from(margin);
        let (pitch, rows) = (width + 2 * around, height + 2 * around);
        View {
            offset: around * (pitch + 1),
            pitch,
            plane: rows * pitch,
            ..self.take(channels * rows * pitch)
        }
    }

    /// Keeps a map to step `now`, or from it on.
    pub(super) fn use_at(&mut self, view: View, now: usize) {
        if let Home::Shared(map) = view.home {
            let life = &mut self.lives[map];
            life.first = life.first.min(now);
            life.last = now;
        }
    }

    /// Numbers from 0 up to the last map's end, and where each map starts, none before `start`: the largest
    /// first, each at the lowest place where nothing lies that lives with it.
    pub(super) fn places(&self, start: usize) -> (usize, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.lives.len()).collect();
        order.sort_by_key(|&map| std::cmp::Reverse(self.lives[map].size));
        let mut places = vec![start; self.lives.len()];
        let mut placed: Vec<usize> = vec![];
        let mut end = start;
        for map in order {
            let life = &self.lives[map];
            let mut taken: Vec<(usize, usize)> = placed
                .iter()
                .filter(|&&other| {
                    let other = &self.lives[other];
                    other.first <= life.last && life.first <= other.last
                })
                .map(|&other| (places[other], places[other] + self.lives[other].size))
                .collect();
            taken.sort_unstable();
            let mut at = start;
            for (from, to) in taken {
                if from >= at + life.size {
                    break;
                }
                at = at.max(to);
            }
            places[map] = at;
            placed.push(map);
            end = end.max(at + life.size);
        }
        (end, places)
    }
}
