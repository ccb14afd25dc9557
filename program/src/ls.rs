//! `ls`: lists the blocks of a store, or the files that `import` packed into it.

use std::io::Write;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use aegis_blocks::{BlockId, Error, LocalBackend, StorageBackend, StorageExt};

use crate::catalog::Catalog;
use crate::entry::{Content, Entry, printable};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::{interrupt, output, store};

/// List blocks (id, type, length) or imported files.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the store
    store: PathBuf,
    /// List the files that `import` packed: mode, length, path
    #[arg(long, conflicts_with_all = ["from", "to"])]
    files: bool,
    /// First id to list
    #[arg(long, value_name = "ID", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// Last id to list
    #[arg(long, value_name = "ID", default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,
}

/// Runs the command.
pub fn run(args: &Args) -> Outcome {
    let damaged = store::with_store(store::open_to_read(&args.store)?, |store| {
        output::print(|out| {
            if args.files {
                list_files(out, store)
            } else {
                list_blocks(out, store, args.from..=args.to)
            }
        })
    })?;
    if damaged > 0 {
        return Err(Failure::new(format!("{damaged} blocks could not be listed")));
    }
    Ok(Exit::Done)
}

/// Returns how many blocks are damaged; they are named and passed over.
fn list_blocks(
    out: &mut dyn Write,
    store: &LocalBackend,
    range: RangeInclusive<u64>,
) -> Result<u64, Failure> {
    let mut damaged = 0;
    for id in store.ids_in(BlockId(*range.start())..=BlockId(*range.end()))? {
        let id = id?;
        interrupt::check_not_stopped("the list is not complete")?;
        match store.read_block(id) {
            Ok(block) => {
                let name = store::type_name(block.header.block_type);
                writeln!(out, "{id:>12}  {name:<16}  {:>10}", block.header.data_size)?;
            }
            Err(error @ Error::Corrupt { .. }) => {
                output::warn(format_args!("block {id}: {error}"));
                damaged += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(damaged)
}

fn list_files(out: &mut dyn Write, store: &LocalBackend) -> Result<u64, Failure> {
    let catalog = Catalog::scan(store)?;
    for (_, stored) in catalog.newest() {
        let entry = &stored.entry;
        write!(
            out,
            "{} {:>12}  {}",
            format_mode(entry),
            entry.content.len(),
            printable(&entry.path)
        )?;
        if let Content::Symlink { target } = &entry.content {
            write!(out, " -> {}", printable(target))?;
        }
        writeln!(out)?;
    }
    catalog.report_malformed();
    Ok(catalog.malformed.len() as u64)
}

/// The mode as `ls -l` writes it, without the special bits.
fn format_mode(entry: &Entry) -> String {
    let kind = match entry.content {
        Content::File { .. } => '-',
        Content::Directory => 'd',
        Content::Symlink { .. } => 'l',
    };
    let bits = (0..9).map(|i| {
        let set = entry.mode & (0o400 >> i) != 0;
        if set { ['r', 'w', 'x'][i % 3] } else { '-' }
    });
    std::iter::once(kind).chain(bits).collect()
}
