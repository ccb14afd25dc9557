#![no_main]
aegis_blocks_fuzz::fuzz!("frame_header");
