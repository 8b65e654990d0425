//! Runs the `audit` command on buckets that the real sink wrote. One binary, so that it is linked
//! once; modules are named for what they prove.

mod changing_buckets_are_read;
mod commands_end_as_documented;
mod desk_answers_its_page;
mod doctor_names_what_is_wrong;
mod documents_say_what_is_so;
mod evidence;
mod hostile_buckets_are_read;
mod hostile_buckets_are_served;
mod hostile_keys_stop_nothing;
mod invalid_lines_are_damage;
mod journals_are_read_and_delivered;
mod limits_are_told_in_one_form;
mod log_streams_are_tested;
mod missed_records_are_replayed;
mod omissions_are_reported;
mod outcomes_are_joined;
mod readers_may_pause;
mod reads_are_bounded_by_the_request;
mod receiver;
mod records_are_compacted;
mod records_are_printed;
mod records_are_searched;
mod routes_are_rescued;
mod stats_find_what_is_wrong;
mod support;
mod tail_follows;
mod terminals_obey_nothing_foreign;
mod wrong_files_are_refused;
