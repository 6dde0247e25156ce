//! Keys that are made, lost, brought back, replaced.
//!
//! Invariant: every test has a directory of its own.

use std::os::unix::fs::PermissionsExt;

use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::CallId;
use keyhaven_protocol::key_list::KeyList;
use keyhaven_protocol::money::NanoUsd;
use keyhaven_protocol::sealed::Charge;
use keyhaven_protocol::sealed::SealedFor;

use super::*;

#[test]
fn a_new_hub_has_private_files_and_loads_as_it_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a/hub");

    let made = HubKeys::init(&home, OfflineFiles::default()).unwrap();
    let loaded = HubKeys::load(&home, None).unwrap();

    assert_eq!(loaded.identity, made.identity);
    assert_eq!(loaded.verifying_key(), made.verifying_key());
    assert_eq!(loaded.tunnel_pin(), made.pins()[0]);
    assert!(!loaded.uses_backup_key());
    assert_eq!(mode_of(&home), 0o700);
    for name in [
        TUNNEL_KEY_FILE,
        BACKUP_KEY_FILE,
        SIGNING_KEY_FILE,
        SIGNING_LIST_FILE,
        ROOT_KEY_FILE,
        ARCHIVE_KEY_FILE,
        IDENTITY_FILE,
    ] {
        assert_eq!(mode_of(&home.join(name)), 0o600, "{name}");
    }
}

#[test]
fn of_many_that_make_a_hub_at_once_one_does_and_all_find_the_same() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("hub");

        let made = std::thread::scope(|threads| {
            let init = threads.spawn(|| HubKeys::init(&home, OfflineFiles::default()));
            // What `serve` does.
            let first = HubKeys::init_if_empty(&home).unwrap();
            assert!(HubKeys::load(&home, None).is_ok());
            [init.join().unwrap().ok(), first]
        });

        let [made] = made.into_iter().flatten().collect::<Vec<_>>().try_into().unwrap();
        let loaded = HubKeys::load(&home, None).unwrap();
        assert_eq!(loaded.identity, made.identity);
        assert_eq!(loaded.verifying_key(), made.verifying_key());
    }
}

#[test]
fn two_hubs_share_nothing() {
    let dir = tempfile::tempdir().unwrap();

    let one = HubKeys::init(&dir.path().join("one"), OfflineFiles::default()).unwrap();
    let two = HubKeys::init(&dir.path().join("two"), OfflineFiles::default()).unwrap();

    assert_ne!(one.fleet(), two.fleet());
    assert_ne!(one.verifying_key(), two.verifying_key());
    assert!(one.pins().iter().all(|pin| !two.pins().contains(pin)));
    assert_ne!(one.pins()[0], one.pins()[1]);
}

#[test]
fn the_backup_key_brought_back_is_accepted_and_a_foreign_key_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("hub");
    let backup = dir.path().join("safe.key");
    let made = HubKeys::init(&home, OfflineFiles { backup: Some(&backup), root: None }).unwrap();
    HubKeys::init(&dir.path().join("other"), OfflineFiles::default()).unwrap();
    let foreign = dir.path().join("other").join(TUNNEL_KEY_FILE);

    let loaded = HubKeys::load(&home, Some(&backup)).unwrap();
    let refused = HubKeys::load(&home, Some(&foreign)).unwrap_err();

    assert!(!home.join(BACKUP_KEY_FILE).exists());
    assert_eq!(mode_of(&backup), 0o600);
    assert!(loaded.uses_backup_key());
    assert_eq!(loaded.tunnel_pin(), made.pins()[1]);
    assert!(matches!(refused, KeysError::NotPinned { .. }));
    assert_eq!(Failure::from(refused).code(), ErrorCode::PinMismatch);
}

#[test]
fn a_second_init_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let made = HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();

    let again = HubKeys::init(dir.path(), OfflineFiles::default());

    assert!(matches!(again, Err(KeysError::Exists { .. })));
    assert_eq!(HubKeys::load(dir.path(), None).unwrap().identity, made.identity);
}

#[test]
fn a_hub_that_lost_its_identity_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();
    std::fs::remove_file(dir.path().join(IDENTITY_FILE)).unwrap();
    let key_before = std::fs::read(dir.path().join(TUNNEL_KEY_FILE)).unwrap();

    let init = HubKeys::init(dir.path(), OfflineFiles::default());
    let load = HubKeys::load(dir.path(), None);

    assert!(matches!(init, Err(KeysError::Incomplete { .. })));
    assert!(matches!(load, Err(KeysError::Incomplete { .. })));
    let key_after = std::fs::read(dir.path().join(TUNNEL_KEY_FILE)).unwrap();
    assert_eq!(key_after, key_before);
}

#[test]
fn an_existing_file_is_never_taken_for_the_backup_key() {
    let dir = tempfile::tempdir().unwrap();
    let backup = dir.path().join("safe.key");
    std::fs::write(&backup, "somebody's key").unwrap();
    let home = dir.path().join("hub");

    let refused = HubKeys::init(&home, OfflineFiles { backup: Some(&backup), root: None });

    assert!(matches!(refused, Err(KeysError::OfflineExists { .. })));
    assert_eq!(std::fs::read(&backup).unwrap(), b"somebody's key");
    assert!(!HubKeys::exist_in(&home).unwrap());
}

#[test]
fn damaged_files_are_named_and_no_key_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    for name in [TUNNEL_KEY_FILE, SIGNING_KEY_FILE, SIGNING_LIST_FILE, ARCHIVE_KEY_FILE, IDENTITY_FILE] {
        let home = dir.path().join(name);
        HubKeys::init(&home, OfflineFiles::default()).unwrap();
        std::fs::write(home.join(name), "-----BEGIN PRIVATE KEY-----\nPLANTED\n").unwrap();

        let error = HubKeys::load(&home, None).unwrap_err();

        assert!(error.to_string().contains(name), "{error}");
        assert!(!format!("{error:?} {error}").contains("PLANTED"), "{error}");
    }
}

#[test]
fn debug_shows_pins_and_no_keys() {
    let dir = tempfile::tempdir().unwrap();
    let keys = HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();

    let shown = format!("{keys:?}");

    assert!(shown.contains(&keys.tunnel_pin().to_string()));
    for key in [keys.signing_key().to_bytes(), keys.verifying_key()] {
        assert!(!shown.contains(&format!("{key:?}")), "{shown}");
    }
    assert!(shown.len() < 600, "{shown}");
}

#[test]
fn an_empty_directory_holds_no_hub() {
    let dir = tempfile::tempdir().unwrap();

    assert!(!HubKeys::exist_in(dir.path()).unwrap());
    let load = HubKeys::load(dir.path(), None);
    assert!(matches!(load, Err(KeysError::NotInitialised { .. })));
}

fn mode_of(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_hub_signs_with_entry_0_of_a_list_that_its_root_signed() {
    let dir = tempfile::tempdir().unwrap();
    let (home, stick) = (dir.path().join("hub"), dir.path().join("root.key"));

    let keys = HubKeys::init(&home, OfflineFiles { root: Some(&stick), backup: None }).unwrap();

    assert_eq!((keys.signer().number(), mode_of(&stick)), (0, 0o600));
    assert!(!home.join(ROOT_KEY_FILE).exists());
    let list = KeyList::anchored(keys.fleet(), &keys.verifying_key(), keys.signer().list().entries()).unwrap();
    assert_eq!(list.key(0), Some(&keys.signing_key().verifying_key()));
    std::fs::remove_file(&stick).unwrap();
    assert!(HubKeys::load(&home, None).is_ok(), "a hub that runs needs no root");
}

#[test]
fn a_rotation_makes_the_next_entry_and_the_old_key_is_gone() {
    let (dir, made) = hub();
    let (home, root) = (dir.path(), dir.path().join(ROOT_KEY_FILE));

    for number in 1..=3 {
        let rotated = HubKeys::rotate(home, &root).unwrap();
        assert_eq!(rotated.number(), number);
    }

    let loaded = HubKeys::load(home, None).unwrap();
    assert_eq!((loaded.signer().number(), loaded.node()), (3, made.node()));
    assert_ne!(loaded.verifying_key(), made.verifying_key());
    let list = KeyList::anchored(made.fleet(), &made.verifying_key(), loaded.signer().list().entries()).unwrap();
    assert_eq!(list.newest(), 3, "who trusts the first key is led to the newest");
    assert!(!home.join("signing-next.key").exists());
}

#[test]
fn a_rotation_needs_this_fleets_root() {
    let (dir, made) = hub();
    let (other, _) = hub();

    let foreign = HubKeys::rotate(dir.path(), &other.path().join(ROOT_KEY_FILE)).unwrap_err();
    let own_key = HubKeys::rotate(dir.path(), &dir.path().join(SIGNING_KEY_FILE)).unwrap_err();
    let none = HubKeys::rotate(dir.path(), &dir.path().join("nowhere")).unwrap_err();

    assert!(matches!(foreign, KeysError::OtherRoot { .. }), "{foreign}");
    assert!(matches!(own_key, KeysError::OtherRoot { .. }), "{own_key}");
    assert!(matches!(none, KeysError::File { .. }), "{none}");
    assert_eq!(HubKeys::load(dir.path(), None).unwrap().verifying_key(), made.verifying_key());
}

/// As if the power failed after each of the steps, in their order.
#[test]
fn a_rotation_that_was_cut_off_has_happened_or_has_not() {
    let (dir, _) = hub();
    let home = dir.path();
    let file = |name: &str| std::fs::read(home.join(name)).unwrap();
    let old_key = file(SIGNING_KEY_FILE);
    let old_list = file(SIGNING_LIST_FILE);
    let rotated = HubKeys::rotate(home, &home.join(ROOT_KEY_FILE)).unwrap();
    let (new_key, new_list) = (file(SIGNING_KEY_FILE), file(SIGNING_LIST_FILE));
    let put = |name: &str, bytes: &[u8]| std::fs::write(home.join(name), bytes).unwrap();

    put("signing-next.key", &new_key);
    for (key, list, number) in
        [(&old_key, &old_list, 0), (&old_key, &new_list, 1), (&new_key, &new_list, rotated.number())]
    {
        put(SIGNING_KEY_FILE, key);
        put(SIGNING_LIST_FILE, list);
        assert_eq!(HubKeys::load(home, None).unwrap().signer().number(), number);
    }

    put(SIGNING_KEY_FILE, &old_key);
    let again = HubKeys::rotate(home, &home.join(ROOT_KEY_FILE)).unwrap();
    assert_eq!(again.number(), 2, "the entry that was in the list stays");
    put(SIGNING_KEY_FILE, &old_key);
    let lost = HubKeys::load(home, None).unwrap_err();
    assert!(matches!(lost, KeysError::NotNewest { newest: 2, .. }), "{lost}");
    assert_eq!(Failure::from(lost).code(), ErrorCode::SigningKeys);
}

#[test]
fn a_list_that_was_changed_is_no_list() {
    let (dir, _) = hub();
    let path = dir.path().join(SIGNING_LIST_FILE);
    HubKeys::rotate(dir.path(), &dir.path().join(ROOT_KEY_FILE)).unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    // The last bytes of the last entry are those of the signature by the key before.
    let at = whole.rfind('"').unwrap() - 1;
    let other = if &whole[at..=at] == "0" { "1" } else { "0" };
    std::fs::write(&path, format!("{}{other}{}", &whole[..at], &whole[at + 1..])).unwrap();

    let error = HubKeys::load(dir.path(), None).unwrap_err();

    assert!(matches!(error, KeysError::List { .. }), "{error}");
}

#[test]
fn what_the_archive_key_sealed_opens_after_a_restart_and_for_no_other_hub() {
    let (dir, made) = hub();
    let (_other, stranger) = hub();
    let at = SealedFor { fleet: made.fleet(), call: CallId([1; 16]), attempt: 1 };
    let charge = Charge { account: AccountId([2; 16]), amount: NanoUsd(7) };

    let sealed = made.archive_key().seal_charge(&charge, at, [3; 24]);

    let loaded = HubKeys::load(dir.path(), None).unwrap();
    assert_eq!(loaded.archive_key().open_charge(&sealed, at), Ok(charge));
    assert!(stranger.archive_key().open_charge(&sealed, at).is_err());
}

fn hub() -> (tempfile::TempDir, HubKeys) {
    let dir = tempfile::tempdir().unwrap();
    let made = HubKeys::init(dir.path(), OfflineFiles::default()).unwrap();
    (dir, made)
}
