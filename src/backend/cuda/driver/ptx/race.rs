//! Races: uses of a word by different threads, one of them a write, with no barrier between.
//!
//! Each word remembers who used it since the last barrier, so that one run finds every race of its words,
//! whatever the order of threads. Blocks never wait for one another: what one writes, no other may use in
//! the same launch.

/// A thread at a moment.
#[derive(Clone, Copy)]
pub(super) struct User {
    pub launch: u32,
    pub block: u32,
    /// Barriers that its block has passed.
    pub epoch: u32,
    pub thread: u16,
}

/// Who used a word last.
#[derive(Clone, Copy)]
pub(super) struct Touch {
    /// 0: nobody.
    launch: u32,
    block: u32,
    /// Of `writer` and `reader`.
    epoch: u32,
    writer: u16,
    reader: u16,
    /// Whether it was written in this launch.
    written: bool,
}

const NOBODY: u16 = u16::MAX;
/// More threads, or blocks, than one.
const SEVERAL: u16 = u16::MAX - 1;
const SEVERAL_BLOCKS: u32 = u32::MAX;

impl Touch {
    pub(super) const NONE: Touch = Touch {
        launch: 0,
        block: 0,
        epoch: 0,
        writer: NOBODY,
        reader: NOBODY,
        written: false,
    };

    pub(super) fn is_written(self) -> bool {
        self.written
    }

    /// Notes a read; whether it races with a write.
    #[inline]
    pub(super) fn read(&mut self, user: User) -> bool {
        if self.meets(user) {
            return self.written;
        }
        self.reader = match self.reader {
            NOBODY => user.thread,
            reader if reader == user.thread => reader,
            _ => SEVERAL,
        };
        differs(self.writer, user)
    }

    /// Notes a write; whether it races with another use.
    #[inline]
    pub(super) fn write(&mut self, user: User) -> bool {
        if self.meets(user) || differs(self.reader, user) || differs(self.writer, user) {
            return true;
        }
        self.writer = user.thread;
        self.written = true;
        false
    }

    /// Forgets what this use cannot race with; whether another block used the word in this launch.
    #[inline]
    fn meets(&mut self, user: User) -> bool {
        if self.launch != user.launch {
            *self = Touch {
                launch: user.launch,
                block: user.block,
                epoch: user.epoch,
                ..Touch::NONE
            };
        } else if self.block != user.block {
            self.block = SEVERAL_BLOCKS;
            return true;
        } else if self.epoch != user.epoch {
            self.epoch = user.epoch;
            (self.writer, self.reader) = (NOBODY, NOBODY);
        }
        false
    }
}

fn differs(thread: u16, user: User) -> bool {
    thread != NOBODY && thread != user.thread
}
