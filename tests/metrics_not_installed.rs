//! The page for Prometheus without `#[global_allocator]`.

use std::io::ErrorKind;

/// Bug prevented: a page of zeros, and a graph that says all is well.
#[test]
fn nothing_is_written_and_the_error_shows_the_two_lines() {
    let mut page = Vec::new();
    let error = heapledger::metrics::write_prometheus(&mut page).expect_err("nothing is counted");
    assert!(page.is_empty());
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.to_string().contains("    #[global_allocator]\n"),
        "{error}"
    );
    let inside = error
        .get_ref()
        .and_then(|e| e.downcast_ref::<heapledger::Error>());
    assert!(inside.is_some_and(heapledger::Error::is_not_installed));
}
