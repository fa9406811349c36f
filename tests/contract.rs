//! The contract of `pool/mod.rs`, run over every kind of pool, on real filesystems, mounts and loop devices.
//!
//! Owns: the list of the promises, and of the grounds that they must hold on. `contract/suite.rs` says what each means,
//! `contract/ground.rs` makes the pools, reaches into volumes as a workload does, and cleans up.
#![allow(clippy::disallowed_methods, reason = "the tests make their own files and run programs")]
#![allow(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

#[path = "contract/ground.rs"]
mod ground;
#[path = "contract/suite.rs"]
mod suite;

/// Every promise on one ground. A ground that cannot be had says why, and the test counts as skipped.
macro_rules! contract {
    ($ground:expr) => {
        contract! { @ $ground =>
            create_is_idempotent
            create_twice_keeps_bytes
            a_new_volume_is_empty
            destroy_of_absent_is_ok
            destroy_removes_half_made
            a_retry_replaces_what_is_half_made
            forget_of_absent_is_ok_and_removes_half_made
            what_is_not_there_is_lost
            snapshot_outlives_its_volume
            a_snapshot_twice_is_one_cut
            clone_shares_no_writable_byte
            clone_outlives_its_source
            clone_larger_than_source_has_the_size
            restore_equals_the_cut
            content_comes_in_pieces_and_equals_the_cut
            what_has_come_stays_and_goes_with_its_volume
            grow_never_shrinks
            an_attached_device_grows
            sizes_are_exact
            reserved_space_is_taken
            sparse_space_is_not
            a_limited_directory_holds_no_more_than_its_size
            a_full_pool_says_full_and_leaves_nothing
            a_verb_that_fails_leaves_nothing
            scan_reports_exactly_what_is_there
            attach_is_idempotent_and_detach_frees
            a_readonly_block_refuses_writes
            deleted_data_is_not_readable_by_the_next_volume
            a_freeze_blocks_writes_and_thaws_on_drop
            a_cut_that_somebody_thawed_does_not_count
            a_raw_block_in_use_cannot_be_frozen
            what_is_missing_is_refused_with_the_reason
            a_pool_that_is_not_mounted_fails_every_verb_and_writes_nothing_beneath
            another_disk_in_its_place_is_not_the_pool
            a_missing_object_is_data_loss
            an_object_carries_a_copy_of_its_record
            an_object_carries_what_it_is_given_later
            verbs_of_different_volumes_run_side_by_side
        }
    };
    (@ $ground:expr => $($promise:ident)*) => {
        $(
            #[test]
            fn $promise() {
                if let Some(ground) = $ground {
                    crate::suite::$promise(&ground);
                }
            }
        )*
    };
}

mod sim {
    contract!(crate::ground::sim());
}

mod image_ext4 {
    contract!(crate::ground::image_ext4());
}

mod image_xfs {
    contract!(crate::ground::image_xfs());
}

mod image_block {
    contract!(crate::ground::image_block());
}

mod image_without_reflink {
    contract!(crate::ground::image_without_reflink());
}

mod directory_without_quota {
    contract!(crate::ground::directory_without_quota());
}

mod directory_with_quota {
    contract!(crate::ground::directory_with_quota());
}
