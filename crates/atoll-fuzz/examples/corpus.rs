//! Writes the seeds and the corpus of every target into folders: `corpus FOLDER`. For libFuzzer.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder: PathBuf = std::env::args().nth(1).ok_or("usage: corpus FOLDER")?.into();
    for target in atoll_fuzz::targets() {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, input) in atoll_fuzz::corpus(&target)?.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:03}")), input)?;
        }
    }
    Ok(())
}
