#![no_main]
aegis_blocks_fuzz::fuzz!("op_table");
