//! Power cuts: bytes, lengths and names, each on its own.

use std::collections::BTreeSet;

use super::*;

#[test]
fn what_was_synced_survives_and_the_rest_may_not() {
    let (disk, file) = disk_with(A, b"old");
    put(&file, 0, b"new and longer");
    assert_eq!(left(&disk, CrashChoice::Nothing, A).expect("there"), b"old");
    assert_eq!(left(&disk, CrashChoice::Everything, A).expect("there"), b"new and longer");
    file.sync_data().expect("synced");
    assert_eq!(left(&disk, CrashChoice::Nothing, A).expect("there"), b"new and longer");
}

#[test]
fn a_file_sync_keeps_no_name_and_a_directory_sync_keeps_no_byte() {
    let disk = SimDisk::new(1);
    let file = new_file(&disk, A);
    put(&file, 0, b"bytes");
    file.sync_data().expect("synced");
    assert_eq!(left(&disk, CrashChoice::Nothing, A), None);

    let named = disk.crash(CrashChoice::Everything);
    new_file(&named, B);
    put(&named.open(A, How::ReadWrite).expect("there"), 0, b"other");
    named.sync_dir().expect("synced");
    let found = named.crash(CrashChoice::Nothing);
    assert_eq!(found.files(), [(A, 5), (B, 0)]);
    assert_eq!(found.contents(A).expect("there"), b"bytes");
}

#[test]
fn a_sector_takes_any_of_its_versions_whatever_the_others_take() {
    let (disk, file) = disk_with(A, &sectors(&[0, 0]));
    put(&file, 0, &sectors(&[1, 1]));
    put(&file, 0, &sectors(&[2, 2]));
    assert_eq!(disk.pending_units(), 4);
    let outcome = |choice| sector_values(&left(&disk, choice, A).expect("there"));
    let found: BTreeSet<_> = subsets(&disk).into_iter().map(outcome).collect();
    let expected = (0..3).flat_map(|one| (0..3).map(move |two| vec![one, two])).collect();
    assert_eq!(found, expected);
    let random = |seed| outcome(CrashChoice::Random { seed, garbage: false });
    assert_eq!((0..2000).map(random).collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_later_version_of_a_sector_holds_the_earlier_bytes_too() {
    let (disk, file) = disk_with(A, &[0; 8]);
    put(&file, 0, b"ab");
    put(&file, 4, b"cd");
    assert_eq!(left(&disk, CrashChoice::only(1), A).expect("there"), b"ab\0\0cd\0\0");
    assert_eq!(left(&disk, CrashChoice::only(0), A).expect("there"), b"ab\0\0\0\0\0\0");
}

#[test]
fn length_and_bytes_survive_on_their_own() {
    let (disk, file) = disk_with(A, b"");
    put(&file, 0, b"new");
    assert_eq!(disk.pending_units(), 2);
    assert_eq!(left(&disk, CrashChoice::only(1), A).expect("there"), b"\0\0\0");
    let invisible = disk.crash(CrashChoice::only(0));
    assert_eq!(invisible.contents(A).expect("there"), b"");
    let file = invisible.open(A, How::ReadWrite).expect("there");
    file.set_len(3).expect("extended");
    assert_eq!(invisible.contents(A).expect("there"), b"\0\0\0", "invisible for ever");
}

#[test]
fn a_lost_cut_brings_the_old_bytes_back() {
    let (disk, file) = disk_with(A, &[7; 6000]);
    file.set_len(2).expect("cut");
    file.set_len(4).expect("extended");
    assert_eq!(disk.contents(A).expect("there"), [7, 7, 0, 0]);
    let outcome = |choice| left(&disk, choice, A).expect("there");
    assert_eq!(outcome(CrashChoice::Nothing), [7; 6000]);
    assert_eq!(outcome(CrashChoice::only(0)), [7; 2]);
    assert_eq!(outcome(CrashChoice::only(1)), [7; 4]);
    assert_eq!(outcome(CrashChoice::prefix(2)), [7, 7, 0, 0]);
    assert_eq!(outcome(CrashChoice::Everything), [7, 7, 0, 0]);
    file.sync_data().expect("synced");
    assert_eq!(outcome(CrashChoice::Nothing), [7, 7, 0, 0]);
}

#[test]
fn zeroing_a_hole_is_no_unit_and_zeroing_bytes_is() {
    let (disk, file) = disk_with(A, &[7; 5000]);
    file.zero(1 << 20, 1 << 20).expect("zeroed");
    assert_eq!(disk.pending_units(), 1, "the length alone");
    file.zero(4096, 512).expect("zeroed");
    assert_eq!(disk.pending_units(), 2);
    let kept = left(&disk, CrashChoice::only(1), A).expect("there");
    assert!(kept[..4096].iter().all(|b| *b == 7));
    assert_eq!(kept[4096..], [[0; 512].as_slice(), &[7; 5000 - 4096 - 512]].concat());
    let longer = left(&disk, CrashChoice::only(0), A).expect("there");
    assert_eq!(longer.len(), 2 << 20);
    assert!(longer[5000..].iter().all(|b| *b == 0));
}

#[test]
fn garbage_is_found_only_where_something_was_pending() {
    let (disk, file) = disk_with(A, &sectors(&[1, 2, 3, 4]));
    put(&file, 600, &[9; 300]);
    file.zero(8 * 4096, 16 * 4096).expect("zeroed");
    let [mut random, mut torn, mut stale] = [0; 3];
    for seed in 0..2000 {
        let found = left(&disk, CrashChoice::Random { seed, garbage: true }, A).expect("there");
        assert_eq!(sector_values(&found[..2048])[0], 1);
        assert_eq!(found[1024..2048], sectors(&[3, 4]));
        let sector = &found[512..1024];
        let is_old_or_new = |(i, b): (usize, &u8)| *b == 2 || *b == 9 && (88..388).contains(&i);
        let new_count = sector.iter().filter(|b| **b == 9).count();
        if !sector.iter().enumerate().all(is_old_or_new) {
            random += 1;
        } else if new_count > 0 && new_count < 300 {
            torn += 1;
        }
        stale += u32::from(found[2048..].iter().any(|b| *b != 0));
        let clean = left(&disk, CrashChoice::Random { seed, garbage: false }, A).expect("there");
        let sector = &clean[512..1024];
        assert!(sector.iter().enumerate().all(is_old_or_new));
        assert!([0, 300].contains(&sector.iter().filter(|b| **b == 9).count()));
        assert!(clean[2048..].iter().all(|b| *b == 0));
    }
    assert!(random > 20 && torn > 20 && stale > 20, "{random} {torn} {stale}");
}

#[test]
fn a_seed_names_one_outcome() {
    let (disk, file) = disk_with(A, &sectors(&[0; 400]));
    put(&file, 0, &sectors(&[1; 400]));
    new_file(&disk, B);
    let outcome = |seed, garbage| {
        let found = disk.crash(CrashChoice::Random { seed, garbage });
        (found.files(), found.contents(A))
    };
    let outcomes: BTreeSet<_> = (0..50).map(|seed| outcome(seed, true)).collect();
    assert!(outcomes.len() > 20);
    assert!((0..50).all(|seed| outcomes.contains(&outcome(seed, true))));
    let whole = |seed| outcome(seed, false).1 == Some(sectors(&[1; 400]));
    assert!((0..50).any(whole), "a large write survives now and then");
}

/// The sets of names that are found after a cut, over many seeds.
fn name_outcomes(disk: &SimDisk, profile: Profile) -> BTreeSet<Vec<FileName>> {
    disk.set_profile(profile);
    let names = |found: SimDisk| found.files().into_iter().map(|(name, _)| name).collect();
    let random = |seed| CrashChoice::Random { seed, garbage: false };
    let by_seed: BTreeSet<_> = (0..500).map(|seed| names(disk.crash(random(seed)))).collect();
    let by_subset = subsets(disk).into_iter().map(|choice| names(disk.crash(choice))).collect();
    assert_eq!(by_seed, by_subset, "{profile:?}");
    by_seed
}

#[test]
fn names_survive_in_order_or_in_any_combination() {
    let (disk, _) = disk_with(A, b"");
    new_file(&disk, B);
    disk.remove(A).expect("removed");
    let prefixes = [vec![A], vec![A, B], vec![B]];
    assert_eq!(name_outcomes(&disk, Profile::Journaled), BTreeSet::from(prefixes.clone()));
    let mut subsets = BTreeSet::from(prefixes);
    subsets.insert(vec![]);
    assert_eq!(name_outcomes(&disk, Profile::Posix), subsets);
}

#[test]
fn a_rename_is_atomic_unless_the_disk_is_paranoid() {
    let (disk, _) = disk_with(A, b"");
    disk.rename(A, B).expect("renamed");
    let atomic = BTreeSet::from([vec![A], vec![B]]);
    assert_eq!(name_outcomes(&disk, Profile::Journaled), atomic);
    assert_eq!(name_outcomes(&disk, Profile::Posix), atomic);
    let torn = BTreeSet::from([vec![A], vec![B], vec![A, B], vec![]]);
    assert_eq!(name_outcomes(&disk, Profile::Paranoid), torn);
}

#[test]
fn a_replaced_file_is_old_or_new_and_its_bytes_need_their_own_sync() {
    let (disk, _) = disk_with(FileName::Meta, b"old");
    let temporary = new_file(&disk, FileName::Temporary(1));
    put(&temporary, 0, b"new");
    let unsynced = disk.freeze();
    temporary.sync_data().expect("synced");
    for disk in [&disk, &unsynced] {
        disk.rename(FileName::Temporary(1), FileName::Meta).expect("renamed");
        disk.sync_dir().expect("synced");
    }
    assert_eq!(left(&disk, CrashChoice::Nothing, FileName::Meta).expect("there"), b"new");
    assert_eq!(left(&unsynced, CrashChoice::Nothing, FileName::Meta).expect("there"), b"");
}

#[test]
fn a_lost_rename_onto_a_file_leaves_the_old_one() {
    let (disk, _) = disk_with(FileName::Meta, b"old");
    let temporary = new_file(&disk, FileName::Temporary(1));
    put(&temporary, 0, b"new");
    temporary.sync_data().expect("synced");
    disk.rename(FileName::Temporary(1), FileName::Meta).expect("renamed");
    let outcome = |choice| left(&disk, choice, FileName::Meta).expect("never missing");
    let found: BTreeSet<_> = subsets(&disk).into_iter().map(outcome).collect();
    assert_eq!(found, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
}

#[test]
fn a_name_is_taken_only_from_the_file_that_it_was_taken_from() {
    let (disk, _) = disk_with(A, b"first");
    disk.copy_file(A, FileName::Temporary(1));
    disk.overwrite(FileName::Temporary(1), 0, b"other");
    disk.rename(A, A).expect("nothing to do");
    assert_eq!(disk.pending_units(), 0);
    disk.rename(A, B).expect("renamed");
    disk.rename(FileName::Temporary(1), A).expect("renamed");
    disk.remove(A).expect("removed");
    let found = disk.crash(CrashChoice::only(2));
    assert_eq!(found.files(), [(A, 5), (FileName::Temporary(1), 5)]);
    assert_eq!(found.contents(A).expect("there"), b"first");
}

#[test]
fn a_lost_remove_brings_the_synced_bytes_back() {
    let (disk, file) = disk_with(A, b"old");
    put(&file, 0, b"new");
    drop(file);
    disk.remove(A).expect("removed");
    new_file(&disk, A);
    assert_eq!(left(&disk, CrashChoice::Nothing, A).expect("back"), b"old");
    assert_eq!(left(&disk, CrashChoice::only(0), A).expect("back"), b"new");
    disk.sync_dir().expect("synced");
    assert_eq!(left(&disk, CrashChoice::Nothing, A).expect("the second"), b"");
}

#[test]
fn the_choices_worth_trying_cover_few_units_completely_and_many_one_by_one() {
    let distinct = |count| {
        let choices: Vec<_> = CrashChoice::all(count, 9).collect();
        let mut seen = Vec::new();
        for choice in &choices {
            assert!(!seen.contains(choice), "{choice:?} twice");
            seen.push(choice.clone());
        }
        choices
    };
    assert_eq!(distinct(0), [CrashChoice::Keep(UnitSet::default())]);
    assert_eq!(distinct(3).len(), 8 + 14);
    let many = CrashChoice::all(70, 9).collect::<Vec<_>>();
    assert_eq!(many.len(), 2 + 70 + 70 + 69 + 14);
    for choice in [
        CrashChoice::Nothing,
        CrashChoice::Everything,
        CrashChoice::only(69),
        CrashChoice::all_but(0, 70),
        CrashChoice::prefix(65),
        CrashChoice::Random { seed: 10, garbage: true },
    ] {
        assert!(many.contains(&choice), "{choice:?}");
    }
    let set: UnitSet = [0, 64, 69].into_iter().collect();
    assert!(set.contains(69) && set.contains(0) && !set.contains(63) && !set.contains(1000));
}
