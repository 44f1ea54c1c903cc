//! How much time a run's phases took.

/// Seconds of each phase, summed over the devices' threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Phases {
    /// Waiting, because no picture was ready.
    pub waiting_for_pictures: f64,
    /// Iterations of the DIP networks. A GPU works while its thread prepares the next work: its time is counted
    /// in the phase in which the thread waits for a result.
    pub dip: f64,
    /// Probes of inputs, trajectories and decision maps.
    pub probing: f64,
    /// Localizing, pushing and stitching.
    pub restoring: f64,
    /// Waiting, because the writers were behind.
    pub waiting_for_writers: f64,
}

impl std::iter::Sum for Phases {
    fn sum<I: Iterator<Item = Phases>>(phases: I) -> Phases {
        phases.fold(Phases::default(), |a, b| Phases {
            waiting_for_pictures: a.waiting_for_pictures + b.waiting_for_pictures,
            dip: a.dip + b.dip,
            probing: a.probing + b.probing,
            restoring: a.restoring + b.restoring,
            waiting_for_writers: a.waiting_for_writers + b.waiting_for_writers,
        })
    }
}

/// How busy the devices were.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Usage {
    /// Seconds of each phase, summed over the devices' threads.
    pub seconds_by_phase: Phases,
    /// Share of the run's time, from 0 to 1, in which the devices' engines (DIP networks and classifier) worked:
    /// the mean of all devices.
    pub engine_busy: f64,
}

impl Usage {
    /// The usage of `devices` devices in a run of `seconds`.
    pub fn new(phases: Phases, devices: usize, seconds: f64) -> Usage {
        let Phases {
            dip,
            probing,
            restoring,
            ..
        } = phases;
        let of = (devices as f64 * seconds).max(1e-9);
        Usage {
            seconds_by_phase: phases,
            engine_busy: (dip + probing + restoring) / of,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_part_is_the_mean_of_all_devices() {
        let device = Phases {
            waiting_for_pictures: 2.0,
            dip: 6.0,
            probing: 1.0,
            restoring: 1.0,
            ..Phases::default()
        };
        let idle = Phases {
            waiting_for_pictures: 10.0,
            ..Phases::default()
        };
        let usage = Usage::new([device, idle].into_iter().sum(), 2, 10.0);
        assert_eq!(usage.engine_busy, 0.4);
        assert_eq!(usage.seconds_by_phase.waiting_for_pictures, 12.0);
    }
}
