//! The register histories in the unit tests of Porcupine (anishathalye/porcupine,
//! `porcupine_test.go`: `TestRegisterModel`, `TestZeroDuration`), with its verdicts.

use super::register::{Line, read, write};
use super::*;

/// Claim: the checker agrees with Porcupine.
/// Method: its four histories; times are those of the file.
#[test]
fn verdicts_are_those_of_porcupine() {
    let histories: [(&[Line], bool); 4] = [
        (
            &[write(100, 0, 100), read(100, 25, 75), read(0, 30, 60)],
            true,
        ),
        (
            &[write(200, 0, 100), read(200, 10, 30), read(0, 40, 90)],
            false,
        ),
        (
            &[
                write(100, 0, 100),
                read(100, 25, 75),
                read(0, 30, 30),
                read(0, 30, 30),
            ],
            true,
        ),
        (
            &[
                write(200, 0, 100),
                read(200, 10, 10),
                read(200, 10, 10),
                read(0, 40, 90),
            ],
            false,
        ),
    ];
    for (lines, is_right) in histories {
        let verdict = check(&history::<Register>(lines.to_vec()), &Register, STEPS);
        assert_eq!(verdict.is_linearizable(), is_right, "{lines:?}: {verdict}");
    }
}
