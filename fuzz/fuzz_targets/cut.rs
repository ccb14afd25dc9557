#![no_main]
aegis_blocks_fuzz::fuzz!("cut");
