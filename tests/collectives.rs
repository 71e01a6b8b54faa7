//! Collective operations, among processes that mpirun starts.

use tandem_tests::{expect_code, mpirun};

#[test]
fn mpi_conforms_at_1_to_4_ranks() {
    for ranks in 1..=4 {
        let output = expect_code(mpirun(ranks).arg("conformance"), 0);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, format!("mpi conforms with {ranks} ranks\n"));
    }
}
