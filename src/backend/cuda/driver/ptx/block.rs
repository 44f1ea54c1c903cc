//! Runs the blocks of a launch, one after another.

use super::super::emulator::fault::Fault;
use super::super::launch::Launch;
use super::access::Reach;
use super::program::Program;
use super::warp::{Failure, Stop, Warp};

/// What went wrong, and in which line of the text.
pub(super) struct Failed {
    pub line: u32,
    pub fault: Fault,
}

/// Runs the blocks of these numbers.
///
/// # Errors
/// What a thread does wrong.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
pub(super) fn run(
    program: &Program,
    launch: Launch,
    parameters: &[u8],
    blocks: impl IntoIterator<Item = u32>,
    reach: &mut Reach<'_>,
) -> Result<(), Failed> {
    let threads = launch.block;
    let firsts = (0..threads).step_by(32);
    let mut warps: Vec<Warp> = firsts
        .map(|first| Warp::new(program, first, threads))
        .collect();
    let [x, y, _] = launch.grid;
    for number in blocks {
        let block = [number % x, number / x % y, number / x / y];
        reach.enter(block, number);
        for warp in &mut warps {
            warp.start(program, threads, block, launch.grid);
        }
        while run_to_barrier(program, parameters, &mut warps, reach).map_err(|(at, fault)| {
            Failed {
                line: program.code[at].line,
                fault,
            }
        })? {
            reach.epoch += 1;
            warps.iter_mut().for_each(Warp::pass_barrier);
        }
    }
    Ok(())
}

/// Runs each warp as far as it can go; whether all wait at one barrier.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn run_to_barrier(
    program: &Program,
    parameters: &[u8],
    warps: &mut [Warp],
    reach: &mut Reach<'_>,
) -> Result<bool, Failure> {
    let mut stops = vec![];
    for warp in warps.iter_mut() {
        stops.push(warp.run(program, parameters, reach)?);
    }
    if let Some(meter) = &mut reach.meter {
        meter.meet(stops.iter().all(|stop| *stop == Stop::Ended));
    }
    let waiting = stops.iter().position(|stop| *stop != Stop::Ended);
    let Some((first, Stop::Barrier(at))) = waiting.map(|first| (first, stops[first])) else {
        return Ok(false);
    };
    let Some(other) = stops.iter().position(|stop| *stop != Stop::Barrier(at)) else {
        return Ok(true);
    };
    let line = |at: usize| program.code[at].line;
    let fault = Fault::Divergence {
        block: reach.block,
        thread: first as u32 * 32,
        line: line(at),
        warp: false,
        other: other as u32 * 32,
        other_line: match stops[other] {
            Stop::Barrier(at) => Some(line(at)),
            Stop::Ended => None,
        },
    };
    Err((at, fault))
}
