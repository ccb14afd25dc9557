#![no_main]
aegis_blocks_fuzz::fuzz!("file_name");
