//! The shim as a program of its own, for this crate's tests.

fn main() {
    let mut args = std::env::args_os();
    if args.next().is_some_and(|program| program == atoll_container::PAUSE_PROGRAM) {
        std::process::exit(atoll_container::pause_main());
    }
    if args.next().is_none_or(|word| word != "shim") {
        std::process::exit(2);
    }
    std::process::exit(atoll_container::shim_main(args));
}
