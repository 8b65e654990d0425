//! The progress of long commands, on standard error if that is a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use audit_sink_s3::layout::{ObjectKey, Partition};

use crate::arguments::Common;
use crate::units::counted;

/// A bar that appears once a command takes noticeably long.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar of this many steps.
    pub(crate) fn new(common: &Common, steps: u64) -> Progress {
        let hidden = common.quiet || !std::io::stderr().is_terminal();
        let target = if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr_with_hz(8)
        };
        let template = "{spinner} {wide_bar} {human_pos} of {human_len} {msg} {elapsed}";
        let style = ProgressStyle::with_template(template).expect("the template is valid");
        let bar = ProgressBar::with_draw_target(Some(steps), target).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress(bar)
    }

    pub(crate) fn is_hidden(&self) -> bool {
        self.0.is_hidden()
    }

    /// Sets the number of completed steps and the message.
    pub(crate) fn at(&self, steps: u64, message: &str) {
        self.0.set_position(steps);
        self.0.set_message(message.to_owned());
    }
}

/// Progress through partitions, which are read in order.
#[derive(Debug)]
pub(crate) struct PartitionProgress {
    progress: Progress,
    partitions: Vec<Partition>,
    objects: u64,
}

impl PartitionProgress {
    pub(crate) fn new(common: &Common, partitions: Vec<Partition>) -> PartitionProgress {
        let progress = Progress::new(common, partitions.len() as u64);
        PartitionProgress { progress, partitions, objects: 0 }
    }

    pub(crate) fn object(&mut self, key: &ObjectKey) {
        self.objects += 1;
        let done =
            self.partitions.partition_point(|partition| partition.begin_ms() < key.hour_ms());
        self.progress.at(done as u64, &format!("partitions, {}", counted(self.objects, "object")));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
