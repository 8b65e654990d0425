use super::super::destination::Own;

#[test]
fn acknowledged_records_arrive_once() {
    let test = "-p audit-journal --lib simulation::delivery::tests::acknowledged";
    super::acknowledged_records_arrive_once::<Own>(test);
}

#[test]
fn seeds_repeat() {
    super::seeds_repeat::<Own>();
}

#[test]
fn bad_deliveries_are_caught() {
    super::bad_deliveries_are_caught::<Own>();
}

#[tokio::test(start_paused = true)]
async fn a_day_without_the_destination_costs_disk_alone() {
    super::a_day_without_the_destination::<Own>().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_away_is_paused_and_delays_nothing() {
    super::a_day_without_a_follower::<Own>().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_gets_room_from_what_is_delivered() {
    super::a_disk_without_room::<Own>().await;
}

#[tokio::test(start_paused = true)]
async fn refusals_that_end_need_no_restart() {
    super::refusals_that_end::<Own>().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_may_jump_backwards() {
    super::clock_jumps_backwards::<Own>().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_written_is_not_unknown() {
    super::unwritten_is_known::<Own>().await;
}
