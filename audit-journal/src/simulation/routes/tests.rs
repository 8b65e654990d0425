use super::variants::Variant;
use super::{Figures, many, run, scenarios};
use crate::simulation::each_seed;

#[test]
fn each_record_reaches_its_own_bucket_once() {
    let figures =
        each_seed("-p audit-journal --lib simulation::routes::tests::each", 300, |seed| {
            run(seed, Variant::AsItIs)
        });
    let seeds = figures.len() as u64;
    let mut all = Figures::default();
    for figures in figures {
        all.acknowledged += figures.acknowledged;
        all.routes += figures.routes;
        all.retired += figures.retired;
        all.panics += figures.panics;
        all.followed += figures.followed;
        all.missing += figures.missing;
        all.sealed += figures.sealed;
        all.closed += figures.closed;
        all.trace ^= figures.trace;
    }
    println!("{seeds} seeds: {all:?}");
    let much = all.acknowledged > seeds && all.routes > seeds && all.retired * 10 > seeds;
    let much = much && all.followed > seeds && all.missing * 10 > seeds;
    let much = much && all.sealed > seeds && all.closed * 2 > seeds;
    assert!(seeds < 100 || much, "a simulation in which little happens shows little: {all:?}");
}

/// Longer runs than the gate's found these seeds.
#[test]
fn seeds_that_once_failed_pass() {
    for seed in [76_029, 90_648, 213_818, 230_254, 411_446, 989_632] {
        run(seed, Variant::AsItIs).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
}

#[test]
fn seeds_repeat() {
    for seed in 0..30 {
        let [once, twice] = [(); 2].map(|()| run(seed, Variant::AsItIs).unwrap());
        assert_eq!(once, twice, "seed {seed}");
    }
}

#[test]
fn bad_routes_are_caught() {
    for variant in Variant::BAD {
        let caught = (0..3_000).find_map(|seed| Some((seed, run(seed, variant).err()?)));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{variant:?} is not caught"));
        println!("{variant:?}: seed {seed}: {what}");
    }
    for variant in [Variant::CountsNoShares, Variant::KeepsSegments] {
        let caught = scenarios::a_dead_route(variant);
        println!("{variant:?}: {}", caught.expect_err("a bad variant is caught"));
    }
    for variant in [Variant::CountsNoShares, Variant::ChargesAnother] {
        let caught = many::a_tenth_is_dead(1, variant);
        println!("{variant:?}: {}", caught.expect_err("a bad variant is caught"));
    }
    let blocks = scenarios::a_dead_follower(Variant::BlocksForFollowers);
    println!("BlocksForFollowers: {}", blocks.expect_err("a bad variant is caught"));
}

#[test]
fn a_dead_follower_does_not_affect_others() {
    scenarios::a_dead_follower(Variant::AsItIs).unwrap();
}

#[test]
fn a_dead_route_does_not_affect_others() {
    scenarios::a_dead_route(Variant::AsItIs).unwrap();
}

#[test]
fn a_hundred_dead_routes_do_not_affect_nine_hundred_others() {
    many::a_tenth_is_dead(1, Variant::AsItIs).unwrap();
}

#[test]
fn a_dead_default_route_is_nobody_elses_trouble() {
    scenarios::a_dead_default_route().unwrap();
}

#[test]
fn a_route_that_closes_early_closes_its_streams() {
    scenarios::a_route_that_closes_early().unwrap();
}

#[test]
fn a_stream_that_cannot_begin_leaves_nothing() {
    scenarios::a_stream_that_cannot_begin().unwrap();
}
